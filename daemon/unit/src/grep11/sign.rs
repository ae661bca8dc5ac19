//! Signatures and MACs, and their verification.

use std::sync::Arc;

use aws_lc_rs::digest as library;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use der::asn1::UintRef;
use der::{Decode, Reader, SliceReader};
use keyward_grep11::{
    Mechanism, SignFinalRequest, SignFinalResponse, SignInitRequest, SignInitResponse, SignRequest,
    SignResponse, SignSingleRequest, SignSingleResponse, SignUpdateRequest, SignUpdateResponse,
    VerifyFinalRequest, VerifyFinalResponse, VerifyInitRequest, VerifyInitResponse, VerifyRequest,
    VerifyResponse, VerifySingleRequest, VerifySingleResponse, VerifyUpdateRequest, VerifyUpdateResponse,
    ckf, ckm, ckr,
};
use keyward_proto::Curve;

use super::Crypto;
use super::digest::hashing;
use super::hash::{HashFunction, Hmac};
use super::mechanism::{Pss, no_parameter, not_offered, offered, pss};
use super::public_key::{PublicKey, PublicMaterial};
use super::rsa::{Verifying, rsa_size};
use super::state::{Operation, State};
use super::{Error, key_argument, long_digest, permitted, rsa, wrong_type};
use crate::blob::Attributes;
use crate::key::{Pair, fit, native, sign_ml_dsa, verifying_ml_dsa};
use crate::object::{Material, Object};

