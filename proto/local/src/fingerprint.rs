use sha2::{Digest, Sha256};

/// Number that identifies a public key: the first 8 bytes of the SHA-256 of the
/// SubjectPublicKeyInfo in DER (RFC 5280, 4.1), big-endian.
///
/// A fingerprint finds mistakes. It does not protect from an attacker who searches for two keys
/// with the same number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// The fingerprint of a SubjectPublicKeyInfo.
    pub fn of(spki: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(spki).into();
        Self(digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The number, as requests carry it.
    pub fn number(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_the_beginning_of_the_sha_256() {
        // The digest of "abc" in the examples of FIPS 180-4 begins like this.
        assert_eq!(Fingerprint::of(b"abc").number(), 0xba78_16bf_8f01_cfea);
    }
}
