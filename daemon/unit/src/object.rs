use aws_lc_rs::agreement;
use aws_lc_rs::encoding::{AsBigEndian, AsDer, Curve25519SeedBin, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use der::Decode;
use der::asn1::{ObjectIdentifier, OctetStringRef};
use zeroize::Zeroizing;

use crate::blob::Attributes;
use crate::error::UnitError;
use crate::key::{Algorithm, Key, Unsupported, ec_to_pkcs8};
use crate::pkcs8;

/// The content of a blob in the clear: a key and its attributes.
pub(crate) struct Object {
    pub(crate) attributes: Attributes,
    pub(crate) material: Material,
}

/// A key in the clear. Neither cloned nor printed.
pub(crate) enum Material {
    /// A key that TLS signs with.
    Key(Key),
    /// A key on secp256k1.
    Koblitz(Koblitz),
    /// A secret key.
    Secret(Secret),
    /// A key for agreement (RFC 7748).
    X25519(X25519),
}

impl Material {
    /// Reads the output of [`Self::to_plain`].
    ///
    /// # Errors
    /// For any other input, and for a private key whose parts do not belong together.
    pub(crate) fn from_plain(plain: &[u8]) -> Result<Self, Unspecified> {
        match plain.split_first().ok_or(Unspecified)? {
            (&Secret::AES, value) => Secret::new(SecretKind::Aes, value.to_vec()).map(Self::Secret),
            (&Secret::GENERIC, value) => Secret::new(SecretKind::Generic, value.to_vec()).map(Self::Secret),
            _ => Self::from_pkcs8(plain),
        }
    }

    /// Reads a private key in PKCS#8 (RFC 5958).
    ///
    /// # Errors
    /// If the input is not a private key of a supported type.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Unspecified> {
        match Algorithm::from_pkcs8(pkcs8) {
            Ok(algorithm) => Ok(Self::Key(Key::from_pkcs8(algorithm, pkcs8)?)),
            Err(Unsupported::Algorithm(SECP256K1)) => Koblitz::from_pkcs8(pkcs8).map(Self::Koblitz),
            Err(Unsupported::Algorithm(X25519_OID)) => X25519::from_pkcs8(pkcs8).map(Self::X25519),
            Err(_) => Err(Unspecified),
        }
    }

    /// The key in the form of a blob: a private key as PKCS#8, a secret key as a byte for its kind
    /// and its value.
    pub(crate) fn to_plain(&self) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        match self {
            Self::Secret(secret) => {
                let mut plain = Zeroizing::new(Vec::with_capacity(1 + secret.value.len()));
                plain.push(secret.tag());
                plain.extend_from_slice(&secret.value);
                Ok(plain)
            }
            private => private.to_pkcs8(),
        }
    }

    /// A private key as PKCS#8.
    pub(crate) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        match self {
            Self::Key(key) => key.to_pkcs8(),
            Self::Koblitz(key) => ec_to_pkcs8(&key.pair),
            Self::X25519(key) => key.to_pkcs8(),
            Self::Secret(_) => Err(Unspecified),
        }
    }

    /// The public key of a private key, as SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> Option<&[u8]> {
        match self {
            Self::Key(key) => Some(key.spki()),
            Self::Koblitz(key) => Some(&key.spki),
            Self::X25519(key) => Some(&key.spki),
            Self::Secret(_) => None,
        }
    }

    /// Uses a key once and checks the result. This proves that the private and the public half
    /// belong together before anyone relies on the key.
    pub(crate) fn prove(&self) -> Result<(), UnitError> {
        const MESSAGE: &[u8] = b"keyward: first signature of a key";
        match self {
            Self::Key(key) => return key.prove(),
            Self::Koblitz(Koblitz { pair, .. }) => {
                let signature = pair.sign(&aws_lc_rs::rand::SystemRandom::new(), MESSAGE);
                signature.and_then(|signature| {
                    let public = pair.public_key().as_ref();
                    UnparsedPublicKey::new(&signature::ECDSA_P256K1_SHA256_FIXED, public)
                        .verify(MESSAGE, signature.as_ref())
                })
            }
            // The public half was computed from the private half just now; a secret key has no
            // public half.
            Self::Secret(_) | Self::X25519(_) => Ok(()),
        }
        .map_err(|_| UnitError::Crypto("verify the first signature of the key"))
    }
}

