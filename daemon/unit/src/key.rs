use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::encoding::{AsBigEndian, AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::{KeyRejected, Unspecified};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::VerificationAlgorithm;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding};
use aws_lc_rs::signature::{PqdsaKeyPair, PqdsaSigningAlgorithm, RsaKeyPair, Signature, UnparsedPublicKey};
use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Encode, Tag};
use keyward_proto::oid::{
    EC_PUBLIC_KEY, ED25519, RSA_ENCRYPTION, RSASSA_PSS, SECP256R1, SECP384R1, SECP521R1,
};
use keyward_proto::{Curve, Hash, KeyType, MlDsa, PssParameters, PublicKey, Scheme, SchemeFamily};
use zeroize::Zeroizing;

use crate::error::UnitError;
use crate::{pkcs8, rsa_numbers};

/// A private key in the clear, ready to sign. Neither cloned nor printed.
pub(crate) struct Key {
    key_type: KeyType,
    spki: Vec<u8>,
    pair: Pair,
}

impl Key {
    /// Generates a key.
    ///
    /// # Errors
    /// [`UnitError::KeyTypeNotSupported`] for a type that is not in [`KeyType::GENERATED`].
    pub(crate) fn generate(key_type: KeyType) -> Result<Self, UnitError> {
        let ec = |curve| EcdsaKeyPair::generate(native(curve).signing).map(|pair| Pair::Ec(curve, pair));
        let rsa = |size| RsaKeyPair::generate(size).map(Pair::Rsa);
        let rsa_pss = |size| RsaKeyPair::generate(size).map(|pair| Pair::RsaPss(None, pair));
        let pair = match key_type {
            KeyType::P256 => ec(Curve::P256),
            KeyType::P384 => ec(Curve::P384),
            KeyType::P521 => ec(Curve::P521),
            KeyType::Ed25519 => Ed25519KeyPair::generate().map(Pair::Ed25519),
            KeyType::Rsa(2048) => rsa(KeySize::Rsa2048),
            KeyType::Rsa(3072) => rsa(KeySize::Rsa3072),
            KeyType::Rsa(4096) => rsa(KeySize::Rsa4096),
            KeyType::RsaPss(2048) => rsa_pss(KeySize::Rsa2048),
            KeyType::RsaPss(3072) => rsa_pss(KeySize::Rsa3072),
            KeyType::RsaPss(4096) => rsa_pss(KeySize::Rsa4096),
            KeyType::MlDsa(parameters) => {
                PqdsaKeyPair::generate(ml_dsa(parameters)).map(|pair| Pair::MlDsa(parameters, pair))
            }
            _ => return Err(UnitError::KeyTypeNotSupported(key_type)),
        };
        pair.and_then(Self::new).map_err(|_| UnitError::Crypto("generate a key"))
    }

