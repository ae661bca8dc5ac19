//! Digests: their names in OpenSSL, and the hashing of messages too long for a frame.

use keyward_proto::Hash;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// A digest that OpenSSL named.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum DigestName {
    Known(Hash),
    /// The digest of TLS 1.0 and 1.1, which have no other. Refused when the signature is made.
    Md5Sha1,
    /// A digest that no supported scheme uses.
    Unknown,
}

impl DigestName {
    /// Reads a name. OpenSSL uses several names for one digest, two of them within one handshake.
    #[inline]
    pub(crate) fn from_name(name: &[u8]) -> Self {
        let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is(&["SHA256", "SHA2-256", "SHA-256", "2.16.840.1.101.3.4.2.1"]) {
            Self::Known(Hash::Sha256)
        } else if is(&["SHA384", "SHA2-384", "SHA-384", "2.16.840.1.101.3.4.2.2"]) {
            Self::Known(Hash::Sha384)
        } else if is(&["SHA512", "SHA2-512", "SHA-512", "2.16.840.1.101.3.4.2.3"]) {
            Self::Known(Hash::Sha512)
        } else if is(&["MD5-SHA1"]) {
            Self::Md5Sha1
        } else {
            Self::Unknown
        }
    }
}

/// A message that is being hashed.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Hasher {
    pub(crate) fn new(hash: Hash) -> Self {
        match hash {
            Hash::Sha384 => Self::Sha384(Sha384::new()),
            Hash::Sha512 => Self::Sha512(Sha512::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    pub(crate) fn update(&mut self, part: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(part),
            Self::Sha384(hasher) => hasher.update(part),
            Self::Sha512(hasher) => hasher.update(part),
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Self::Sha256(hasher) => hasher.finalize().to_vec(),
            Self::Sha384(hasher) => hasher.finalize().to_vec(),
            Self::Sha512(hasher) => hasher.finalize().to_vec(),
        }
    }
}
