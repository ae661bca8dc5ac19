use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode, Reader, SliceReader};
use keyward_grep11::{ckk, ckr};
use keyward_proto::oid::{EC_PUBLIC_KEY, ED25519, RSA_ENCRYPTION, RSASSA_PSS};
use keyward_proto::{self as words, Curve, MlDsa, PssParameters};

use super::error::Error;
use super::rsa_size::{VERIFIED, bit_length, rsa_size};
use crate::object::{SECP256K1, X25519_OID};

/// The numbers of a public key.
#[derive(Debug)]
pub(crate) enum PublicMaterial {
    Rsa {
        /// Big-endian, without leading zeros.
        modulus: Vec<u8>,
        /// Big-endian, without leading zeros.
        exponent: Vec<u8>,
    },
    /// An RSA key that is bound to RSASSA-PSS (RFC 4055, 1.2), numbers as above. Such a key only
    /// verifies.
    RsaPss {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
        /// The only parameters that signatures may have; `None` allows all.
        parameters: Option<PssParameters>,
    },
    /// A point, uncompressed.
    Ec(Curve, Vec<u8>),
    /// A point on secp256k1, uncompressed.
    Koblitz(Vec<u8>),
    Ed25519(Vec<u8>),
    X25519(Vec<u8>),
    MlDsa(MlDsa, Vec<u8>),
}

impl PublicMaterial {
    /// The CKK number of the type.
    pub(crate) fn key_type(&self) -> u64 {
        match self {
            Self::Rsa { .. } | Self::RsaPss { .. } => ckk::CKK_RSA,
            Self::Ec(..) | Self::Koblitz(_) | Self::Ed25519(_) | Self::X25519(_) => ckk::CKK_EC,
            Self::MlDsa(..) => ckk::CKK_IBM_ML_DSA,
        }
    }

    /// The curve of an EC key.
    pub(crate) fn curve(&self) -> Option<ObjectIdentifier> {
        match self {
            Self::Rsa { .. } | Self::RsaPss { .. } | Self::MlDsa(..) => None,
            Self::Ec(Curve::P256, _) => Some(words::oid::SECP256R1),
            Self::Ec(Curve::P384, _) => Some(words::oid::SECP384R1),
            Self::Ec(Curve::P521, _) => Some(words::oid::SECP521R1),
            Self::Koblitz(_) => Some(SECP256K1),
            Self::Ed25519(_) => Some(ED25519),
            Self::X25519(_) => Some(X25519_OID),
        }
    }

    /// Reads a SubjectPublicKeyInfo, in the form of the standards or of EP11.
    ///
    /// # Errors
    /// `CKR_KEY_SIZE_RANGE` for an RSA key of a size that is not offered, `CKR_PUBLIC_KEY_INVALID`
    /// for any other input.
    pub(super) fn read(spki: &[u8]) -> Result<Self, Error> {
        let (algorithm, parameters, bits) = Self::fields(spki).ok_or_else(invalid)?;
        match algorithm {
            RSA_ENCRYPTION => Self::rsa(bits),
            RSASSA_PSS => match (Self::rsa(bits)?, words::PublicKey::from_spki(spki)) {
                (Self::Rsa { modulus, exponent }, Ok(words::PublicKey::RsaPss { parameters, .. })) => {
                    Ok(Self::RsaPss { modulus, exponent, parameters })
                }
                _ => Err(invalid()),
            },
            _ => Self::read_other(spki, algorithm, parameters, bits).ok_or_else(invalid),
        }
    }

    fn fields(spki: &[u8]) -> Option<(ObjectIdentifier, Option<AnyRef<'_>>, &[u8])> {
        let mut reader = SliceReader::new(spki).ok()?;
        let (algorithm, parameters, bits) = reader
            .sequence(|fields| {
                let (algorithm, parameters) = fields.sequence(|fields| {
                    let algorithm = ObjectIdentifier::decode(fields)?;
                    Ok::<_, der::Error>((algorithm, Option::<AnyRef<'_>>::decode(fields)?))
                })?;
                Ok::<_, der::Error>((algorithm, parameters, BitStringRef::decode(fields)?))
            })
            .ok()?;
        reader.finish().ok()?;
        Some((algorithm, parameters, bits.as_bytes()?))
    }

    fn read_other(
        spki: &[u8],
        algorithm: ObjectIdentifier,
        parameters: Option<AnyRef<'_>>,
        bits: &[u8],
    ) -> Option<Self> {
        let raw = |length: usize| (bits.len() == length).then(|| bits.to_vec());
        let algorithm = match (algorithm, parameters) {
            (EC_PUBLIC_KEY, Some(curve)) => curve.decode_as::<ObjectIdentifier>().ok()?,
            (algorithm, _) => algorithm,
        };
        match algorithm {
            ED25519 => raw(32).map(Self::Ed25519),
            X25519_OID => raw(32).map(Self::X25519),
            SECP256K1 => raw(65).filter(|point| point[0] == 4).map(Self::Koblitz),
            _ => match words::PublicKey::from_spki(spki).ok()? {
                words::PublicKey::Ec { curve, point } => Some(Self::Ec(curve, point)),
                words::PublicKey::MlDsa(parameters, key) => Some(Self::MlDsa(parameters, key)),
                _ => None,
            },
        }
    }

    /// Reads an RSAPublicKey (RFC 8017, A.1.1).
    fn rsa(bits: &[u8]) -> Result<Self, Error> {
        let read = || {
            let mut reader = SliceReader::new(bits)?;
            let numbers = reader.sequence(|fields| {
                Ok::<_, der::Error>((UintRef::decode(fields)?, UintRef::decode(fields)?))
            })?;
            reader.finish()?;
            Ok::<_, der::Error>(numbers)
        };
        let (modulus, exponent) = read().map_err(|_| invalid())?;
        let (modulus, exponent) = (modulus.as_bytes(), exponent.as_bytes());
        let odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        // Any odd exponent of up to 64 bits, except 1, which would not encrypt at all.
        let sound = odd(modulus) && odd(exponent) && exponent.len() <= 8 && exponent != [1];
        match VERIFIED.contains(&bit_length(modulus)) {
            true if sound => Ok(Self::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() }),
            true => Err(invalid()),
            false => Err(rsa_size()),
        }
    }
}

pub(super) fn invalid() -> Error {
    let detail = "the public key is not a SubjectPublicKeyInfo of a known type, nor one followed by a MAC";
    Error::new(ckr::CKR_PUBLIC_KEY_INVALID, detail)
}
