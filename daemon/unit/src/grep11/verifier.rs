//! Verifying with one key.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::SHA256;
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use keyward_grep11::ckr;
use keyward_proto::Curve;

use super::ecdsa_digest::{self, fitted_digest};
use super::error::{Error, signature_invalid};
use super::hash::{HashFunction, Hmac};
use super::public_key::PublicKey;
use super::public_material::PublicMaterial;
use super::request_key::wrong_type;
use super::rsa::{self, Verifying};
use super::rsa_size::rsa_size;
use super::sign_method::SignMethod;
use crate::key::{native, verifying_ml_dsa};
use crate::object::{Material, Object};

pub(super) enum Verifier {
    Public(SignMethod, Box<PublicKey>),
    Secret(HashFunction, Arc<Object>),
}

impl Verifier {
    pub(super) fn secret(&self) -> Option<&[u8]> {
        match self {
            Self::Secret(_, object) => match &object.material {
                Material::Secret(secret) => Some(&secret.value),
                _ => None,
            },
            Self::Public(..) => None,
        }
    }

    pub(super) fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), Error> {
        match (self, self.secret()) {
            (Self::Secret(function, _), Some(secret)) => {
                self.verify_prepared(&Hmac::mac(*function, secret, data), signature)
            }
            (Self::Public(method, _), _) => match method.hash() {
                Some(hash) => self.verify_prepared(&hash.digest(data), signature),
                None => self.verify_prepared(data, signature),
            },
            (Self::Secret(..), None) => Err(wrong_type("a secret key")),
        }
    }

    /// Verifies a prepared input: the message after the hash of the method, or the MAC.
    pub(super) fn verify_prepared(&self, input: &[u8], signature: &[u8]) -> Result<(), Error> {
        let length = |needed: usize| check_length(signature, needed);
        let check = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(input, signature).map_err(|_| signature_invalid())
        };
        let (method, key) = match self {
            Self::Secret(..) => {
                length(input.len())?;
                return verify_slices_are_equal(input, signature).map_err(|_| signature_invalid());
            }
            Self::Public(method, key) => (*method, key),
        };
        match (method, &key.material) {
            (SignMethod::Ecdsa(_), PublicMaterial::Ec(curve, point)) => {
                verify_ecdsa(*curve, point, input, signature)
            }
            (SignMethod::Ecdsa(_), PublicMaterial::Koblitz(point)) => {
                length(64)?;
                UnparsedPublicKey::new(&signature::ECDSA_P256K1_SHA256_FIXED, point)
                    .verify_digest(&fitted_digest(input, &SHA256)?, signature)
                    .map_err(|_| signature_invalid())
            }
            (SignMethod::Ed25519, PublicMaterial::Ed25519(public)) => {
                length(64)?;
                check(&signature::ED25519, public)
            }
            (SignMethod::MlDsa, PublicMaterial::MlDsa(parameters, public)) => {
                length(parameters.signature_length())?;
                check(verifying_ml_dsa(*parameters), public)
            }
            (SignMethod::RsaPss { pss, .. }, PublicMaterial::RsaPss { modulus, exponent, parameters }) => {
                length(modulus.len())?;
                if parameters.is_some_and(|bond| !pss.fits(bond)) {
                    let detail = "the key is bound to another hash or a longer salt of RSASSA-PSS";
                    return Err(Error::new(ckr::CKR_MECHANISM_PARAM_INVALID, detail));
                }
                let key = Verifying { spki: &key.spki, modulus, exponent };
                if key.is_small() { Err(rsa_size()) } else { rsa::verify_pss(&key, pss, input, signature) }
            }
            (method, PublicMaterial::Rsa { modulus, exponent }) => {
                length(modulus.len())?;
                let key = Verifying { spki: &key.spki, modulus, exponent };
                match method {
                    SignMethod::RsaPkcs(None) => rsa::verify_bare(&key, input, signature),
                    _ if key.is_small() => Err(rsa_size()),
                    SignMethod::RsaPkcs(Some(hash)) => rsa::verify_pkcs1(&key, hash, input, signature),
                    SignMethod::RsaPss { pss, .. } => rsa::verify_pss(&key, pss, input, signature),
                    _ => Err(wrong_type(method.public_key())),
                }
            }
            _ => Err(wrong_type(method.public_key())),
        }
    }
}

fn verify_ecdsa(curve: Curve, point: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), Error> {
    check_length(signature, 2 * curve.field_bytes())?;
    if curve == Curve::P521 && ecdsa_digest::is_long(digest) {
        return ecdsa_digest::verify(point, digest, signature).map_err(|_| signature_invalid());
    }
    let algorithm: &'static dyn VerificationAlgorithm = match curve {
        Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
        Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
        Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED,
    };
    UnparsedPublicKey::new(algorithm, point)
        .verify_digest(&fitted_digest(digest, native(curve).digest)?, signature)
        .map_err(|_| signature_invalid())
}

fn check_length(signature: &[u8], needed: usize) -> Result<(), Error> {
    if signature.len() == needed {
        return Ok(());
    }
    let detail = format!("the signature has {} bytes where {needed} are right", signature.len());
    Err(Error::new(ckr::CKR_SIGNATURE_LEN_RANGE, detail))
}
