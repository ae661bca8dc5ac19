use core::fmt;

use der::asn1::{AnyRef, ObjectIdentifier, UintRef};
use der::{Decode, Reader, SliceReader, Tag, TagNumber, Tagged};
use keyward_proto::{Reference, pem};
use thiserror::Error;

use crate::UnitError;
use crate::key::{Algorithm, Key, Unsupported};

/// Reads the private key of a file.
pub(crate) fn read(file: &[u8]) -> Result<Key, ImportError> {
    if file.len() > MAX_FILE {
        return Err(ImportError::TooLong);
    }
    if let Ok(fields) = fields(file) {
        return read_der(file, &fields, Form::Der);
    }
    // Only now, for what looks like the start of a PEM block may well stand inside a DER certificate.
    if file.windows(PEM_START.len()).any(|window| window == PEM_START) {
        return read_pem(file);
    }
    Err(if file.first() == Some(&DER_START) { ImportError::Damaged(Form::Der) } else { ImportError::Unknown })
}

/// Takes the first private key. What else was found is told only if there is none.
fn read_pem(file: &[u8]) -> Result<Key, ImportError> {
    let mut instead = None;
    for block in pem::blocks(file) {
        let found = match block.label() {
            b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" | b"DSA PRIVATE KEY" => {
                if block.header("Proc-Type").is_some() {
                    return Err(ImportError::Encrypted(Form::Pem));
                }
                let damaged = ImportError::Damaged(Form::Pem);
                let der = block.decode().ok_or_else(|| damaged.clone())?;
                let fields = fields(&der).map_err(|_| damaged)?;
                return read_der(&der, &fields, Form::Pem);
            }
            b"ENCRYPTED PRIVATE KEY" => return Err(ImportError::Encrypted(Form::Pem)),
            b"OPENSSH PRIVATE KEY" => return Err(ImportError::OpenSsh),
            label if label == Reference::PEM_LABEL.as_bytes() => ImportError::Reference,
            b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE" => CERTIFICATE,
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => CERTIFICATE_REQUEST,
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" => PUBLIC_KEY,
            _ => ImportError::NotPrivateKey("something else"),
        };
        instead.get_or_insert(found);
    }
    Err(instead.unwrap_or(ImportError::Damaged(Form::Pem)))
}

/// Whether an ML-DSA-PrivateKey is one of the choices with a seed (RFC 9881, 6): that alone, or with the expanded key. What
/// was written before that was settled is random bytes, and may begin as either does.
fn has_seed(key: &[u8]) -> bool {
    let is_seed = |value: AnyRef<'_>, tag| value.tag() == tag && value.value().len() == ML_DSA_SEED_LENGTH;
    AnyRef::from_der(key).is_ok_and(|key| is_seed(key, ML_DSA_SEED))
        || fields(key).is_ok_and(|both| {
            matches!(both[..], [seed, expanded] if is_seed(seed, Tag::OctetString) && expanded.tag() == Tag::OctetString)
        })
}

