//! Encryption to a public key: of a part to the importer of a unit, and of a share to its owner.
//!
//! ```text
//! offset  bytes
//!      0    133  ephemeral public key, an uncompressed point of P-521
//!    133      n  the text, AES-256-GCM
//!  133+n     16  tag
//! ```
//!
//! ECDH of the ephemeral key and the recipient's key gives a secret. HKDF-SHA-256 (RFC 5869) makes
//! the AES key of the secret, of both public keys and of the purpose. Each key encrypts one text,
//! so the nonce is zero. The construction is that of DHKEM with HKDF in base mode (RFC 9180, 4.1);
//! the crypto library offers no HPKE.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P521, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use super::person::PersonKey;
use crate::error::UnitError;

/// Encrypts a text to a public key. Only the same `purpose` decrypts.
///
/// # Errors
/// [`UnitError::Crypto`] if the crypto library fails.
pub(crate) fn seal(to: &PersonKey, purpose: &[u8], text: &[u8]) -> Result<Vec<u8>, UnitError> {
    let seal = || {
        let ephemeral = PrivateKey::generate(&ECDH_P521)?;
        let public = ephemeral.compute_public_key()?;
        let key = key_of(&ephemeral, to.point(), (public.as_ref(), to.point()), purpose)?;
        // Full capacity from the start: growing would leave a copy of the text behind.
        let mut sealed = Zeroizing::new(Vec::with_capacity(text.len() + TAG));
        sealed.extend_from_slice(text);
        key.seal_in_place_append_tag(zero_nonce(), Aad::empty(), &mut *sealed)?;
        Ok([public.as_ref(), &sealed].concat())
    };
    seal().map_err(|Unspecified| UnitError::Crypto("encrypt to a public key"))
}

/// Decrypts an output of [`seal`] to the public key `own` of `private`. `None` for any other input,
/// and for another purpose.
pub(crate) fn open(
    private: &PrivateKey,
    own: &PersonKey,
    purpose: &[u8],
    sealed: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let (ephemeral, text) = sealed.split_at_checked(own.point().len())?;
    let key = key_of(private, ephemeral, (ephemeral, own.point()), purpose).ok()?;
    let mut text = Zeroizing::new(text.to_vec());
    let length = key.open_in_place(zero_nonce(), Aad::empty(), &mut text).ok()?.len();
    text.truncate(length);
    Some(text)
}

/// The AES key of two keys. `publics` are the ephemeral key and the recipient's key.
fn key_of(
    private: &PrivateKey,
    other: &[u8],
    publics: (&[u8], &[u8]),
    purpose: &[u8],
) -> Result<LessSafeKey, Unspecified> {
    agree(private, UnparsedPublicKey::new(&ECDH_P521, other), Unspecified, |secret| {
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let mut key = Zeroizing::new([0; 32]);
        root.expand(&[publics.0, publics.1, purpose], HKDF_SHA256)?.fill(key.as_mut_slice())?;
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_slice())?))
    })
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

const SALT: &[u8] = b"keyward sealed box 1";
/// Length of a tag of AES-GCM, in bytes.
const TAG: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (PrivateKey, PersonKey) {
        let private = PrivateKey::generate(&ECDH_P521).unwrap();
        let public = PersonKey::from_point(private.compute_public_key().unwrap().as_ref()).unwrap();
        (private, public)
    }

    #[test]
    fn only_the_recipient_opens_and_only_for_the_purpose() {
        let ((mine, my_key), (other, other_key)) = (pair(), pair());
        let sealed = seal(&my_key, b"part", b"secret").unwrap();
        assert_eq!(**open(&mine, &my_key, b"part", &sealed).unwrap(), *b"secret");
        assert!(open(&mine, &my_key, b"share", &sealed).is_none());
        assert!(open(&other, &other_key, b"part", &sealed).is_none());
        assert_ne!(seal(&my_key, b"part", b"secret").unwrap(), sealed);
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(open(&mine, &my_key, b"part", &altered).is_none(), "byte {at}");
            assert!(open(&mine, &my_key, b"part", &sealed[..at]).is_none(), "cut at {at}");
        }
    }
}
