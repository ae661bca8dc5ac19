use core::fmt;

use thiserror::Error;

use super::key_name::KeyName;
use super::kind::Kind;
use crate::error::UnitError;

/// Why a file was not imported, in a line for whoever gave it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ImportError {
    /// A passphrase that is to cost more than anybody needs.
    #[error(
        "the file wants more work for its passphrase than is done here; write it anew first: openssl pkey -provider legacy -provider default -in FILE -out NEW, or for PKCS#12: openssl pkcs12 -legacy -in FILE -nodes -out NEW"
    )]
    Costly,
    /// An EC key without the name of its curve.
    #[error(
        "the EC key in the file does not say which curve it is on; export it again: openssl pkey -in FILE -out NEW"
    )]
    CurveMissing,
    /// PEM or DER that is cut off or garbled.
    #[error("the key file is cut off or garbled: its {0} cannot be read")]
    Damaged(Form),
    /// A private key under a passphrase.
    #[error(
        "the private key in the file is encrypted; give its passphrase with --passphrase-file FILE or --passphrase-fd NUMBER"
    )]
    Encrypted,
    /// A private key under a passphrase, in a way that is not supported.
    #[error(
        "the private key in the file is encrypted with {0}, which is not supported; decrypt it first: openssl pkey -provider legacy -provider default -in FILE -out NEW, or for PKCS#12: openssl pkcs12 -legacy -in FILE -nodes -out NEW"
    )]
    Encryption(String),
    /// An EC key with the numbers of its curve instead of the name.
    #[error(
        "the EC key in the file spells out its curve; name it first: openssl pkey -in FILE -ec_param_enc named_curve -out NEW"
    )]
    ExplicitCurve,
    /// A private key whose parts the crypto library refuses.
    #[error("the private key in the file is not sound: its parts do not belong together")]
    Inconsistent,
    /// A private key in PEM under a label of its own, and in a form of its own.
    #[error(
        "the file has a private key under the label {0:?}, in a form that is not known here; export it as PKCS#8 from what made it (-----BEGIN PRIVATE KEY-----)"
    )]
    Label(String),
    /// Certificates, public keys and the like, named by the text.
    #[error("the file holds {0}, not a private key")]
    NotPrivateKey(&'static str),
    /// A key of OpenSSH under a passphrase.
    #[error(
        "the private key in the file is encrypted, in the format of OpenSSH; take its passphrase away in a copy first: ssh-keygen -p -N '' -f COPY"
    )]
    OpenSshEncrypted,
    /// Something else that keys are kept in.
    #[error("the file is {0}")]
    Other(Kind),
    /// A passphrase that is wrong.
    #[error("the passphrase does not fit the file, or the file is damaged")]
    Passphrase,
    /// A PKCS#12 archive that is not as the standard has it.
    #[error(
        "the PKCS#12 archive cannot be read; take the key out with another program: openssl pkcs12 -legacy -in FILE -nodes -out NEW"
    )]
    Pkcs12,
    /// An RSA key that is bound to RSASSA-PSS in a way of its own.
    #[error(
        "the RSA key in the file is restricted to RSASSA-PSS with parameters that are not supported: SHA-256, SHA-384 or SHA-512 for both hash and mask, and a salt that is as long, are"
    )]
    PssParameters,
    /// A Keyward reference.
    #[error("the file is a Keyward reference: it holds no private key, the daemon that made it does")]
    Reference,
    /// An RSA key with a public exponent of so many bits.
    #[error(
        "the RSA key in the file has a public exponent of {0} bits: up to 33 are supported, and 65537 is usual; have another key made: keyward key generate"
    )]
    RsaExponent(usize),
    /// An RSA key of more than two primes.
    #[error(
        "the RSA key in the file has more than two primes, which is not supported; have another key made: keyward key generate"
    )]
    RsaPrimes,
    /// An RSA key without its primes.
    #[error("the RSA key in the file lacks its primes, or what follows from them; export it with them")]
    RsaPrimesMissing,
    /// An RSA key of so many bits.
    #[error("the RSA key in the file has {0} bits: 2048 to 8192 are supported")]
    RsaSize(usize),
    /// A key of ML-DSA without the seed that it is made of.
    #[error(
        "the ML-DSA key in the file has no seed in the form of RFC 9881; if it has one, export it again with OpenSSL 3.5: openssl pkey -in FILE -provparam ml-dsa.output_formats=seed-only -out NEW"
    )]
    SeedMissing,
    /// Several private keys, of which one has to be chosen.
    #[error("the file holds {0} private keys; give one of them alone")]
    Several(usize),
    /// More than a key file can have.
    #[error("the file is longer than a key file can be ({MAX_FILE} bytes)")]
    TooLong,
    /// The unit could not take the key in.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// Neither PEM nor DER, or DER of some other structure.
    #[error("the file is not a key file: neither PEM nor DER of a private key")]
    Unknown,
    /// A private key of another type.
    #[error(
        "the file holds {0}: supported are P-256, P-384, P-521, Ed25519, ML-DSA and RSA of 2048 to 8192 bits"
    )]
    Unsupported(KeyName),
}

/// How a file is written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Binary (X.690).
    Der,
    /// Text (RFC 7468).
    Pem,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Der => "DER",
            Self::Pem => "PEM",
        })
    }
}

/// Longest file, in bytes (64 KiB): a key of 8192 bits in PEM takes less than 7 KiB, certificates
/// may follow.
pub(super) const MAX_FILE: usize = 64 * 1024;
