use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode, Reader, SliceReader};
use thiserror::Error;

use crate::oid::{EC_PUBLIC_KEY, ED25519, RSA_ENCRYPTION, RSASSA_PSS, SECP256R1, SECP384R1, SECP521R1};
use crate::{Hash, KeyType, MlDsa, PssParameters, Scheme, pss};

/// A public key from a SubjectPublicKeyInfo (RFC 5280, 4.1).
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum PublicKey {
    /// RSA (RFC 3279, 2.3.1), as unsigned big-endian numbers without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The public exponent.
        exponent: Vec<u8>,
    },
    /// RSA bound to RSASSA-PSS (RFC 4055, 1.2), with numbers like [`PublicKey::Rsa`].
    RsaPss {
        /// The modulus.
        modulus: Vec<u8>,
        /// The public exponent.
        exponent: Vec<u8>,
        /// Restriction of signatures, if there is one.
        parameters: Option<PssParameters>,
    },
    /// A point on a NIST curve (RFC 5480), uncompressed: 0x04, X, Y.
    Ec {
        /// The curve.
        curve: Curve,
        /// The point.
        point: Vec<u8>,
    },
    /// Ed25519 (RFC 8410): 32 bytes.
    Ed25519(Vec<u8>),
    /// ML-DSA (RFC 9881), as long as the parameter set says.
    MlDsa(MlDsa, Vec<u8>),
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`InvalidPublicKey`] if `spki` is not exactly one SubjectPublicKeyInfo, or of a kind that
    /// Keyward does not know.
    pub fn from_spki(spki: &[u8]) -> Result<Self, InvalidPublicKey> {
        Self::parse(spki).map_err(|_| InvalidPublicKey)?.ok_or(InvalidPublicKey)
    }

    fn parse(spki: &[u8]) -> der::Result<Option<Self>> {
        let (algorithm, parameters, bits) = SliceReader::new(spki)?.sequence_all()?;
        let Some(bits) = BitStringRef::as_bytes(&bits) else { return Ok(None) };
        Ok(match algorithm {
            RSA_ENCRYPTION => Self::rsa(bits)?,
            RSASSA_PSS => match (Self::rsa(bits)?, parameters.map(PssParameters::read)) {
                // The parameters are not supported.
                (_, Some(None)) => None,
                (Some(Self::Rsa { modulus, exponent }), parameters) => {
                    Some(Self::RsaPss { modulus, exponent, parameters: parameters.flatten() })
                }
                _ => None,
            },
            EC_PUBLIC_KEY => match parameters {
                Some(curve) => Self::ec(curve.decode_as()?, bits),
                None => None,
            },
            ED25519 => (bits.len() == 32 && parameters.is_none()).then(|| Self::Ed25519(bits.to_vec())),
            other => MlDsa::of_oid(other)
                .filter(|known| known.public_length() == bits.len() && parameters.is_none())
                .map(|known| Self::MlDsa(known, bits.to_vec())),
        })
    }

    fn rsa(bits: &[u8]) -> der::Result<Option<Self>> {
        let mut reader = SliceReader::new(bits)?;
        let (modulus, exponent) = reader
            .sequence(|fields| Ok::<_, der::Error>((UintRef::decode(fields)?, UintRef::decode(fields)?)))?;
        reader.finish()?;
        let (modulus, exponent) = (modulus.as_bytes(), exponent.as_bytes());
        // The unit holds moduli of 2048 to 8192 bits, and exponents of at most 64 bits.
        let sound = (256..=1024).contains(&modulus.len()) && (1..=8).contains(&exponent.len());
        Ok(sound.then(|| Self::Rsa { modulus: modulus.to_vec(), exponent: exponent.to_vec() }))
    }

    fn ec(curve: ObjectIdentifier, bits: &[u8]) -> Option<Self> {
        let curve = Curve::ALL.into_iter().find(|known| known.oid() == curve)?;
        let uncompressed = bits.len() == 1 + 2 * curve.field_bytes() && bits.first() == Some(&4);
        uncompressed.then(|| Self::Ec { curve, point: bits.to_vec() })
    }

    /// The type of the key.
    pub fn key_type(&self) -> KeyType {
        match self {
            Self::Rsa { .. } => KeyType::Rsa(u16::try_from(self.bits()).unwrap_or(u16::MAX)),
            Self::RsaPss { .. } => KeyType::RsaPss(u16::try_from(self.bits()).unwrap_or(u16::MAX)),
            Self::Ec { curve, .. } => curve.key_type(),
            Self::Ed25519(_) => KeyType::Ed25519,
            Self::MlDsa(parameters, _) => KeyType::MlDsa(*parameters),
        }
    }

    /// The schemes that the key can sign with, the preferred scheme first: the schemes of its type,
    /// or the one scheme that the key is restricted to.
    pub fn schemes(&self) -> &'static [Scheme] {
        match self {
            Self::RsaPss { parameters: Some(parameters), .. } => match parameters.hash() {
                Hash::Sha256 => &[Scheme::RsaPssPssSha256],
                Hash::Sha384 => &[Scheme::RsaPssPssSha384],
                Hash::Sha512 => &[Scheme::RsaPssPssSha512],
            },
            _ => self.key_type().schemes(),
        }
    }

    /// Binds the SubjectPublicKeyInfo of an RSA key to RSASSA-PSS; `None` if the key is not an RSA
    /// key.
    pub fn bind_to_pss(spki: &[u8], parameters: Option<PssParameters>) -> Option<Vec<u8>> {
        match Self::from_spki(spki).ok()? {
            Self::Rsa { .. } => pss::bound(Self::bits_of(spki)?, parameters),
            _ => None,
        }
    }

    /// The key inside a SubjectPublicKeyInfo, without the algorithm: for RSA an RSAPublicKey (RFC
    /// 8017, A.1.1).
    pub fn bits_of(spki: &[u8]) -> Option<&[u8]> {
        SliceReader::new(spki).ok()?.sequence_all().ok()?.2.as_bytes()
    }

    /// Size in bits, as OpenSSL counts: of the modulus or of the field; 253 for Ed25519; of the
    /// whole public key for ML-DSA.
    pub fn bits(&self) -> usize {
        match self {
            Self::Rsa { modulus, .. } | Self::RsaPss { modulus, .. } => {
                let zeros = modulus.first().map_or(0, |byte| byte.leading_zeros());
                modulus.len() * 8 - zeros as usize
            }
            Self::Ec { curve, .. } => curve.bits(),
            Self::Ed25519(_) => 253,
            Self::MlDsa(_, key) => key.len() * 8,
        }
    }

    /// Security in bits, by NIST SP 800-57 part 1, table 2.
    pub fn security_bits(&self) -> usize {
        match self {
            Self::Rsa { .. } | Self::RsaPss { .. } => match self.bits() {
                7680.. => 192,
                4096.. => 152,
                3072.. => 128,
                _ => 112,
            },
            Self::Ec { curve, .. } => match curve {
                Curve::P256 => 128,
                Curve::P384 => 192,
                Curve::P521 => 256,
            },
            Self::Ed25519(_) => 128,
            Self::MlDsa(parameters, _) => parameters.security_bits(),
        }
    }

    /// Length of the longest signature, in bytes. An ECDSA signature in DER may be shorter.
    pub fn max_signature(&self) -> usize {
        match self {
            Self::Rsa { modulus, .. } | Self::RsaPss { modulus, .. } => modulus.len(),
            Self::Ec { curve: Curve::P256, .. } => 72,
            Self::Ec { curve: Curve::P384, .. } => 104,
            Self::Ec { curve: Curve::P521, .. } => 139,
            Self::Ed25519(_) => 64,
            Self::MlDsa(parameters, _) => parameters.signature_length(),
        }
    }
}

