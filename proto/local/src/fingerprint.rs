use sha2::{Digest, Sha256};

/// What a public key is told from others by: the SHA-256 of its SubjectPublicKeyInfo in DER (RFC
/// 5280, 4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fingerprint([u8; Self::LENGTH]);

impl Fingerprint {
    /// Length of a fingerprint, in bytes.
    pub const LENGTH: usize = 32;

    /// The fingerprint of a SubjectPublicKeyInfo.
    pub fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).into())
    }

    /// The bytes, as requests carry them.
    pub fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}