    /// Reads a PKCS#8 (RFC 5958) from [`Self::to_pkcs8`] or from a file. The library checks that
    /// the parts of the key belong together.
    pub(crate) fn from_pkcs8(algorithm: Algorithm, pkcs8: &[u8]) -> Result<Self, KeyRejected> {
        Self::new(match algorithm {
            Algorithm::Ec(curve) => Pair::Ec(curve, EcdsaKeyPair::from_pkcs8(native(curve).signing, pkcs8)?),
            Algorithm::Ed25519 => Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8)?),
            Algorithm::Rsa => Pair::Rsa(RsaKeyPair::from_pkcs8(pkcs8)?),
            Algorithm::RsaPss(parameters) => {
                let key = pkcs8::fields(pkcs8).map_err(|_| Unspecified)?.1;
                Pair::RsaPss(parameters, RsaKeyPair::from_der(key.as_bytes())?)
            }
            Algorithm::MlDsa(parameters) => {
                Pair::MlDsa(parameters, PqdsaKeyPair::from_pkcs8(ml_dsa(parameters), pkcs8)?)
            }
        })
        .map_err(KeyRejected::from)
    }

    /// Reads an ECPrivateKey (RFC 5915, formerly SEC 1).
    pub(crate) fn from_sec1(curve: Curve, der: &[u8]) -> Result<Self, KeyRejected> {
        let pair = EcdsaKeyPair::from_private_key_der(native(curve).signing, der)?;
        Self::new(Pair::Ec(curve, pair)).map_err(KeyRejected::from)
    }

    /// Reads an RSAPrivateKey (RFC 8017, A.1.2), bound to RSASSA-PSS if `algorithm` is.
    pub(crate) fn from_pkcs1(algorithm: Algorithm, der: &[u8]) -> Result<Self, Unspecified> {
        let pair = match rsa_numbers::reduced(der)? {
            Some(pair) => pair,
            None => RsaKeyPair::from_der(der)?,
        };
        Self::new(match algorithm {
            Algorithm::RsaPss(parameters) => Pair::RsaPss(parameters, pair),
            _ => Pair::Rsa(pair),
        })
    }

    /// Makes an Ed25519 key from its seed. Checks the public key, if there is one.
    pub(crate) fn from_ed25519(seed: &[u8], public: Option<&[u8]>) -> Result<Self, KeyRejected> {
        let pair = match public {
            Some(public) => Ed25519KeyPair::from_seed_and_public_key(seed, public)?,
            None => Ed25519KeyPair::from_seed_unchecked(seed)?,
        };
        Self::new(Pair::Ed25519(pair)).map_err(KeyRejected::from)
    }

    /// Makes an EC key from its private number, with or without leading zeros, and an uncompressed
    /// point.
    pub(crate) fn from_ec(curve: Curve, private: &[u8], point: &[u8]) -> Result<Self, KeyRejected> {
        let length = (point.len().max(1) - 1) / 2;
        let mut whole = Zeroizing::new(vec![0; length]);
        let start = length.checked_sub(private.len()).ok_or(Unspecified)?;
        whole[start..].copy_from_slice(private);
        let pair = EcdsaKeyPair::from_private_key_and_public_key(native(curve).signing, &whole, point)?;
        Self::new(Pair::Ec(curve, pair)).map_err(KeyRejected::from)
    }

    /// Makes a key from an RSA key of the library.
    pub(crate) fn from_rsa(pair: RsaKeyPair) -> Result<Self, Unspecified> {
        Self::new(Pair::Rsa(pair))
    }

    fn new(pair: Pair) -> Result<Self, Unspecified> {
        let spki = pair.spki()?;
        let key_type = PublicKey::from_spki(&spki).map_err(|_| Unspecified)?.key_type();
        Ok(Self { key_type, spki, pair })
    }

    /// The key as PKCS#8: an EC key with its public key, an ML-DSA key as its seed (RFC 9881, 6).
    ///
    /// # Errors
    /// For an ML-DSA key without a known seed.
    pub(crate) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let pkcs8 = self.to_unbound_pkcs8()?;
        match &self.pair {
            Pair::RsaPss(parameters, _) => bind_to_pss(&pkcs8, *parameters).map_err(|_| Unspecified),
            _ => Ok(pkcs8),
        }
    }

    /// The key as PKCS#8, without the bond to RSASSA-PSS of an RSA key: EP11 units do not know the
    /// bond.
    pub(crate) fn to_unbound_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
        let copy = |der: &[u8]| Zeroizing::new(der.to_vec());
        Ok(match &self.pair {
            Pair::Ec(_, pair) => ec_to_pkcs8(pair)?,
            Pair::Ed25519(pair) => copy(pair.to_pkcs8v1()?.as_ref()),
            Pair::Rsa(pair) | Pair::RsaPss(_, pair) => copy(AsDer::<Pkcs8V1Der<'_>>::as_der(pair)?.as_ref()),
            Pair::MlDsa(_, pair) => copy(pair.to_pkcs8v1()?.as_ref()),
        })
    }

    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    pub(crate) fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub(crate) fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Signs a message or a digest.
    pub(crate) fn sign(&self, scheme: Scheme, input: SigningInput<'_>) -> Result<Vec<u8>, UnitError> {
        let mismatch = UnitError::SchemeNotSupported { scheme, key_type: self.key_type };
        match (&self.pair, scheme.family(), scheme.hash()) {
            (Pair::Ec(curve, pair), SchemeFamily::Ecdsa, Some(hash)) => {
                let digest = fit(digest_of(hash, input)?.as_ref(), native(*curve).digest);
                let digest = digest.map_err(|_| UnitError::Crypto("sign"))?;
                bytes_of(&pair.sign_digest(&digest))
            }
            (Pair::Ed25519(pair), SchemeFamily::Ed25519, None) => match input {
                SigningInput::Message(message) => bytes_of(&pair.try_sign(message)),
                SigningInput::Digest(_) => return Err(UnitError::WholeMessageNeeded(scheme)),
            },
            (Pair::MlDsa(parameters, pair), SchemeFamily::MlDsa(asked), None) if *parameters == asked => {
                let SigningInput::Message(message) = input else {
                    return Err(UnitError::WholeMessageNeeded(scheme));
                };
                sign_ml_dsa(pair, message)
            }
            (Pair::Rsa(pair) | Pair::RsaPss(_, pair), family, Some(hash)) if self.signs_with(scheme) => {
                let padding = padding(family, hash).ok_or(mismatch)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(padding, &digest_of(hash, input)?, &mut signature).map(|()| signature)
            }
            _ => return Err(mismatch),
        }
        .map_err(|_| UnitError::Crypto("sign"))
    }

    /// True if an RSA key may sign with a scheme. A key that is bound to RSASSA-PSS signs with its
    /// own scheme only, and other keys do not sign as if they were bound.
    fn signs_with(&self, scheme: Scheme) -> bool {
        match &self.pair {
            Pair::RsaPss(Some(parameters), _) => {
                Scheme::of(SchemeFamily::RsaPssPss, Some(parameters.hash())) == Some(scheme)
            }
            _ => self.key_type.schemes().contains(&scheme),
        }
    }

    /// Signs a message and verifies the signature. This proves that the private and the public half
    /// belong together before anyone relies on the key.
    pub(crate) fn prove(&self) -> Result<(), UnitError> {
        const MESSAGE: &[u8] = b"keyward: first signature of a key";
        let broken = UnitError::Crypto("verify the first signature of the key");
        let (scheme, verification, public): (_, &'static dyn VerificationAlgorithm, &[u8]) = match &self.pair
        {
            Pair::Ec(curve, pair) => {
                let native = native(*curve);
                (native.scheme, native.verification, pair.public_key().as_ref())
            }
            Pair::Ed25519(pair) => (Scheme::Ed25519, &signature::ED25519, pair.public_key().as_ref()),
            Pair::Rsa(pair) => {
                let verification = &signature::RSA_PSS_2048_8192_SHA256;
                (Scheme::RsaPssRsaeSha256, verification, pair.public_key().as_ref())
            }
            Pair::RsaPss(parameters, pair) => {
                let hash = parameters.map_or(Hash::Sha256, PssParameters::hash);
                let verification = match hash {
                    Hash::Sha256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Hash::Sha384 => &signature::RSA_PSS_2048_8192_SHA384,
                    _ => &signature::RSA_PSS_2048_8192_SHA512,
                };
                let scheme = Scheme::of(SchemeFamily::RsaPssPss, Some(hash)).ok_or(broken)?;
                (scheme, verification, pair.public_key().as_ref())
            }
            Pair::MlDsa(parameters, pair) => {
                let scheme = KeyType::MlDsa(*parameters).schemes().first().copied().ok_or(broken)?;
                (scheme, verifying_ml_dsa(*parameters), pair.public_key().as_ref())
            }
        };
        let signature = self.sign(scheme, SigningInput::Message(MESSAGE))?;
        UnparsedPublicKey::new(verification, public).verify(MESSAGE, &signature).map_err(|_| broken)
    }
}