type Fields<'a> = (ObjectIdentifier, Option<AnyRef<'a>>, BitStringRef<'a>);

trait SequenceAll<'a> {
    /// Reads the two fields of a SubjectPublicKeyInfo and refuses anything after them.
    fn sequence_all(self) -> der::Result<Fields<'a>>;
}

impl<'a> SequenceAll<'a> for SliceReader<'a> {
    fn sequence_all(mut self) -> der::Result<Fields<'a>> {
        let fields = self.sequence(|spki| {
            let (algorithm, parameters) = spki.sequence(|identifier| {
                let oid = ObjectIdentifier::decode(identifier)?;
                Ok::<_, der::Error>((oid, Option::<AnyRef<'a>>::decode(identifier)?))
            })?;
            Ok::<_, der::Error>((algorithm, parameters, BitStringRef::decode(spki)?))
        })?;
        self.finish()?;
        Ok(fields)
    }
}

/// A NIST curve (SEC 2).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// secp521r1.
    P521,
}

impl Curve {
    /// Every curve that Keyward knows.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The name in FIPS 186-5. OpenSSL accepts this name too.
    pub fn nist_name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// The name of the group in OpenSSL, see EVP_PKEY-EC(7).
    pub fn openssl_name(self) -> &'static str {
        match self {
            Self::P256 => "prime256v1",
            Self::P384 => "secp384r1",
            Self::P521 => "secp521r1",
        }
    }

    fn bits(self) -> usize {
        match self {
            Self::P256 => 256,
            Self::P384 => 384,
            Self::P521 => 521,
        }
    }

    /// Length of a coordinate of a point, and of each half of a signature, in bytes.
    pub fn field_bytes(self) -> usize {
        self.bits().div_ceil(8)
    }

    fn key_type(self) -> KeyType {
        match self {
            Self::P256 => KeyType::P256,
            Self::P384 => KeyType::P384,
            Self::P521 => KeyType::P521,
        }
    }

    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::P256 => SECP256R1,
            Self::P384 => SECP384R1,
            Self::P521 => SECP521R1,
        }
    }
}

