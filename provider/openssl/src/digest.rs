//! Digests: their names in OpenSSL, and hashing of messages that the daemon does not take whole.

use keyward_proto::Hash;
use sha2::{Digest, Sha256, Sha384, Sha512};

/// A digest by the name that OpenSSL gave.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum DigestName {
    Known(Hash),
    /// That of TLS 1.0 and 1.1, which leave no choice: refused when the signature is asked for.
    Md5Sha1,
    /// One that no scheme of ours uses.
    Unknown,
}

impl DigestName {
    /// OpenSSL uses several spellings, two of them within one handshake.
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