/// The input of a signature.
#[derive(Clone, Copy)]
pub enum SigningInput<'a> {
    /// A whole message; the unit hashes it.
    Message(&'a [u8]),
    /// A digest, made with the hash of the scheme.
    Digest(&'a [u8]),
}

/// The key in the form of the library.
pub(crate) enum Pair {
    Ec(Curve, EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    MlDsa(MlDsa, PqdsaKeyPair),
    Rsa(RsaKeyPair),
    /// Bound to RSASSA-PSS (RFC 4055, 1.2).
    RsaPss(Option<PssParameters>, RsaKeyPair),
}

impl Pair {
    fn spki(&self) -> Result<Vec<u8>, Unspecified> {
        let spki: PublicKeyX509Der<'_> = match self {
            Self::Ec(_, pair) => pair.public_key().as_der()?,
            Self::Ed25519(pair) => pair.public_key().as_der()?,
            Self::MlDsa(_, pair) => pair.public_key().as_der()?,
            Self::Rsa(pair) => pair.public_key().as_der()?,
            Self::RsaPss(parameters, pair) => {
                let spki: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
                return PublicKey::bind_to_pss(spki.as_ref(), *parameters).ok_or(Unspecified);
            }
        };
        Ok(spki.as_ref().to_vec())
    }
}

/// Writes an EC key as PKCS#8 with its public key as an uncompressed point.
///
/// EP11 units write the public key so and may require it, although it is optional (RFC 5915, 3).
/// The library would write the public key in the form of the file that the key came from, or leave
/// it out.
pub(crate) fn ec_to_pkcs8(pair: &EcdsaKeyPair) -> Result<Zeroizing<Vec<u8>>, Unspecified> {
    let (private, public) = (pair.private_key().as_be_bytes()?, pair.public_key());
    let whole =
        EcdsaKeyPair::from_private_key_and_public_key(pair.algorithm(), private.as_ref(), public.as_ref())?;
    Ok(Zeroizing::new(whole.to_pkcs8v1()?.as_ref().to_vec()))
}

/// The algorithm of a private key.
#[derive(Clone, Copy)]
pub(crate) enum Algorithm {
    Ec(Curve),
    Ed25519,
    MlDsa(MlDsa),
    Rsa,
    RsaPss(Option<PssParameters>),
}

impl Algorithm {
    /// Reads an AlgorithmIdentifier (RFC 5280, 4.1.1.2).
    ///
    /// # Errors
    /// The unsupported object identifier: of the algorithm, or of the curve if there is one.
    pub(crate) fn from_identifier(identifier: AnyRef<'_>) -> Result<Self, Unsupported> {
        let fields = identifier.sequence(|fields| {
            let algorithm = ObjectIdentifier::decode(fields)?;
            Ok::<_, der::Error>((algorithm, Option::<AnyRef<'_>>::decode(fields)?))
        });
        let (algorithm, parameters) = fields.map_err(|_| Unsupported::Malformed)?;
        match algorithm {
            RSA_ENCRYPTION => Ok(Self::Rsa),
            RSASSA_PSS => match parameters.map(PssParameters::read) {
                Some(None) => Err(Unsupported::PssParameters),
                parameters => Ok(Self::RsaPss(parameters.flatten())),
            },
            ED25519 => Ok(Self::Ed25519),
            EC_PUBLIC_KEY => {
                let curve = parameters.ok_or(Unsupported::Malformed)?;
                // A key may spell out its curve instead of naming it (RFC 3279, 2.3.5).
                let curve = curve.decode_as().map_err(|_| Unsupported::ExplicitCurve)?;
                Self::curve(curve).map(Self::Ec)
            }
            other => MlDsa::of_oid(other).map(Self::MlDsa).ok_or(Unsupported::Algorithm(other)),
        }
    }

    /// Finds the curve of an object identifier (RFC 5480, 2.1.1.1).
    pub(crate) fn curve(name: ObjectIdentifier) -> Result<Curve, Unsupported> {
        let known = [(SECP256R1, Curve::P256), (SECP384R1, Curve::P384), (SECP521R1, Curve::P521)];
        let found = known.into_iter().find(|(oid, _)| *oid == name);
        found.map(|(_, curve)| curve).ok_or(Unsupported::Algorithm(name))
    }

    /// Reads the algorithm of a PKCS#8.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, Unsupported> {
        Self::from_identifier(pkcs8::fields(pkcs8).map_err(|_| Unsupported::Malformed)?.0)
    }
}

/// The reason why an AlgorithmIdentifier is not supported.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unsupported {
    Algorithm(ObjectIdentifier),
    ExplicitCurve,
    Malformed,
    PssParameters,
}

/// Replaces the algorithm in the PKCS#8 of an RSA key by RSASSA-PSS.
fn bind_to_pss(pkcs8: &[u8], parameters: Option<PssParameters>) -> der::Result<Zeroizing<Vec<u8>>> {
    let key = pkcs8::fields(pkcs8)?.1;
    let identifier = PssParameters::algorithm_identifier(parameters);
    // Full capacity from the start, so that growing leaves no copy of the key behind. The version
    // takes 3 bytes.
    let length = der::Length::try_from(3 + identifier.len())? + key.encoded_len()?;
    let length = length?;
    let header = der::Header::new(Tag::Sequence, length);
    let mut bound = Zeroizing::new(Vec::with_capacity(usize::try_from((length + header.encoded_len()?)?)?));
    header.encode_to_vec(&mut bound)?;
    0u8.encode_to_vec(&mut bound)?;
    bound.extend_from_slice(&identifier);
    key.encode_to_vec(&mut bound)?;
    Ok(bound)
}

/// The bytes of a signature. By reference, because a `Signature` of aws-lc-rs has room for
/// ML-DSA-87, 4,627 bytes, and each move copies them all.
fn bytes_of(signed: &Result<Signature, Unspecified>) -> Result<Vec<u8>, Unspecified> {
    match signed {
        Ok(signature) => Ok(signature.as_ref().to_vec()),
        Err(Unspecified) => Err(Unspecified),
    }
}

/// Signs a message with an empty context (FIPS 204, 5.2).
pub(crate) fn sign_ml_dsa(pair: &PqdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let mut signature = vec![0; pair.algorithm().signature_len()];
    let length = pair.sign(message, &mut signature)?;
    signature.truncate(length);
    Ok(signature)
}

fn ml_dsa(parameters: MlDsa) -> &'static PqdsaSigningAlgorithm {
    match parameters {
        MlDsa::MlDsa44 => &signature::ML_DSA_44_SIGNING,
        MlDsa::MlDsa65 => &signature::ML_DSA_65_SIGNING,
        MlDsa::MlDsa87 => &signature::ML_DSA_87_SIGNING,
    }
}