/// Recognises a structure by the tags of its fields and reads it.
fn read_der(der: &[u8], fields: &[AnyRef<'_>], form: Form) -> Result<Key, ImportError> {
    const INTEGER: Tag = Tag::Integer;
    let unsupported = |unsupported| match unsupported {
        Unsupported::Algorithm(oid) => ImportError::Unsupported(KeyName(oid)),
        Unsupported::ExplicitCurve => ImportError::ExplicitCurve,
        Unsupported::PssParameters => ImportError::PssParameters,
        Unsupported::Malformed => ImportError::Damaged(form),
    };
    let tags: Vec<Tag> = fields.iter().map(Tagged::tag).collect();
    let key = match tags.as_slice() {
        // PrivateKeyInfo (RFC 5958).
        [INTEGER, Tag::Sequence, Tag::OctetString, ..] => {
            let algorithm = Algorithm::of(fields[1]).map_err(unsupported)?;
            if let Algorithm::Rsa | Algorithm::RsaPss(_) = algorithm {
                let inner = self::fields(fields[2].value()).map_err(|_| ImportError::Damaged(form))?;
                check_size(&inner, form)?;
            }
            if let Algorithm::MlDsa(_) = algorithm {
                // The other choice is the expanded key alone, of which a library makes no PKCS#8 again.
                has_seed(fields[2].value()).then_some(()).ok_or(ImportError::SeedMissing)?;
            }
            Key::from_pkcs8(algorithm, der)
        }
        // ECPrivateKey (RFC 5915).
        [INTEGER, Tag::OctetString, ..] => {
            let parameters = fields.iter().find(|field| field.tag() == EC_PARAMETERS);
            let parameters = parameters.ok_or(ImportError::CurveMissing)?;
            let curve = ObjectIdentifier::from_der(parameters.value());
            let curve = curve.map_err(|_| unsupported(Unsupported::ExplicitCurve))?;
            Key::from_sec1(Algorithm::curve(curve).map_err(unsupported)?, der)
        }
        // RSAPrivateKey (RFC 8017, A.1.2), whose tenth field are the primes beyond two.
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => {
            check_size(fields, form)?;
            Key::from_pkcs1(der)
        }
        // DSA as OpenSSL writes it: version, p, q, g, y, x.
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => {
            return Err(ImportError::Unsupported(KeyName(DSA)));
        }
        // RSAPublicKey (RFC 8017, A.1.1).
        [INTEGER, INTEGER] => return Err(PUBLIC_KEY),
        // SubjectPublicKeyInfo (RFC 5280, 4.1).
        [Tag::Sequence, Tag::BitString] => return Err(PUBLIC_KEY),
        // EncryptedPrivateKeyInfo (RFC 5958, 3).
        [Tag::Sequence, Tag::OctetString] => return Err(ImportError::Encrypted(form)),
        // Certificate (RFC 5280, 4.1) and, with its version untagged, CertificationRequest (RFC 2986, 4.2).
        [Tag::Sequence, Tag::Sequence, Tag::BitString] => {
            let request = fields[0].value().first() == Some(&0x02);
            return Err(if request { CERTIFICATE_REQUEST } else { CERTIFICATE });
        }
        // PFX (RFC 7292, 4), whose version is 3.
        [INTEGER, Tag::Sequence, ..] if fields[0].value() == [3] => return Err(ImportError::Pkcs12),
        // The body of a reference: its marker.
        [Tag::Utf8String, ..] => return Err(ImportError::Reference),
        _ => return Err(ImportError::Unknown),
    };
    key.map_err(|_| ImportError::Inconsistent)
}

fn fields(der: &[u8]) -> der::Result<Vec<AnyRef<'_>>> {
    let mut reader = SliceReader::new(der)?;
    let fields = reader.sequence(|reader| {
        let mut fields = Vec::new();
        while !reader.is_finished() {
            fields.push(AnyRef::decode(reader)?);
        }
        Ok::<_, der::Error>(fields)
    })?;
    reader.finish()?;
    Ok(fields)
}

