//! Private keys in DER, distinguished by the tags of their fields.

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef, UintRef};
use der::{Decode, Tag, TagNumber, Tagged};

use super::der_fields::fields;
use super::error::{Form, ImportError};
use super::key_name::{DSA, KeyName};
use super::kind::Kind;
use crate::key::{Algorithm, Key, Unsupported};

/// Reads a private key without encryption.
pub(super) fn read_key(der: &[u8], fields: &[AnyRef<'_>], form: Form) -> Result<Key, ImportError> {
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
            let key = fields[2].value();
            match Algorithm::from_identifier(fields[1]).map_err(unsupported)? {
                algorithm @ (Algorithm::Rsa | Algorithm::RsaPss(_)) => return read_rsa(algorithm, key, form),
                Algorithm::Ed25519 => read_ed25519(fields),
                // The expanded key alone is the other choice. The library cannot write PKCS#8 from
                // it.
                Algorithm::MlDsa(_) if !has_seed(key) => return Err(ImportError::SeedMissing),
                algorithm => Key::from_pkcs8(algorithm, der).ok(),
            }
        }
        // ECPrivateKey (RFC 5915).
        [INTEGER, Tag::OctetString, ..] => {
            let parameters = fields.iter().find(|field| field.tag() == EC_PARAMETERS);
            let parameters = parameters.ok_or(ImportError::CurveMissing)?;
            let curve = ObjectIdentifier::from_der(parameters.value());
            let curve = curve.map_err(|_| unsupported(Unsupported::ExplicitCurve))?;
            Key::from_sec1(Algorithm::curve(curve).map_err(unsupported)?, der).ok()
        }
        // RSAPrivateKey (RFC 8017, A.1.2).
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, ..] => {
            return read_rsa(Algorithm::Rsa, der, form);
        }
        // DSA as OpenSSL writes it: version, p, q, g, y, x.
        [INTEGER, INTEGER, INTEGER, INTEGER, INTEGER, INTEGER] => {
            return Err(ImportError::Unsupported(KeyName(DSA)));
        }
        // RSAPublicKey (RFC 8017, A.1.1).
        [INTEGER, INTEGER] => return Err(PUBLIC_KEY),
        // SubjectPublicKeyInfo (RFC 5280, 4.1).
        [Tag::Sequence, Tag::BitString] => return Err(PUBLIC_KEY),
        // CertificationRequest (RFC 2986, 4.2).
        [Tag::Sequence, Tag::Sequence, Tag::BitString] => return Err(REQUEST),
        // ContentInfo (RFC 2315, 7).
        [Tag::ObjectIdentifier, ..] => return Err(ImportError::Other(Kind::Pkcs7)),
        // The body of a reference: its marker.
        [Tag::Utf8String, ..] => return Err(ImportError::Reference),
        _ => return Err(ImportError::Unknown),
    };
    key.ok_or(ImportError::Inconsistent)
}

/// True for the fields of a certificate (RFC 5280, 4.1).
pub(super) fn is_certificate(fields: &[AnyRef<'_>]) -> bool {
    matches!(fields, [body, algorithm, signature]
        if body.tag() == Tag::Sequence && algorithm.tag() == Tag::Sequence && signature.tag() == Tag::BitString
            // A request begins with its version, which is 0.
            && !body.value().starts_with(&[0x02, 0x01, 0x00]))
}

/// Reads an RSAPrivateKey (RFC 8017, A.1.2). The error says why the library refuses a key.
fn read_rsa(algorithm: Algorithm, der: &[u8], form: Form) -> Result<Key, ImportError> {
    let fields = fields(der).map_err(|_| ImportError::Damaged(form))?;
    let number = |at: usize| fields.get(at).and_then(|field| field.decode_as::<UintRef<'_>>().ok());
    let bits = |at: usize| {
        let number = number(at).ok_or(ImportError::Damaged(form))?;
        let zeros = number.as_bytes().first().map_or(0, |byte| byte.leading_zeros());
        Ok::<_, ImportError>(number.as_bytes().len() * 8 - zeros as usize)
    };
    // The tenth field holds the primes beyond two.
    if fields.len() > 9 {
        return Err(ImportError::RsaPrimes);
    }
    let modulus = bits(1)?;
    if !(2048..=8192).contains(&modulus) {
        return Err(ImportError::RsaSize(modulus));
    }
    // Some programs write the private exponent, and zeros for the numbers after it.
    if (4..=8).map(&bits).collect::<Result<Vec<_>, _>>()?.contains(&0) {
        return Err(ImportError::RsaPrimesMissing);
    }
    let exponent = bits(2)?;
    if exponent > MAX_EXPONENT {
        return Err(ImportError::RsaExponent(exponent));
    }
    Key::from_pkcs1(algorithm, der).map_err(|_| ImportError::Inconsistent)
}

/// Reads the fields of a PrivateKeyInfo of Ed25519 (RFC 8410, 7): the seed, and the public key if
/// present. Versions of ring up to 0.16 wrote the public key as a BIT STRING inside an explicit
/// tag.
fn read_ed25519(fields: &[AnyRef<'_>]) -> Option<Key> {
    let seed = <&OctetStringRef>::from_der(fields.get(2)?.value()).ok()?;
    let public = fields.iter().find_map(|field| match (field.tag(), field.value()) {
        (PUBLIC_KEY_FIELD, [0, public @ ..]) => Some(public),
        (PUBLIC_KEY_OF_RING, [0x03, 33, 0, public @ ..]) => Some(public),
        _ => None,
    });
    Key::from_ed25519(seed.as_bytes(), public).ok()
}

/// True for an ML-DSA-PrivateKey with a seed (RFC 9881, 6): the seed alone, or the seed and the
/// expanded key. Drafts of the format had bare random bytes, which may begin like either.
pub(super) fn has_seed(key: &[u8]) -> bool {
    let is_seed = |value: AnyRef<'_>, tag| value.tag() == tag && value.value().len() == ML_DSA_SEED_LENGTH;
    AnyRef::from_der(key).is_ok_and(|key| is_seed(key, ML_DSA_SEED))
        || fields(key).is_ok_and(|both| {
            matches!(both[..], [seed, expanded] if is_seed(seed, Tag::OctetString) && expanded.tag() == Tag::OctetString)
        })
}

pub(super) const REQUEST: ImportError = ImportError::NotPrivateKey("a certificate request");
pub(super) const PUBLIC_KEY: ImportError = ImportError::NotPrivateKey("a public key");

/// Longest public exponent that the library takes, in bits.
const MAX_EXPONENT: usize = 33;

// RFC 5915, 3.
const EC_PARAMETERS: Tag = Tag::ContextSpecific { number: TagNumber(0), constructed: true };

// RFC 5958, 2.
const PUBLIC_KEY_FIELD: Tag = Tag::ContextSpecific { number: TagNumber(1), constructed: false };
const PUBLIC_KEY_OF_RING: Tag = Tag::ContextSpecific { number: TagNumber(1), constructed: true };

/// The choice of ML-DSA-PrivateKey that is the seed alone (RFC 9881, 6).
const ML_DSA_SEED: Tag = Tag::ContextSpecific { number: TagNumber(0), constructed: false };
/// Length of the seed, in bytes (FIPS 204, 3.6.1).
const ML_DSA_SEED_LENGTH: usize = 32;
