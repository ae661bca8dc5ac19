//! Replacement for a premaster secret that is not valid (implicit rejection).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// Replacement of 48 bytes, as long as a premaster secret. The replacement is always the same for
/// one key and one ciphertext. Without `secret` nobody can distinguish it from a premaster secret.
///
/// The replacement depends on the public key, not on the blob or the backend: a key at two backends
/// has one answer. Two answers would show a peer with access to both backends that a ciphertext is
/// not valid.
pub(super) fn substitute(secret: &[u8], spki: &[u8], ciphertext: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), spki);
    // A digest of SHA-384 is as long as the secret.
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, key.as_ref()), ciphertext);
    Zeroizing::new(tag.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_each_key_and_ciphertext() {
        let one = substitute(&[1; 32], b"key", b"ciphertext");
        assert_eq!(one.len(), keyward_unit::PREMASTER);
        assert_eq!(one, substitute(&[1; 32], b"key", b"ciphertext"));
        let others = [
            substitute(&[2; 32], b"key", b"ciphertext"),
            substitute(&[1; 32], b"another", b"ciphertext"),
            substitute(&[1; 32], b"key", b"another"),
        ];
        assert!(others.iter().all(|other| *other != one));
    }
}