impl Crypto {
    /// Begins a signature or a MAC.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn sign_init(&self, request: SignInitRequest) -> Result<SignInitResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_SIGN)?;
        let key = key_argument(request.priv_key, request.priv_key_bytes)?;
        self.signer(Scheme::of(&mechanism)?, &key)?;
        let state = State::new(Operation::Sign, mechanism, key);
        Ok(SignInitResponse { state: self.wrap_state(&state)? })
    }

    /// Signs in one piece.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn sign(&self, request: SignRequest) -> Result<SignResponse, Error> {
        let state = self.state(&request.state, Operation::Sign)?;
        state.not_started()?;
        let scheme = Scheme::of(&state.mechanism()?)?;
        let signature = self.signer(scheme, &state.key)?.sign(&request.data)?;
        Ok(SignResponse { signature })
    }

    /// Adds data to be signed.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn sign_update(&self, request: SignUpdateRequest) -> Result<SignUpdateResponse, Error> {
        let mut state = self.state(&request.state, Operation::Sign)?;
        let scheme = Scheme::of(&state.mechanism()?)?;
        let signer = self.signer(scheme, &state.key)?;
        update(scheme, signer.secret(), &mut state, &request.data)?;
        Ok(SignUpdateResponse { state: self.wrap_state(&state)? })
    }

    /// Ends a signature.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn sign_final(&self, request: SignFinalRequest) -> Result<SignFinalResponse, Error> {
        let state = self.state(&request.state, Operation::Sign)?;
        let scheme = Scheme::of(&state.mechanism()?)?;
        let signer = self.signer(scheme, &state.key)?;
        let input = finish(scheme, signer.secret(), &state)?;
        Ok(SignFinalResponse { signature: signer.sign_prepared(&input)? })
    }

    /// Signs in one call.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn sign_single(&self, request: SignSingleRequest) -> Result<SignSingleResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_SIGN)?;
        let key = key_argument(request.priv_key, request.priv_key_bytes)?;
        let signature = self.signer(Scheme::of(&mechanism)?, &key)?.sign(&request.data)?;
        Ok(SignSingleResponse { signature })
    }

    /// Begins the verification of a signature or MAC.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn verify_init(&self, request: VerifyInitRequest) -> Result<VerifyInitResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_VERIFY)?;
        let key = key_argument(request.pub_key, request.pub_key_bytes)?;
        self.verifier(Scheme::of(&mechanism)?, &key)?;
        let state = State::new(Operation::Verify, mechanism, key);
        Ok(VerifyInitResponse { state: self.wrap_state(&state)? })
    }

    /// Verifies in one piece.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID` and `CKR_SIGNATURE_LEN_RANGE` unless the signature is right.
    pub fn verify(&self, request: VerifyRequest) -> Result<VerifyResponse, Error> {
        let state = self.state(&request.state, Operation::Verify)?;
        state.not_started()?;
        let scheme = Scheme::of(&state.mechanism()?)?;
        self.verifier(scheme, &state.key)?.verify(&request.data, &request.signature)?;
        Ok(VerifyResponse {})
    }

    /// Adds data to be verified.
    ///
    /// # Errors
    /// As for all calls: see [`Error`].
    pub fn verify_update(&self, request: VerifyUpdateRequest) -> Result<VerifyUpdateResponse, Error> {
        let mut state = self.state(&request.state, Operation::Verify)?;
        let scheme = Scheme::of(&state.mechanism()?)?;
        let verifier = self.verifier(scheme, &state.key)?;
        update(scheme, verifier.secret(), &mut state, &request.data)?;
        Ok(VerifyUpdateResponse { state: self.wrap_state(&state)? })
    }

    /// Ends a verification.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID` and `CKR_SIGNATURE_LEN_RANGE` unless the signature is right.
    pub fn verify_final(&self, request: VerifyFinalRequest) -> Result<VerifyFinalResponse, Error> {
        let state = self.state(&request.state, Operation::Verify)?;
        let scheme = Scheme::of(&state.mechanism()?)?;
        let verifier = self.verifier(scheme, &state.key)?;
        let input = finish(scheme, verifier.secret(), &state)?;
        verifier.verify_prepared(&input, &request.signature)?;
        Ok(VerifyFinalResponse {})
    }

    /// Verifies in one call.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID` and `CKR_SIGNATURE_LEN_RANGE` unless the signature is right.
    pub fn verify_single(&self, request: VerifySingleRequest) -> Result<VerifySingleResponse, Error> {
        let mechanism = offered(request.mech, ckf::CKF_VERIFY)?;
        let key = key_argument(request.pub_key, request.pub_key_bytes)?;
        self.verifier(Scheme::of(&mechanism)?, &key)?.verify(&request.data, &request.signature)?;
        Ok(VerifySingleResponse {})
    }

    /// A key that can and may sign with a scheme.
    fn signer(&self, scheme: Scheme, blob: &[u8]) -> Result<Signer, Error> {
        let object = self.unit.unwrapped(blob)?;
        let fits = match (scheme, &object.material) {
            (Scheme::RsaPkcs(_) | Scheme::RsaPss { .. }, Material::Key(key)) => {
                matches!(key.pair(), Pair::Rsa(_))
            }
            (Scheme::Ecdsa(_), Material::Key(key)) => matches!(key.pair(), Pair::Ec(..)),
            (Scheme::Ed25519, Material::Key(key)) => matches!(key.pair(), Pair::Ed25519(_)),
            (Scheme::MlDsa, Material::Key(key)) => matches!(key.pair(), Pair::MlDsa(..)),
            (Scheme::Ecdsa(_), Material::Koblitz(_)) | (Scheme::Hmac(_), Material::Secret(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(wrong_type(scheme.private_key()));
        }
        permitted(object.attributes, Attributes::SIGN, "CKA_SIGN")?;
        Ok(Signer { scheme, object })
    }

    /// A key that can and may verify with a scheme.
    fn verifier(&self, scheme: Scheme, key: &[u8]) -> Result<Verifier, Error> {
        if let Scheme::Hmac(function) = scheme {
            let object = self.unit.unwrapped(key)?;
            if !matches!(object.material, Material::Secret(_)) {
                return Err(wrong_type(scheme.private_key()));
            }
            permitted(object.attributes, Attributes::VERIFY, "CKA_VERIFY")?;
            return Ok(Verifier::Secret(function, object));
        }
        let key = self.public_key(key)?;
        let fits = matches!(
            (scheme, &key.material),
            (Scheme::RsaPkcs(_) | Scheme::RsaPss { .. }, PublicMaterial::Rsa { .. })
                | (Scheme::RsaPss { .. }, PublicMaterial::RsaPss { .. })
                | (Scheme::Ecdsa(_), PublicMaterial::Ec(..) | PublicMaterial::Koblitz(_))
                | (Scheme::Ed25519, PublicMaterial::Ed25519(_))
                | (Scheme::MlDsa, PublicMaterial::MlDsa(..))
        );
        if !fits {
            return Err(wrong_type(scheme.public_key()));
        }
        if let Some(attributes) = key.attributes {
            permitted(attributes, Attributes::VERIFY, "CKA_VERIFY")?;
        }
        Ok(Verifier::Public(scheme, Box::new(key)))
    }
}

/// How to sign.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scheme {
    /// Without a hash of its own it takes data as they are, such as a DigestInfo.
    RsaPkcs(Option<HashFunction>),
    /// Takes a digest or, if it is to hash itself, a message.
    RsaPss {
        pss: Pss,
        hashes: bool,
    },
    /// Without a hash of its own it takes a digest, of any length.
    Ecdsa(Option<HashFunction>),
    Ed25519,
    MlDsa,
    Hmac(HashFunction),
}

