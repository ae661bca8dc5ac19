//! The people that a unit knows: administrators, who sign commands, and owners of shares.

use core::fmt;
use core::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1, ParsedPublicKey};
use keyward_proto::{Curve, PublicKey};
use thiserror::Error;

/// A public key on the curve P-521: of an administrator, of an owner of a share, of the unit, or of
/// an importer of parts.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct PersonKey([u8; POINT]);

impl PersonKey {
    /// Reads a SubjectPublicKeyInfo in DER (RFC 5480).
    ///
    /// # Errors
    /// [`InvalidPersonKey`] if it is not of P-521, or the point is not on the curve.
    pub fn from_spki(spki: &[u8]) -> Result<Self, InvalidPersonKey> {
        match PublicKey::from_spki(spki) {
            Ok(PublicKey::Ec { curve: Curve::P521, point }) => Self::from_point(&point),
            _ => Err(InvalidPersonKey),
        }
    }

    /// Reads an uncompressed point: 0x04, X, Y (SEC 1, 2.3.3).
    ///
    /// # Errors
    /// [`InvalidPersonKey`] if the point is not on the curve P-521.
    pub fn from_point(point: &[u8]) -> Result<Self, InvalidPersonKey> {
        let key = Self(point.try_into().map_err(|_| InvalidPersonKey)?);
        // The library checks that the point is on the curve.
        ParsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, key.0).map_err(|_| InvalidPersonKey)?;
        Ok(key)
    }

    /// The key as SubjectPublicKeyInfo in DER.
    pub fn to_spki(&self) -> Vec<u8> {
        [SPKI_PREFIX, &self.0].concat()
    }

    /// The key as an uncompressed point: 0x04, X, Y.
    pub(crate) fn point(&self) -> &[u8] {
        &self.0
    }

    /// The subject key identifier: SHA-256 of the uncompressed point.
    pub fn ski(&self) -> Ski {
        let mut ski = [0; Ski::LENGTH];
        ski.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        Ski(ski)
    }

    /// True if the signature of a message is of this key: ECDSA with SHA-512, in DER (RFC 3279,
    /// 2.2.3).
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        ParsedPublicKey::new(&ECDSA_P521_SHA512_ASN1, self.0)
            .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
    }
}

impl fmt::Debug for PersonKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PersonKey({})", self.ski())
    }
}

/// A public key that is not one of P-521.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("not a public key of an administrator: a SubjectPublicKeyInfo of the curve P-521 is needed")]
pub struct InvalidPersonKey;

/// The subject key identifier of a [`PersonKey`]: the identity of an administrator.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ski([u8; Ski::LENGTH]);

impl Ski {
    /// Length, in bytes.
    pub const LENGTH: usize = 32;
}

impl fmt::Display for Ski {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Ski {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ski({self})")
    }
}

impl FromStr for Ski {
    type Err = InvalidSki;

    /// Reads the output of `Display`: 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidSki> {
        let mut ski = [0; Self::LENGTH];
        match base16ct::lower::decode(text, &mut ski) {
            Ok(bytes) if bytes.len() == Self::LENGTH => Ok(Self(ski)),
            _ => Err(InvalidSki),
        }
    }
}

/// A text that is not a subject key identifier.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("not an identity or a fingerprint of a key: 64 lower-case hexadecimal digits are needed")]
pub struct InvalidSki;

/// The name of a person: 1 to 30 letters, digits, and `.`, `_`, `@`, `-`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PersonName(String);

impl PersonName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PersonName {
    type Err = InvalidPersonName;

    fn from_str(text: &str) -> Result<Self, InvalidPersonName> {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        match (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_sound) {
            true => Ok(Self(text.into())),
            false => Err(InvalidPersonName),
        }
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not the name of a person.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("not a name of a person: 1 to 30 letters, digits, and . _ @ - are allowed")]
pub struct InvalidPersonName;

/// A person with a name and a key: an administrator of a unit, or an owner of a share.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Person {
    /// Name, unique among the administrators of a unit.
    pub name: PersonName,
    /// Public key.
    pub key: PersonKey,
}

/// Length of an uncompressed point, in bytes: 0x04, and two numbers of 521 bits.
const POINT: usize = 133;

/// The SubjectPublicKeyInfo of a point up to the point: id-ecPublicKey and secp521r1 (RFC 5480,
/// 2.1.1).
const SPKI_PREFIX: &[u8] = &[
    0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
    0x81, 0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00,
];

/// Longest name, in bytes, as in EP11 tools.
const MAX_NAME: usize = 30;

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    #[test]
    fn a_key_is_the_one_of_the_library() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap();
        let key = PersonKey::from_point(pair.public_key().as_ref()).unwrap();
        let spki = pair.public_key().as_der().unwrap();
        assert_eq!(key.to_spki(), spki.as_ref());
        assert_eq!(PersonKey::from_spki(spki.as_ref()).unwrap(), key);
        let signature = pair.sign(&SystemRandom::new(), b"message").unwrap();
        assert!(key.has_signed(b"message", signature.as_ref()));
        assert!(!key.has_signed(b"another", signature.as_ref()));
        assert_eq!(key.ski().to_string().parse::<Ski>().unwrap(), key.ski());
    }

    #[test]
    fn other_keys_and_points_beside_the_curve_are_refused() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap();
        let mut point = pair.public_key().as_ref().to_vec();
        point[100] ^= 1;
        assert_eq!(PersonKey::from_point(&point), Err(InvalidPersonKey));
        assert_eq!(PersonKey::from_point(&point[1..]), Err(InvalidPersonKey));
        let unit = crate::Unit::new(crate::MasterKey::generate().unwrap(), core::num::NonZeroUsize::MIN);
        let other = unit.generate(keyward_proto::KeyType::P384).unwrap();
        assert_eq!(PersonKey::from_spki(&other.spki), Err(InvalidPersonKey));
    }

    #[test]
    fn names_have_a_short_alphabet() {
        for good in ["alice", "a", "Anna-Lena.Berg_2@example.org", &"x".repeat(30)] {
            assert_eq!(good.parse::<PersonName>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "ali\nce", "\u{e9}ve", "a:b", &"x".repeat(31)] {
            assert_eq!(bad.parse::<PersonName>(), Err(InvalidPersonName), "{bad}");
        }
    }
}
