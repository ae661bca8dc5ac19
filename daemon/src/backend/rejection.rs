//! What stands for premaster secrets that are not sound (implicit rejection).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// 48 bytes, as long as a premaster secret: always the same for a key and a ciphertext, and nobody without `secret`, that of
/// the store, can tell them from one.
///
/// It depends on the public key, not on the blob or the backend: a key that is at two backends has one answer, or peers who
/// may use both would see by two answers that a ciphertext is not sound.
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