/// Bytes that are not the SubjectPublicKeyInfo of a key that Keyward can hold.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error(
    "not a public key of a supported type (RSA of 2048 to 8192 bits, P-256, P-384, P-521, Ed25519, ML-DSA)"
)]
pub struct InvalidPublicKey;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, 10.1).
    pub(crate) fn ed25519_spki() -> Vec<u8> {
        let mut spki = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        spki.extend_from_slice(&[0x19; 32]);
        spki
    }

    fn p256_spki() -> Vec<u8> {
        let mut spki = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        spki.extend_from_slice(&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42]);
        spki.extend_from_slice(&[0x00, 0x04]);
        spki.extend_from_slice(&[0x5a; 64]);
        spki
    }

    #[test]
    fn known_forms() {
        let ed25519 = PublicKey::from_spki(&ed25519_spki()).unwrap();
        assert_eq!(ed25519, PublicKey::Ed25519(vec![0x19; 32]));
        let p256 = PublicKey::from_spki(&p256_spki()).unwrap();
        assert_eq!((p256.key_type(), p256.bits(), p256.max_signature()), (KeyType::P256, 256, 72));
        // RFC 9881, 4: the algorithm without parameters.
        let mut spki =
            vec![0x30, 0x82, 0x05, 0x32, 0x30, 0x0b, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03];
        spki.extend_from_slice(&[0x04, 0x03, 0x11, 0x03, 0x82, 0x05, 0x21, 0x00]);
        spki.extend_from_slice(&[7; 1312]);
        let ml_dsa = PublicKey::from_spki(&spki).unwrap();
        assert_eq!(ml_dsa, PublicKey::MlDsa(MlDsa::MlDsa44, vec![7; 1312]));
        assert_eq!((ml_dsa.bits(), ml_dsa.max_signature()), (10496, 2420));
        // The key of one set under the name of another.
        spki[16] = 0x12;
        assert!(PublicKey::from_spki(&spki).is_err());
    }

    #[test]
    fn damage_is_refused() {
        let good = p256_spki();
        for end in 0..good.len() {
            assert!(PublicKey::from_spki(&good[..end]).is_err(), "cut at {end}");
        }
        let mut trailing = good.clone();
        trailing.push(0);
        assert!(PublicKey::from_spki(&trailing).is_err());
        let mut compressed = good;
        compressed[26] = 2;
        assert!(PublicKey::from_spki(&compressed).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = PublicKey::from_spki(&bytes);
        }
    }
}