impl Scheme {
    fn of(mechanism: &Mechanism) -> Result<Self, Error> {
        use HashFunction::{Sha1, Sha224, Sha256, Sha384, Sha512};

        let number = mechanism.mechanism;
        let salted = |hash: Option<HashFunction>| {
            Ok(Self::RsaPss { pss: pss(mechanism, hash)?, hashes: hash.is_some() })
        };
        let scheme = match number {
            ckm::CKM_RSA_PKCS => Self::RsaPkcs(None),
            ckm::CKM_SHA1_RSA_PKCS => Self::RsaPkcs(Some(Sha1)),
            ckm::CKM_SHA224_RSA_PKCS => Self::RsaPkcs(Some(Sha224)),
            ckm::CKM_SHA256_RSA_PKCS => Self::RsaPkcs(Some(Sha256)),
            ckm::CKM_SHA384_RSA_PKCS => Self::RsaPkcs(Some(Sha384)),
            ckm::CKM_SHA512_RSA_PKCS => Self::RsaPkcs(Some(Sha512)),
            ckm::CKM_RSA_PKCS_PSS => return salted(None),
            ckm::CKM_SHA1_RSA_PKCS_PSS => return salted(Some(Sha1)),
            ckm::CKM_SHA224_RSA_PKCS_PSS => return salted(Some(Sha224)),
            ckm::CKM_SHA256_RSA_PKCS_PSS => return salted(Some(Sha256)),
            ckm::CKM_SHA384_RSA_PKCS_PSS => return salted(Some(Sha384)),
            ckm::CKM_SHA512_RSA_PKCS_PSS => return salted(Some(Sha512)),
            ckm::CKM_ECDSA => Self::Ecdsa(None),
            ckm::CKM_ECDSA_SHA1 => Self::Ecdsa(Some(Sha1)),
            ckm::CKM_ECDSA_SHA224 | ckm::CKM_IBM_ECDSA_SHA224 => Self::Ecdsa(Some(Sha224)),
            ckm::CKM_ECDSA_SHA256 | ckm::CKM_IBM_ECDSA_SHA256 => Self::Ecdsa(Some(Sha256)),
            ckm::CKM_ECDSA_SHA384 | ckm::CKM_IBM_ECDSA_SHA384 => Self::Ecdsa(Some(Sha384)),
            ckm::CKM_ECDSA_SHA512 | ckm::CKM_IBM_ECDSA_SHA512 => Self::Ecdsa(Some(Sha512)),
            ckm::CKM_IBM_ED25519_SHA512 => Self::Ed25519,
            ckm::CKM_IBM_ML_DSA => Self::MlDsa,
            _ => {
                let hash = HashFunction::ALL.iter().find(|hash| hash.hmac_numbers().contains(&number));
                Self::Hmac(*hash.ok_or_else(|| not_offered(number))?)
            }
        };
        no_parameter(mechanism)?;
        Ok(scheme)
    }

    /// The hash that is applied to a message before the key is.
    fn hash(self) -> Option<HashFunction> {
        match self {
            Self::RsaPkcs(hash) | Self::Ecdsa(hash) => hash,
            Self::RsaPss { pss, hashes } => hashes.then_some(pss.hash),
            Self::Ed25519 | Self::MlDsa | Self::Hmac(_) => None,
        }
    }