/// Checks the size of the modulus, the second field of an RSAPrivateKey.
fn check_size(fields: &[AnyRef<'_>], form: Form) -> Result<(), ImportError> {
    let modulus = fields.get(1).and_then(|field| field.decode_as::<UintRef<'_>>().ok());
    let modulus = modulus.ok_or(ImportError::Damaged(form))?;
    let zeros = modulus.as_bytes().first().map_or(0, |byte| byte.leading_zeros());
    let bits = modulus.as_bytes().len() * 8 - zeros as usize;
    (2048..=8192).contains(&bits).then_some(()).ok_or(ImportError::RsaSize(bits))
}

/// Why a file was not imported, in a line for whoever gave it.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ImportError {
    /// An EC key without the name of its curve.
    #[error(
        "the EC key in the file does not say which curve it is on; export it again: openssl pkey -in FILE -out NEW"
    )]
    CurveMissing,
    /// PEM or DER that is cut off or garbled.
    #[error("the key file is cut off or garbled: its {0} cannot be read")]
    Damaged(Form),
    /// A private key under a passphrase.
    #[error("the private key in the file is encrypted; decrypt it first: openssl pkey {}-in FILE -out NEW", .0.option())]
    Encrypted(Form),
    /// An EC key with the numbers of its curve instead of the name.
    #[error(
        "the EC key in the file spells out its curve; name it first: openssl pkey -in FILE -ec_param_enc named_curve -out NEW"
    )]
    ExplicitCurve,
    /// A private key whose parts the crypto library refuses.
    #[error("the private key in the file is not sound: its parts do not belong together")]
    Inconsistent,
    /// Certificates, public keys and the like, named by the text.
    #[error("the file holds {0}, not a private key")]
    NotPrivateKey(&'static str),
    /// A key of ML-DSA without the seed that it is made of.
    #[error(
        "the ML-DSA key in the file has no seed in the form of RFC 9881; if it has one, export it again with OpenSSL 3.5: openssl pkey -in FILE -provparam ml-dsa.output_formats=seed-only -out NEW"
    )]
    SeedMissing,
    /// The format of OpenSSH.
    #[error(
        "the private key in the file is in the format of OpenSSH; write it as PKCS#8 first: ssh-keygen -p -m PKCS8 -f FILE"
    )]
    OpenSsh,
    /// An RSA key that is bound to RSASSA-PSS in a way of its own.
    #[error(
        "the RSA key in the file is restricted to RSASSA-PSS with parameters that are not supported: SHA-256, SHA-384 or SHA-512 for both hash and mask, and a salt that is as long, are"
    )]
    PssParameters,
    /// A PKCS#12 archive.
    #[error(
        "the file is a PKCS#12 archive; take the key out first: openssl pkcs12 -in FILE -nocerts -nodes -out NEW"
    )]
    Pkcs12,
    /// A Keyward reference.
    #[error("the file is a Keyward reference: it holds no private key, the daemon that made it does")]
    Reference,
    /// An RSA key of so many bits.
    #[error("the RSA key in the file has {0} bits: 2048 to 8192 are supported")]
    RsaSize(usize),
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

const CERTIFICATE: ImportError = ImportError::NotPrivateKey("a certificate");
const CERTIFICATE_REQUEST: ImportError = ImportError::NotPrivateKey("a certificate request");
const PUBLIC_KEY: ImportError = ImportError::NotPrivateKey("a public key");

/// How a file is written down.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// Binary (X.690).
    Der,
    /// Text (RFC 7468).
    Pem,
}

impl Form {
    /// What the `openssl` command must be told.
    fn option(self) -> &'static str {
        match self {
            Self::Der => "-inform DER ",
            Self::Pem => "",
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Der => "DER",
            Self::Pem => "PEM",
        })
    }
}

/// An algorithm or a curve that is not supported, by its name where that is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyName(ObjectIdentifier);

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(oid, _)| *oid == self.0) {
            Some((_, name)) => write!(f, "a private key of type {name}"),
            None => write!(f, "a private key of an unknown type ({})", self.0),
        }
    }
}

/// Longest file, in bytes (64 KiB): a key of 8192 bits in PEM takes less than 7 KiB, certificates may follow.
const MAX_FILE: usize = 64 * 1024;

const PEM_START: &[u8] = b"-----BEGIN";
/// The tag of a SEQUENCE.
const DER_START: u8 = 0x30;
// RFC 5915, 3.
const EC_PARAMETERS: Tag = Tag::ContextSpecific { number: TagNumber(0), constructed: true };

/// The choice of ML-DSA-PrivateKey that is the seed alone (RFC 9881, 6).
const ML_DSA_SEED: Tag = Tag::ContextSpecific { number: TagNumber(0), constructed: false };
/// In bytes (FIPS 204, 3.6.1).
const ML_DSA_SEED_LENGTH: usize = 32;

