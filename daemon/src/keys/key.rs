//! A key and its versions.

use keyward_proto::{Fingerprint, KeyType, Label, Use};

use super::state::Life;
use super::{State, StoreError};
use crate::config::EMBEDDED;

/// A key: the blob of each version, and the properties that all versions share.
#[derive(Clone)]
pub struct Key {
    /// Name of the key.
    pub label: Label,
    /// State that an administrator has given the key. [`Self::standing`] says whether the key may
    /// be used.
    pub state: State,
    /// Dates of the key, and its deletion.
    pub life: Life,
    /// Uses that the key admits, each once.
    pub uses: Vec<Use>,
    /// Name of the backend whose unit can unwrap the blobs.
    pub backend: String,
    /// Number of the version for requests that name no version.
    pub current: u32,
    /// Versions, ascending by number, never empty.
    pub versions: Vec<Version>,
    /// Revision, which grows with every change; 0 for a key that was not stored yet.
    pub revision: u64,
    /// True if the store was locked when the key was read: another program may have written the
    /// record. Such a key is only shown, and never used or written.
    pub unverified: bool,
}

/// A version of a key.
#[derive(Clone)]
pub struct Version {
    /// Number of the version, from 1.
    pub number: u32,
    /// Type of the key.
    pub key_type: KeyType,
    /// The private key, wrapped by the unit.
    pub blob: Vec<u8>,
    /// The private key, wrapped by the next master key.
    pub next_blob: Option<Vec<u8>>,
    /// The public key as SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub spki: Vec<u8>,
    /// Fingerprint of the public key.
    pub fingerprint: Fingerprint,
    /// Time when the version was made or imported, in seconds since 1970.
    pub created: u64,
    /// The certificate and the certificates that certify it, each in DER (RFC 5280, 4.1), in the
    /// order of TLS. Empty if none are attached.
    pub certificates: Vec<Vec<u8>>,
}

impl Key {
    /// Version with a number; 0 stands for the current version.
    pub fn version(&self, number: u32) -> Option<&Version> {
        let number = if number == 0 { self.current } else { number };
        self.versions.iter().find(|version| version.number == number)
    }

    /// The newest version that has certificates, or the current version if none has.
    pub fn certified(&self) -> Option<&Version> {
        let certified = self.versions.iter().rfind(|version| !version.certificates.is_empty());
        certified.or_else(|| self.version(0))
    }

    /// Time when the key was made or imported, in seconds since 1970.
    pub(crate) fn created(&self) -> u64 {
        self.versions.iter().map(|version| version.created).min().unwrap_or_default()
    }

    /// Blobs of this key that only the embedded unit can unwrap.
    pub(super) fn embedded_blobs(&self) -> impl Iterator<Item = &[u8]> {
        let versions = self.versions.iter().filter(|_| self.backend == EMBEDDED);
        versions
            .flat_map(|version| [Some(&version.blob), version.next_blob.as_ref()])
            .flatten()
            .map(Vec::as_slice)
    }
}

/// An entry of the list of keys.
pub enum Listed {
    /// A key.
    Key(Key),
    /// A key whose record is refused: the record is not the latest one, or nothing vouches for the
    /// record. Only the label is known.
    Altered {
        /// Label of the key.
        label: Label,
        /// Reason why the record is refused.
        reason: StoreError,
    },
}

impl Listed {
    /// Label of the key.
    pub fn label(&self) -> &Label {
        match self {
            Self::Key(key) => &key.label,
            Self::Altered { label, .. } => label,
        }
    }

    /// The key.
    ///
    /// # Errors
    /// [`StoreError::Altered`] if the record was altered, [`StoreError::Unlisted`] if nothing
    /// vouches for the record.
    pub fn key(self) -> Result<Key, StoreError> {
        match self {
            Self::Key(key) => Ok(key),
            Self::Altered { reason, .. } => Err(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    #[test]
    fn version_zero_is_the_current_one() {
        let mut key = key("shop");
        key.versions.push(Version { number: 2, ..key.versions[0].clone() });
        key.current = 2;
        assert_eq!(key.version(0).unwrap().number, 2);
        assert_eq!(key.version(1).unwrap().number, 1);
        assert!(key.version(3).is_none());
    }

    #[test]
    fn the_newest_version_that_has_certificates() {
        let mut key = key("shop");
        for number in [2, 3] {
            key.versions.push(Version { number, ..key.versions[0].clone() });
        }
        key.current = 3;
        let certified = |key: &Key| key.certified().unwrap().number;
        assert_eq!(certified(&key), 3, "the current one");
        for number in [1, 2] {
            key.versions[number - 1].certificates.push(vec![7]);
            assert_eq!(certified(&key), number as u32);
        }
    }
}