    fn private_key(self) -> &'static str {
        match self {
            Self::RsaPkcs(_) | Self::RsaPss { .. } => "a private RSA key",
            Self::Ecdsa(_) => "a private EC key on P-256, P-384, P-521 or secp256k1",
            Self::Ed25519 => "a private Ed25519 key",
            Self::MlDsa => "a private ML-DSA key",
            Self::Hmac(_) => "a secret key",
        }
    }

    fn public_key(self) -> &'static str {
        match self {
            Self::RsaPkcs(_) | Self::RsaPss { .. } => "a public RSA key",
            Self::Ecdsa(_) => "a public EC key on P-256, P-384, P-521 or secp256k1",
            Self::Ed25519 => "a public Ed25519 key",
            Self::MlDsa => "a public ML-DSA key",
            Self::Hmac(_) => "a secret key",
        }
    }
}

/// Takes another part into the hash or MAC of a state.
fn update(scheme: Scheme, secret: Option<&[u8]>, state: &mut State, data: &[u8]) -> Result<(), Error> {
    let midstate = match (scheme, secret) {
        (Scheme::Hmac(function), Some(secret)) => {
            let mut hmac = resumed(function, secret, state)?;
            hmac.update(data);
            hmac.save()
        }
        _ => {
            let mut hashing = hashing(scheme.hash().ok_or_else(in_one_piece)?, state)?;
            hashing.update(data);
            hashing.save()
        }
    };
    state.take(&midstate, data);
    Ok(())
}

/// What is to be signed or compared after the last part: a digest, or the MAC itself.
fn finish(scheme: Scheme, secret: Option<&[u8]>, state: &State) -> Result<Vec<u8>, Error> {
    match (scheme, secret) {
        (Scheme::Hmac(function), Some(secret)) => Ok(resumed(function, secret, state)?.finish(secret)),
        _ => Ok(hashing(scheme.hash().ok_or_else(in_one_piece)?, state)?.finish()),
    }
}

fn resumed(function: HashFunction, secret: &[u8], state: &State) -> Result<Hmac, Error> {
    match state.started {
        true => Hmac::restore(function, &state.midstate),
        false => Ok(Hmac::new(function, secret)),
    }
}

fn in_one_piece() -> Error {
    Error::new(
        ckr::CKR_FUNCTION_NOT_SUPPORTED,
        "the mechanism takes its data in one piece: use Single, or Init and the call without Update",
    )
}

fn mac(function: HashFunction, secret: &[u8], data: &[u8]) -> Vec<u8> {
    let mut hmac = Hmac::new(function, secret);
    hmac.update(data);
    hmac.finish(secret)
}

struct Signer {
    scheme: Scheme,
    object: Arc<Object>,
}

impl Signer {
    fn secret(&self) -> Option<&[u8]> {
        match &self.object.material {
            Material::Secret(secret) => Some(&secret.value),
            _ => None,
        }
    }

    fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Error> {
        match (self.scheme, self.secret(), self.scheme.hash()) {
            (Scheme::Hmac(function), Some(secret), _) => Ok(mac(function, secret, data)),
            (_, _, Some(hash)) => self.sign_prepared(&hash.of(data)),
            (_, _, None) => self.sign_prepared(data),
        }
    }