pub(crate) fn verifying_ml_dsa(parameters: MlDsa) -> &'static dyn VerificationAlgorithm {
    match parameters {
        MlDsa::MlDsa44 => &signature::ML_DSA_44,
        MlDsa::MlDsa65 => &signature::ML_DSA_65,
        MlDsa::MlDsa87 => &signature::ML_DSA_87,
    }
}

/// The digest of a message, or the caller's digest.
fn digest_of(hash: Hash, input: SigningInput<'_>) -> Result<Digest, UnitError> {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        _ => &digest::SHA512,
    };
    match input {
        SigningInput::Message(message) => Ok(digest::digest(algorithm, message)),
        SigningInput::Digest(digest) => Digest::import_less_safe(digest, algorithm)
            .map_err(|_| UnitError::DigestLength { needed: hash.length(), given: digest.len() }),
    }
}

/// Gives a digest the length that the library requires for a curve, without changing the signature.
///
/// ECDSA reads a digest as a number and takes as many of its leftmost bits as the order of the
/// curve has (FIPS 186-5, 6.4.1): 256, 384 or 521. On P-256 and P-384 the native digest has exactly
/// this length, so the bytes that are cut off on the right never count. On P-521 the native digest
/// has 512 bits, so a longer digest is refused and not cut. Zeros on the left do not change a
/// number.
///
/// # Errors
/// For a digest of more than 64 bytes on P-521.
pub(crate) fn fit(digest: &[u8], native: &'static digest::Algorithm) -> Result<Digest, Unspecified> {
    let length = native.output_len();
    if length == digest::SHA512_OUTPUT_LEN && digest.len() > length {
        return Err(Unspecified);
    }
    let mut fitted = [0; digest::MAX_OUTPUT_LEN];
    let fitted = &mut fitted[..length];
    let kept = digest.len().min(length);
    fitted[length - kept..].copy_from_slice(&digest[..kept]);
    Digest::import_less_safe(fitted, native)
}

