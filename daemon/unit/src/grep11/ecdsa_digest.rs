//! Digests for ECDSA. On P-521 up to 66 bytes of a digest count, for the order of the curve has 521
//! bits. aws-lc-rs takes 64 bytes at most; longer digests are signed and verified with p521 of the
//! RustCrypto project.

use aws_lc_rs::digest::{Algorithm, Digest};
use aws_lc_rs::error::Unspecified;
use keyward_grep11::ckr;
use p521::SecretKey;
use p521::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use p521::ecdsa::{Signature, SigningKey, VerifyingKey};
use p521::pkcs8::DecodePrivateKey;

use super::error::Error;
use crate::key::fit;

/// True if a digest is too long for aws-lc-rs on P-521.
pub(crate) fn is_long(digest: &[u8]) -> bool {
    digest.len() > 64
}

/// Signs with a private key in PKCS#8. The signature is r and s side by side.
pub(crate) fn sign(pkcs8: &[u8], digest: &[u8]) -> Result<Vec<u8>, Unspecified> {
    let key = SecretKey::from_pkcs8_der(pkcs8).map_err(|_| Unspecified)?;
    let signature: Signature =
        SigningKey::from(key).sign_prehash(&leftmost_bits(digest)).map_err(|_| Unspecified)?;
    Ok(signature.to_bytes().to_vec())
}

/// Verifies with a public key, given as an uncompressed point.
pub(crate) fn verify(point: &[u8], digest: &[u8], signature: &[u8]) -> Result<(), Unspecified> {
    let key = VerifyingKey::from_sec1_bytes(point).map_err(|_| Unspecified)?;
    let signature = Signature::from_slice(signature).map_err(|_| Unspecified)?;
    key.verify_prehash(&leftmost_bits(digest), &signature).map_err(|_| Unspecified)
}

/// The leftmost 521 bits of a digest as a number in 66 bytes (FIPS 186-5, 6.4.1).
fn leftmost_bits(digest: &[u8]) -> [u8; 66] {
    let mut number = [0; 66];
    match digest.split_first_chunk::<66>() {
        // 66 bytes are 528 bits: the last seven are dropped.
        Some((first, _)) => {
            for (at, byte) in number.iter_mut().enumerate() {
                let before = at.checked_sub(1).map_or(0, |before| first[before]);
                *byte = before << 1 | first[at] >> 7;
            }
        }
        None => number[66 - digest.len()..].copy_from_slice(digest),
    }
    number
}

/// A digest as aws-lc-rs takes it for a curve. Any length except zero will do; on P-521 see
/// [`is_long`].
pub(super) fn fitted_digest(digest: &[u8], native: &'static Algorithm) -> Result<Digest, Error> {
    if digest.is_empty() {
        return Err(Error::new(ckr::CKR_DATA_LEN_RANGE, "there is no digest to sign or verify"));
    }
    Ok(fit(digest, native)?)
}