/// A private key on secp256k1 (SEC 2, 2.4.1).
pub(crate) struct Koblitz {
    pub(crate) pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Koblitz {
    pub(crate) fn generate() -> Result<Self, Unspecified> {
        Self::new(EcdsaKeyPair::generate(&signature::ECDSA_P256K1_SHA256_FIXED_SIGNING)?)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Unspecified> {
        Self::new(EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256K1_SHA256_FIXED_SIGNING, pkcs8)?)
    }

    fn new(pair: EcdsaKeyPair) -> Result<Self, Unspecified> {
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
        Ok(Self { spki: spki.as_ref().to_vec(), pair })
    }
}

/// A private key of X25519.
pub(crate) struct X25519 {
    key: agreement::PrivateKey,
    spki: Vec<u8>,
}

impl X25519 {
    pub(crate) fn generate() -> Result<Self, Unspecified> {
        Self::new(agreement::PrivateKey::generate(&agreement::X25519)?)
    }

    /// RFC 8410, 7: an OCTET STRING within the OCTET STRING.
    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Unspecified> {
        let (_, inner) = pkcs8::fields(pkcs8).map_err(|_| Unspecified)?;
        let seed = <&OctetStringRef>::from_der(inner.as_bytes()).map_err(|_| Unspecified)?;
        Self::new(agreement::PrivateKey::from_private_key(&agreement::X25519, seed.as_bytes())?)
    }

    fn new(key: agreement::PrivateKey) -> Result<Self, Unspecified> {
        let spki: PublicKeyX509Der<'_> = key.compute_public_key()?.as_der()?;
        Ok(Self { spki: spki.as_ref().to_vec(), key })
    }

    /// The 32 bytes of the private key.
    pub(crate) fn seed(&self) -> Result<Curve25519SeedBin<'static>, Unspecified> {
        self.key.as_be_bytes()
    }

    fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let seed = self.seed()?;
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(X25519_PKCS8.len() + 32));
        pkcs8.extend_from_slice(X25519_PKCS8);
        pkcs8.extend_from_slice(seed.as_ref());
        Ok(pkcs8)
    }
}

/// A secret key.
pub(crate) struct Secret {
    pub(crate) kind: SecretKind,
    pub(crate) value: Zeroizing<Vec<u8>>,
}

impl Secret {
    // The numbers of the types in PKCS #11, CKK_AES and CKK_GENERIC_SECRET. A PKCS#8 begins with
    // 0x30.
    const AES: u8 = 0x1f;
    const GENERIC: u8 = 0x10;

    /// # Errors
    /// If a key of this kind cannot have this length.
    pub(crate) fn new(kind: SecretKind, value: Vec<u8>) -> Result<Self, Unspecified> {
        let value = Zeroizing::new(value);
        let fits = match kind {
            SecretKind::Aes => [16, 24, 32].contains(&value.len()),
            SecretKind::Generic => (1..=Self::MAX_GENERIC).contains(&value.len()),
        };
        fits.then_some(Self { kind, value }).ok_or(Unspecified)
    }

    /// Longest generic secret, in bytes.
    pub(crate) const MAX_GENERIC: usize = 4096;

    fn tag(&self) -> u8 {
        match self.kind {
            SecretKind::Aes => Self::AES,
            SecretKind::Generic => Self::GENERIC,
        }
    }
}

/// The use of a secret key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SecretKind {
    Aes,
    /// For MACs and derivations.
    Generic,
}

/// SEC 2, A.2.1.
pub(crate) const SECP256K1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.10");
/// RFC 8410, 3.
pub(crate) const X25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");

/// The PKCS#8 of an X25519 key up to the 32 bytes of the key (RFC 8410, 7).
const X25519_PKCS8: &[u8] = &[0x30, 46, 2, 1, 0, 0x30, 5, 6, 3, 43, 101, 110, 4, 34, 4, 32];
