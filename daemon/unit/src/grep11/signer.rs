//! Signing with one key.

use std::sync::Arc;

use aws_lc_rs::digest::SHA256;
use aws_lc_rs::error::Unspecified;
use der::asn1::UintRef;
use der::{Decode, Reader, SliceReader};
use keyward_proto::Curve;

use super::ecdsa_digest::{self, fitted_digest};
use super::error::Error;
use super::hash::Hmac;
use super::request_key::wrong_type;
use super::rsa;
use super::sign_method::SignMethod;
use crate::key::{Pair, native, sign_ml_dsa};
use crate::object::{Material, Object};

pub(super) struct Signer {
    pub(super) method: SignMethod,
    pub(super) object: Arc<Object>,
}

impl Signer {
    pub(super) fn secret(&self) -> Option<&[u8]> {
        match &self.object.material {
            Material::Secret(secret) => Some(&secret.value),
            _ => None,
        }
    }

    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Error> {
        match (self.method, self.secret(), self.method.hash()) {
            (SignMethod::Hmac(function), Some(secret), _) => Ok(Hmac::mac(function, secret, data)),
            (_, _, Some(hash)) => self.sign_prepared(&hash.digest(data)),
            (_, _, None) => self.sign_prepared(data),
        }
    }

    /// Signs a prepared input: the message after the hash of the method, or the MAC.
    pub(super) fn sign_prepared(&self, input: &[u8]) -> Result<Vec<u8>, Error> {
        match (self.method, &self.object.material) {
            (SignMethod::Hmac(_), _) => Ok(input.to_vec()),
            (SignMethod::Ecdsa(_), Material::Koblitz(key)) => {
                let digest = fitted_digest(input, &SHA256)?;
                Ok(key.pair.sign_digest(&digest)?.as_ref().to_vec())
            }
            (method, Material::Key(key)) => match (method, key.pair()) {
                (SignMethod::Ecdsa(_), Pair::Ec(Curve::P521, _)) if ecdsa_digest::is_long(input) => {
                    Ok(ecdsa_digest::sign(&key.to_pkcs8()?, input)?)
                }
                (SignMethod::Ecdsa(_), Pair::Ec(curve, pair)) => {
                    let signature = pair.sign_digest(&fitted_digest(input, native(*curve).digest)?)?;
                    fixed(signature.as_ref(), curve.field_bytes())
                }
                (SignMethod::Ed25519, Pair::Ed25519(pair)) => Ok(pair.try_sign(input)?.as_ref().to_vec()),
                (SignMethod::MlDsa, Pair::MlDsa(_, pair)) => Ok(sign_ml_dsa(pair, input)?),
                (SignMethod::RsaPkcs(Some(hash)), Pair::Rsa(pair)) => rsa::sign_pkcs1(key, pair, hash, input),
                (SignMethod::RsaPkcs(None), Pair::Rsa(pair)) => rsa::sign_bare(key, pair, input),
                (SignMethod::RsaPss { pss, .. }, Pair::Rsa(pair)) => rsa::sign_pss(key, pair, pss, input),
                _ => Err(wrong_type(method.private_key())),
            },
            (method, _) => Err(wrong_type(method.private_key())),
        }
    }
}

/// Converts an ECDSA signature from DER (RFC 3279, 2.2.3) to r and s side by side, each as long as
/// the order of the curve.
fn fixed(signature: &[u8], length: usize) -> Result<Vec<u8>, Error> {
    let parsed = SliceReader::new(signature).and_then(|mut reader| {
        reader.sequence(|fields| {
            let (r, s) = (UintRef::decode(fields)?, UintRef::decode(fields)?);
            Ok::<_, der::Error>([r, s])
        })
    });
    let mut joined = vec![0; 2 * length];
    let numbers = parsed.map_err(|_| Unspecified)?;
    for (number, place) in numbers.iter().zip(joined.chunks_exact_mut(length)) {
        let bytes = number.as_bytes();
        let start = length.checked_sub(bytes.len()).ok_or(Unspecified)?;
        place[start..].copy_from_slice(bytes);
    }
    Ok(joined)
}