/// The algorithms of the library for a curve.
pub(crate) struct Native {
    scheme: Scheme,
    pub(crate) digest: &'static digest::Algorithm,
    signing: &'static EcdsaSigningAlgorithm,
    verification: &'static dyn VerificationAlgorithm,
}

pub(crate) fn native(curve: Curve) -> Native {
    match curve {
        Curve::P256 => Native {
            scheme: Scheme::EcdsaSecp256r1Sha256,
            digest: &digest::SHA256,
            signing: &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            verification: &signature::ECDSA_P256_SHA256_ASN1,
        },
        Curve::P384 => Native {
            scheme: Scheme::EcdsaSecp384r1Sha384,
            digest: &digest::SHA384,
            signing: &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
            verification: &signature::ECDSA_P384_SHA384_ASN1,
        },
        Curve::P521 => Native {
            scheme: Scheme::EcdsaSecp521r1Sha512,
            digest: &digest::SHA512,
            signing: &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
            verification: &signature::ECDSA_P521_SHA512_ASN1,
        },
    }
}

/// The library's salt for PSS is as long as the hash, as TLS asks (RFC 8446, 4.2.3).
fn padding(family: SchemeFamily, hash: Hash) -> Option<&'static dyn RsaEncoding> {
    Some(match (family, hash) {
        (SchemeFamily::RsaPkcs1, Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
        (SchemeFamily::RsaPkcs1, Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
        (SchemeFamily::RsaPkcs1, Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, Hash::Sha256) => &signature::RSA_PSS_SHA256,
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, Hash::Sha384) => &signature::RSA_PSS_SHA384,
        (SchemeFamily::RsaPss | SchemeFamily::RsaPssPss, Hash::Sha512) => &signature::RSA_PSS_SHA512,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use crate::import;
    use crate::test_openssl::run;

    #[test]
    fn pkcs8_has_the_public_key_whatever_the_file_had() {
        for curve in ["P-256", "P-384", "P-521"] {
            let pem = run(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve}"), &[]);
            let pkcs8 = |file: &[u8]| run("pkcs8 -topk8 -nocrypt -outform DER", file);
            let (bare, short) = (run("ec -no_public", &pem), run("ec -conv_form compressed", &pem));
            for file in [&pem, &bare, &short, &pkcs8(&bare), &pkcs8(&short)] {
                let written = import::read(file).unwrap().to_pkcs8().unwrap();
                assert!(*written == pkcs8(&pem), "{curve}");
            }
        }
    }
}
