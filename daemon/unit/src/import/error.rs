use core::fmt;

use thiserror::Error;

use super::key_name::KeyName;
use super::kind::Kind;
use crate::error::UnitError;

/// The reason why a file was not imported, in one line for the person who sent the file.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ImportError {
    /// The passphrase costs more work than is done here.
    #[error(
        "the passphrase of the file costs more work than is allowed here; decrypt the file first: openssl pkey -provider legacy -provider default -in FILE -out NEW, or for PKCS#12: openssl pkcs12 -legacy -in FILE -nodes -out NEW"
    )]
    Costly,
    /// The EC key does not name its curve.
    #[error(
        "the EC key in the file does not say which curve it is on; export it again: openssl pkey -in FILE -out NEW"
    )]
    CurveMissing,
    /// The PEM or DER is cut off or garbled.
    #[error("the key file is cut off or garbled: its {0} cannot be read")]
    Damaged(Form),
    /// The private key is under a passphrase.
    #[error(
        "the private key in the file is encrypted; give its passphrase with --passphrase-file FILE or --passphrase-fd NUMBER"
    )]
    Encrypted,
    /// The private key is under a passphrase, in a way that is not supported.
    #[error(
        "the private key in the file is encrypted with {0}, which is not supported; decrypt it first: openssl pkey -provider legacy -provider default -in FILE -out NEW, or for PKCS#12: openssl pkcs12 -legacy -in FILE -nodes -out NEW"
    )]
    Encryption(String),
    /// The EC key spells out its curve instead of naming it.
    #[error(
        "the EC key in the file spells out its curve; name it first: openssl pkey -in FILE -ec_param_enc named_curve -out NEW"
    )]
    ExplicitCurve,
    /// The crypto library refuses the parts of the private key.
    #[error("the private key in the file is not sound: its parts do not belong together")]
    Inconsistent,
    /// The private key has an unknown PEM label and an unknown form.
    #[error(
        "the file has a private key under the label {0:?}, in a form that is not known here; export it as PKCS#8 from what made it (-----BEGIN PRIVATE KEY-----)"
    )]
    Label(String),
    /// The file holds a certificate, a public key or the like, which the text names.
    #[error("the file holds {0}, not a private key")]
    NotPrivateKey(&'static str),
    /// The OpenSSH key is under a passphrase.
    #[error(
        "the private key in the file is encrypted, in the format of OpenSSH; take its passphrase away in a copy first: ssh-keygen -p -N '' -f COPY"
    )]
    OpenSshEncrypted,
    /// The file has a format that is not read here.
    #[error("the file is {0}")]
    Other(Kind),
    /// The passphrase is wrong.
    #[error("the passphrase does not fit the file, or the file is damaged")]
    Passphrase,
    /// The PKCS#12 archive does not follow the standard.
    #[error(
        "the PKCS#12 archive cannot be read; take the key out with another program: openssl pkcs12 -legacy -in FILE -nodes -out NEW"
    )]
    Pkcs12,
    /// The RSA key is bound to unsupported parameters of RSASSA-PSS.
    #[error(
        "the RSA key in the file is restricted to RSASSA-PSS with parameters that are not supported: SHA-256, SHA-384 or SHA-512 for both hash and mask, and a salt that is as long, are"
    )]
    PssParameters,
    /// The file is a Keyward reference.
    #[error("the file is a Keyward reference: it holds no private key, the daemon that made it does")]
    Reference,
    /// The RSA key has a public exponent of this many bits.
    #[error(
        "the RSA key in the file has a public exponent of {0} bits: up to 33 are supported, and 65537 is usual; make another key: keyward key generate LABEL --type TYPE"
    )]
    RsaExponent(usize),
    /// The RSA key has more than two primes.
    #[error(
        "the RSA key in the file has more than two primes, which is not supported; make another key: keyward key generate LABEL --type TYPE"
    )]
    RsaPrimes,
    /// The RSA key lacks its primes.
    #[error("the RSA key in the file lacks its primes, or what follows from them; export it with them")]
    RsaPrimesMissing,
    /// The RSA key has this many bits.
    #[error("the RSA key in the file has {0} bits: 2048 to 8192 are supported")]
    RsaSize(usize),
    /// The ML-DSA key lacks its seed.
    #[error(
        "the ML-DSA key in the file has no seed in the form of RFC 9881; if it has one, export it again with OpenSSL 3.5: openssl pkey -in FILE -provparam ml-dsa.output_formats=seed-only -out NEW"
    )]
    SeedMissing,
    /// The file holds several private keys, and one of them must be chosen.
    #[error("the file holds {0} private keys; give one of them alone")]
    Several(usize),
    /// The file is longer than a key file can be.
    #[error("the file is longer than a key file can be ({MAX_FILE} bytes)")]
    TooLong,
    /// The unit refused the key.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The file is neither PEM nor DER, or DER of some other structure.
    #[error("the file is not a key file: neither PEM nor DER of a private key")]
    Unknown,
    /// The private key has an unsupported type.
    #[error(
        "the file holds {0}: supported are P-256, P-384, P-521, Ed25519, ML-DSA and RSA of 2048 to 8192 bits"
    )]
    Unsupported(KeyName),
}

/// The encoding of a file.
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

/// Longest file, in bytes (64 KiB). A key of 8192 bits in PEM takes less than 7 KiB; certificates
/// may follow.
pub(super) const MAX_FILE: usize = 64 * 1024;