// RFC 3279, 2.3.2.
const DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");

/// What people do have in key files, besides what is supported.
const NAMES: &[(ObjectIdentifier, &str)] = &[
    (DSA, "DSA"),
    // RFC 4055.
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7"), "RSA bound to OAEP"),
    // PKCS #3 and RFC 3279, 2.3.3.
    (ObjectIdentifier::new_unwrap("1.2.840.113549.1.3.1"), "DH"),
    (ObjectIdentifier::new_unwrap("1.2.840.10046.2.1"), "DH"),
    // RFC 8410, 3.
    (ObjectIdentifier::new_unwrap("1.3.101.110"), "X25519"),
    (ObjectIdentifier::new_unwrap("1.3.101.111"), "X448"),
    (ObjectIdentifier::new_unwrap("1.3.101.113"), "Ed448"),
    // RFC 5480, 2.1.1.1, and SEC 2.
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.1"), "EC on P-192"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.33"), "EC on P-224"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.10"), "EC on secp256k1"),
    // RFC 5639, 4.1.
    (ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.7"), "EC on brainpoolP256r1"),
    (ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.11"), "EC on brainpoolP384r1"),
    (ObjectIdentifier::new_unwrap("1.3.36.3.3.2.8.1.1.13"), "EC on brainpoolP512r1"),
    // GM/T 0006-2012.
    (ObjectIdentifier::new_unwrap("1.2.156.10197.1.301"), "EC on SM2"),
];

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_proto::{KeyType, Scheme};
    use proptest::prelude::*;

    use super::*;
    use crate::openssl::{run, verifies};
    use crate::{Input, MasterKey, Unit};

    fn unit() -> Unit {
        Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN)
    }

    fn refused(file: &[u8]) -> ImportError {
        unit().import(file).unwrap_err()
    }

    /// Imports a key and has it sign something that `openssl` verifies under the public key that it sees itself.
    fn accepted(file: &[u8], key_type: KeyType) {
        let unit = unit();
        let key = unit.import(file).unwrap_or_else(|error| panic!("{key_type}: {error}"));
        assert_eq!(key.key_type, key_type);
        assert_eq!(key.blob[48..56], 0x104_u64.to_be_bytes());
        let form = if file.starts_with(&[DER_START]) { "-inform DER" } else { "-inform PEM" };
        let point = match key_type {
            KeyType::P256 | KeyType::P384 | KeyType::P521 => " -ec_conv_form uncompressed",
            _ => "",
        };
        let spki = run(&format!("pkey {form} -pubout -outform DER{point}"), file);
        assert_eq!(key.spki, spki, "{key_type}");
        let scheme = key_type.schemes()[0];
        let signature = unit.sign(&key.blob, scheme, Input::Message(b"m")).unwrap();
        assert!(verifies(&key.spki, scheme, b"m", &signature), "{key_type}");
    }

    fn genpkey(key_type: KeyType) -> Vec<u8> {
        let algorithm = match key_type {
            KeyType::P256 => "EC -pkeyopt ec_paramgen_curve:P-256".to_owned(),
            KeyType::P384 => "EC -pkeyopt ec_paramgen_curve:P-384".to_owned(),
            KeyType::P521 => "EC -pkeyopt ec_paramgen_curve:P-521".to_owned(),
            KeyType::Rsa(bits) => format!("RSA -pkeyopt rsa_keygen_bits:{bits}"),
            KeyType::RsaPss(bits) => format!("RSA-PSS -pkeyopt rsa_keygen_bits:{bits}"),
            _ => "ED25519".to_owned(),
        };
        run(&format!("genpkey -algorithm {algorithm}"), &[])
    }

    #[test]
    fn every_form_that_openssl_writes_is_imported() {
        for key_type in [KeyType::P256, KeyType::P384, KeyType::P521, KeyType::Ed25519] {
            let pem = genpkey(key_type);
            accepted(&pem, key_type);
            accepted(&run("pkey -outform DER", &pem), key_type);
        }
        for key_type in [KeyType::P256, KeyType::P384, KeyType::P521] {
            let pem = genpkey(key_type);
            let sec1 = run("ec", &pem);
            assert!(sec1.starts_with(b"-----BEGIN EC PRIVATE KEY"));
            accepted(&sec1, key_type);
            accepted(&run("ec -outform DER", &pem), key_type);
            accepted(&run("ec -conv_form compressed", &pem), key_type);
            accepted(&run("ec -no_public", &pem), key_type);
            accepted(&run("pkey -ec_conv_form compressed -outform DER", &pem), key_type);
        }
        for bits in [2048, 2056, 3072] {
            let (key_type, pem) = (KeyType::Rsa(bits), genpkey(KeyType::Rsa(bits)));
            accepted(&pem, key_type);
            accepted(&run("pkey -outform DER", &pem), key_type);
            let pkcs1 = run("rsa -traditional", &pem);
            assert!(pkcs1.starts_with(b"-----BEGIN RSA PRIVATE KEY"));
            accepted(&pkcs1, key_type);
            accepted(&run("rsa -traditional -outform DER", &pem), key_type);
        }
    }

    #[test]
    fn keys_that_are_bound_to_pss_are_imported_with_their_restrictions() {
        let restricted = |hash: &str, mask: &str, salt: u8| {
            run(
                &format!(
                    "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_pss_keygen_md:{hash} \
                     -pkeyopt rsa_pss_keygen_mgf1_md:{mask} -pkeyopt rsa_pss_keygen_saltlen:{salt}"
                ),
                &[],
            )
        };
        accepted(&genpkey(KeyType::RsaPss(2048)), KeyType::RsaPss(2048));
        accepted(&run("pkey -outform DER", &genpkey(KeyType::RsaPss(2056))), KeyType::RsaPss(2056));
        for (hash, salt, scheme) in [
            ("sha256", 32, Scheme::RsaPssPssSha256),
            ("sha384", 48, Scheme::RsaPssPssSha384),
            ("sha512", 64, Scheme::RsaPssPssSha512),
        ] {
            let pem = restricted(hash, hash, salt);
            let unit = unit();
            let key = unit.import(&pem).unwrap();
            assert_eq!(key.spki, run("pkey -pubout -outform DER", &pem), "{hash}");
            for other in KeyType::RsaPss(2048).schemes() {
                let signed = unit.sign(&key.blob, *other, Input::Message(b"m"));
                assert_eq!(signed.is_ok(), *other == scheme, "{hash} {other}");
            }
            let signature = unit.sign(&key.blob, scheme, Input::Message(b"m")).unwrap();
            assert!(verifies(&key.spki, scheme, b"m", &signature), "{hash}");
        }
        for (hash, mask, salt) in
            [("sha256", "sha1", 32), ("sha1", "sha1", 20), ("sha256", "sha256", 33), ("sha384", "sha384", 20)]
        {
            assert_eq!(
                refused(&restricted(hash, mask, salt)),
                ImportError::PssParameters,
                "{hash} {mask} {salt}"
            );
        }
    }

    #[test]
    fn what_stands_around_the_key_does_not_matter() {
        let with_parameters = run("ecparam -name prime256v1 -genkey", &[]);
        assert!(with_parameters.starts_with(b"-----BEGIN EC PARAMETERS"));
        accepted(&with_parameters, KeyType::P256);

        let key = String::from_utf8(genpkey(KeyType::P256)).unwrap();
        let certificate = String::from_utf8(certificate(&key)).unwrap();
        let bytes = |text: String| text.into_bytes();
        accepted(&bytes(format!("{certificate}{key}")), KeyType::P256);
        accepted(&bytes(format!("{key}{certificate}")), KeyType::P256);
        accepted(&bytes(format!("Bag Attributes\n    friendlyName: shop\n{key}")), KeyType::P256);
        accepted(&bytes(key.replace('\n', "\r\n")), KeyType::P256);
        unit().import(&bytes(format!("\u{feff}{key}"))).unwrap();
        unit().import(&bytes(key.replace('\n', " \n  "))).unwrap();
        unit().import(&bytes(key.replace('\n', "\r"))).unwrap();
    }

    #[test]
    fn encrypted_keys_are_told_with_a_command_that_works() {
        let pem = genpkey(KeyType::P256);
        let rsa = genpkey(KeyType::Rsa(2048));
        let pkcs8 = run("pkcs8 -topk8 -passout pass:secret", &pem);
        assert!(pkcs8.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY"));
        let old_ec = run("ec -aes128 -passout pass:secret", &pem);
        let old_rsa = run("rsa -traditional -aes128 -passout pass:secret", &rsa);
        for file in [pkcs8, old_ec, old_rsa, run("pkcs8 -topk8 -outform DER -passout pass:secret", &pem)] {
            let message = refused(&file).to_string();
            let (_, command) = message.split_once("decrypt it first: openssl ").unwrap();
            let command = command.replace("-in FILE -out NEW", "-passin pass:secret");
            unit().import(&run(&command, &file)).unwrap();
        }
    }

    #[test]
    fn other_commands_in_messages_work_too() {
        let pem = genpkey(KeyType::P256);
        let explicit = run("pkey -ec_param_enc explicit", &pem);
        assert_eq!(refused(&explicit), ImportError::ExplicitCurve);
        assert_eq!(refused(&run("ec", &explicit)), ImportError::ExplicitCurve);
        accepted(&run("pkey -ec_param_enc named_curve", &explicit), KeyType::P256);

        let both = [certificate(core::str::from_utf8(&pem).unwrap()), pem].concat();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &both).unwrap();
        let archive = run(&format!("pkcs12 -export -passout pass:secret -in {}", file.path().display()), &[]);
        assert_eq!(refused(&archive), ImportError::Pkcs12);
        unit().import(&run("pkcs12 -nocerts -nodes -passin pass:secret", &archive)).unwrap();
    }

    #[test]
    fn public_things_are_no_private_keys() {
        let pem = genpkey(KeyType::Rsa(2048));
        let certificate = certificate(core::str::from_utf8(&pem).unwrap());
        assert_eq!(refused(&certificate), CERTIFICATE);
        assert_eq!(refused(&run("x509 -outform DER", &certificate)), CERTIFICATE);
        assert_eq!(refused(&run("pkey -pubout", &pem)), PUBLIC_KEY);
        assert_eq!(refused(&run("pkey -pubout -outform DER", &pem)), PUBLIC_KEY);
        assert_eq!(refused(&run("rsa -RSAPublicKey_out -outform DER", &pem)), PUBLIC_KEY);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &pem).unwrap();
        let request = format!("req -new -subj /CN=shop -key {}", file.path().display());
        assert_eq!(refused(&run(&request, &[])), CERTIFICATE_REQUEST);
        assert_eq!(refused(&run(&format!("{request} -outform DER"), &[])), CERTIFICATE_REQUEST);
        assert_eq!(PUBLIC_KEY.to_string(), "the file holds a public key, not a private key");
    }

    #[test]
    fn a_reference_is_not_taken_for_a_key() {
        let key = unit().generate(KeyType::P256).unwrap();
        let reference = Reference::new("shop".parse().unwrap(), 1, key.spki).unwrap().to_pem();
        assert_eq!(refused(reference.as_bytes()), ImportError::Reference);
        let der = pem::blocks(reference.as_bytes()).next().unwrap().decode().unwrap();
        assert_eq!(refused(&der), ImportError::Reference);
    }

    #[test]
    fn types_that_are_not_supported_are_named() {
        for (args, name) in [
            ("genpkey -algorithm ED448", "Ed448"),
            ("genpkey -algorithm X25519", "X25519"),
            ("ecparam -name secp256k1 -genkey -noout", "EC on secp256k1"),
            ("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1", "EC on brainpoolP256r1"),
            ("ecparam -name wap-wsg-idm-ecid-wtls7 -genkey -noout", "an unknown type (2.23.43.1.4.7)"),
            ("dsaparam -genkey -noout 1024", "DSA"),
        ] {
            let message = refused(&run(args, &[])).to_string();
            assert!(
                message.starts_with("the file holds a private key of ") && message.contains(name),
                "{message}"
            );
        }
        assert_eq!(refused(&genpkey(KeyType::Rsa(1024))), ImportError::RsaSize(1024));
        let odd = genpkey(KeyType::Rsa(2047));
        assert_eq!(refused(&run("rsa -traditional -outform DER", &odd)), ImportError::RsaSize(2047));
        let openssh = b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        assert_eq!(refused(openssh), ImportError::OpenSsh);
    }

    #[test]
    fn cut_off_files_are_damaged() {
        let pem = genpkey(KeyType::P256);
        let start = b"-----BEGIN".len();
        for end in start..pem.len() - 1 {
            assert_eq!(refused(&pem[..end]), ImportError::Damaged(Form::Pem), "cut at {end}");
        }
        let der = run("pkey -outform DER", &pem);
        for end in 1..der.len() {
            assert_eq!(refused(&der[..end]), ImportError::Damaged(Form::Der), "cut at {end}");
        }
        let text = core::str::from_utf8(&pem).unwrap();
        assert_eq!(refused(text.replacen('M', "*", 1).as_bytes()), ImportError::Damaged(Form::Pem));
        assert_eq!(
            refused(text.replace("END PRI", "END EC PRI").as_bytes()),
            ImportError::Damaged(Form::Pem)
        );
        assert_eq!(refused(b""), ImportError::Unknown);
        assert_eq!(refused(b"hello"), ImportError::Unknown);
        assert_eq!(refused(&[der, vec![0]].concat()), ImportError::Damaged(Form::Der));
        assert_eq!(refused(&vec![b'\n'; MAX_FILE + 1]), ImportError::TooLong);
        assert_eq!(refused(&vec![b'\n'; MAX_FILE]), ImportError::Unknown);
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        // Every byte of the private numbers counts, and of the public ones beside them.
        for key_type in [KeyType::P256, KeyType::Rsa(2048)] {
            let der = run("pkey -outform DER", &genpkey(key_type));
            for position in (60..der.len()).step_by(7) {
                let mut altered = der.clone();
                altered[position] ^= 1;
                refused(&altered);
            }
        }
    }

    #[test]
    fn random_bytes_are_no_seed_however_they_begin() {
        let with = |start: &[u8], length: usize| [start, &vec![7; length - start.len()]].concat();
        assert!(has_seed(&with(&[0x80, 32], 34)), "the seed alone");
        let both =
            [&with(&[0x30, 0x82, 0x0a, 0x26, 0x04, 32], 38)[..], &with(&[0x04, 0x82, 0x0a, 0x00], 2564)];
        assert!(has_seed(&both.concat()), "and with the expanded key");
        assert!(!has_seed(&with(&[0x04, 0x82, 0x0a, 0x00], 2564)), "the expanded key alone");
        for start in
            [&[0x80, 30][..], &[0x80, 32], &[0x30, 30], &[0x30, 30, 0x04, 28], &[0x30, 30, 0x04, 26, 0x04, 0]]
        {
            assert!(!has_seed(&with(start, 32)), "{start:?} in a bare seed");
            assert!(!has_seed(&with(start, 2560)), "{start:?} in a bare expanded key");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = read(&bytes);
            let _ = read(&[b"-----BEGIN PRIVATE KEY-----\n", bytes.as_slice()].concat());
        }
    }

    fn certificate(key: &str) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), key).unwrap();
        run(&format!("req -x509 -subj /CN=shop -key {}", file.path().display()), &[])
    }
}