    /// Signs what the scheme's own hash, if it has one, was applied to.
    fn sign_prepared(&self, input: &[u8]) -> Result<Vec<u8>, Error> {
        match (self.scheme, &self.object.material) {
            (Scheme::Hmac(_), _) => Ok(input.to_vec()),
            (Scheme::Ecdsa(_), Material::Koblitz(key)) => {
                let digest = fitted(input, &library::SHA256)?;
                Ok(key.pair.sign_digest(&digest)?.as_ref().to_vec())
            }
            (scheme, Material::Key(key)) => match (scheme, key.pair()) {
                (Scheme::Ecdsa(_), Pair::Ec(Curve::P521, _)) if long_digest::is_long(input) => {
                    Ok(long_digest::sign(&key.to_pkcs8()?, input)?)
                }
                (Scheme::Ecdsa(_), Pair::Ec(curve, pair)) => {
                    let signature = pair.sign_digest(&fitted(input, native(*curve).digest)?)?;
                    fixed(signature.as_ref(), curve.field_bytes())
                }
                (Scheme::Ed25519, Pair::Ed25519(pair)) => Ok(pair.try_sign(input)?.as_ref().to_vec()),
                (Scheme::MlDsa, Pair::MlDsa(_, pair)) => Ok(sign_ml_dsa(pair, input)?),
                (Scheme::RsaPkcs(Some(hash)), Pair::Rsa(pair)) => rsa::sign_pkcs1(key, pair, hash, input),
                (Scheme::RsaPkcs(None), Pair::Rsa(pair)) => rsa::sign_bare(key, pair, input),
                (Scheme::RsaPss { pss, .. }, Pair::Rsa(pair)) => rsa::sign_pss(key, pair, pss, input),
                _ => Err(wrong_type(scheme.private_key())),
            },
            (scheme, _) => Err(wrong_type(scheme.private_key())),
        }
    }
}

enum Verifier {
    Public(Scheme, Box<PublicKey>),
    Secret(HashFunction, Arc<Object>),
}

impl Verifier {
    fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Secret(_, object) => match &object.material {
                Material::Secret(secret) => Some(&secret.value),
                _ => None,
            },
            Self::Public(..) => None,
        }
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), Error> {
        match (self, self.secret()) {
            (Self::Secret(function, _), Some(secret)) => {
                self.verify_prepared(&mac(*function, secret, data), signature)
            }
            (Self::Public(scheme, _), _) => match scheme.hash() {
                Some(hash) => self.verify_prepared(&hash.of(data), signature),
                None => self.verify_prepared(data, signature),
            },
            (Self::Secret(..), None) => Err(wrong_type("a secret key")),
        }
    }

    /// Verifies what the scheme's own hash, if it has one, was applied to, or compares the MAC.
    fn verify_prepared(&self, input: &[u8], signature: &[u8]) -> Result<(), Error> {
        let length = |needed: usize| match signature.len() == needed {
            true => Ok(()),
            false => {
                let detail = format!("the signature has {} bytes where {needed} are right", signature.len());
                Err(Error::new(ckr::CKR_SIGNATURE_LEN_RANGE, detail))
            }
        };
        let check = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(input, signature).map_err(|_| invalid())
        };
        let (scheme, key) = match self {
            Self::Secret(..) => {
                length(input.len())?;
                return aws_lc_rs::constant_time::verify_slices_are_equal(input, signature)
                    .map_err(|_| invalid());
            }
            Self::Public(scheme, key) => (*scheme, key),
        };
        match (scheme, &key.material) {
            (Scheme::Ecdsa(_), PublicMaterial::Ec(curve, point)) => {
                length(2 * curve.field_bytes())?;
                if *curve == Curve::P521 && long_digest::is_long(input) {
                    return long_digest::verify(point, input, signature).map_err(|_| invalid());
                }
                let algorithm: &'static dyn VerificationAlgorithm = match curve {
                    Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED,
                };
                let digest = fitted(input, native(*curve).digest)?;
                UnparsedPublicKey::new(algorithm, point)
                    .verify_digest(&digest, signature)
                    .map_err(|_| invalid())
            }
            (Scheme::Ecdsa(_), PublicMaterial::Koblitz(point)) => {
                length(64)?;
                UnparsedPublicKey::new(&signature::ECDSA_P256K1_SHA256_FIXED, point)
                    .verify_digest(&fitted(input, &library::SHA256)?, signature)
                    .map_err(|_| invalid())
            }
            (Scheme::Ed25519, PublicMaterial::Ed25519(public)) => {
                length(64)?;
                check(&signature::ED25519, public)
            }
            (Scheme::MlDsa, PublicMaterial::MlDsa(parameters, public)) => {
                length(parameters.signature_length())?;
                check(verifying_ml_dsa(*parameters), public)
            }
            (Scheme::RsaPss { pss, .. }, PublicMaterial::RsaPss { modulus, exponent, parameters }) => {
                length(modulus.len())?;
                if parameters.is_some_and(|bond| !pss.fits(bond)) {
                    let detail = "the key is bound to another hash or a longer salt of RSASSA-PSS";
                    return Err(Error::new(ckr::CKR_MECHANISM_PARAM_INVALID, detail));
                }
                let key = Verifying { spki: &key.spki, modulus, exponent };
                if key.is_small() { Err(rsa_size()) } else { rsa::verify_pss(&key, pss, input, signature) }
            }
            (scheme, PublicMaterial::Rsa { modulus, exponent }) => {
                length(modulus.len())?;
                let key = Verifying { spki: &key.spki, modulus, exponent };
                match scheme {
                    Scheme::RsaPkcs(None) => rsa::verify_bare(&key, input, signature),
                    _ if key.is_small() => Err(rsa_size()),
                    Scheme::RsaPkcs(Some(hash)) => rsa::verify_pkcs1(&key, hash, input, signature),
                    Scheme::RsaPss { pss, .. } => rsa::verify_pss(&key, pss, input, signature),
                    _ => Err(wrong_type(scheme.public_key())),
                }
            }
            _ => Err(wrong_type(scheme.public_key())),
        }
    }
}

pub(crate) fn invalid() -> Error {
    Error::new(ckr::CKR_SIGNATURE_INVALID, "the signature is not that of these data by this key")
}

/// A digest for ECDSA, which may have any length but none; a long one on P-521 is for [`long_digest`].
fn fitted(digest: &[u8], native: &'static library::Algorithm) -> Result<library::Digest, Error> {
    if digest.is_empty() {
        return Err(Error::new(ckr::CKR_DATA_LEN_RANGE, "there is no digest to sign or verify"));
    }
    Ok(fit(digest, native)?)
}

/// Turns an ECDSA signature from DER (RFC 3279, 2.2.3) into r and s side by side, each as long as the order.
fn fixed(signature: &[u8], length: usize) -> Result<Vec<u8>, Error> {
    let parsed = SliceReader::new(signature).and_then(|mut reader| {
        reader.sequence(|fields| {
            let (r, s) = (UintRef::decode(fields)?, UintRef::decode(fields)?);
            Ok::<_, der::Error>([r, s])
        })
    });
    let mut joined = vec![0; 2 * length];
    let numbers = parsed.map_err(|_| aws_lc_rs::error::Unspecified)?;
    for (number, place) in numbers.iter().zip(joined.chunks_exact_mut(length)) {
        let bytes = number.as_bytes();
        let start = length.checked_sub(bytes.len()).ok_or(aws_lc_rs::error::Unspecified)?;
        place[start..].copy_from_slice(bytes);
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_grep11::attribute_value::OneAttr;
    use keyward_grep11::{AttributeValue, GenerateKeyPairRequest, cka};
    use keyward_proto::Scheme as TlsScheme;

    use super::*;
    use crate::test_openssl::verifies;
    use crate::{MasterKey, Unit};

    #[test]
    fn another_library_verifies_ml_dsa() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let crypto = Crypto::new(unit);
        let mechanism = |number| Some(Mechanism { mechanism: number, parameter: None });
        for (parameters, scheme) in (1..).zip([TlsScheme::MlDsa44, TlsScheme::MlDsa65, TlsScheme::MlDsa87]) {
            let set = AttributeValue { one_attr: Some(OneAttr::AttributeI(parameters)) };
            let pair = crypto
                .generate_key_pair(GenerateKeyPairRequest {
                    mech: mechanism(ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN),
                    pub_key_template: [(cka::CKA_IBM_PARAMETER_SET, set)].into(),
                    ..GenerateKeyPairRequest::default()
                })
                .unwrap();
            let signed = crypto
                .sign_single(SignSingleRequest {
                    mech: mechanism(ckm::CKM_IBM_ML_DSA),
                    data: b"message".to_vec(),
                    priv_key: pair.priv_key,
                    ..SignSingleRequest::default()
                })
                .unwrap();
            let key = crypto.public_key(&pair.pub_key_bytes).unwrap();
            assert!(verifies(&key.spki, scheme, b"message", &signed.signature), "set {parameters}");
            assert!(!verifies(&key.spki, scheme, b"another", &signed.signature), "set {parameters}");
        }
    }
}
