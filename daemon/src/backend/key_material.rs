//! Key of a request, in the form that a backend needs.

use keyward_proto::KeyType;
use keyward_unit::NewKey;

/// Key of a request: the public half, and the private half as units have wrapped it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyMaterial<'a> {
    /// Type of the key.
    pub(crate) key_type: KeyType,
    /// Public key as SubjectPublicKeyInfo (RFC 5280, 4.1).
    pub(crate) spki: &'a [u8],
    /// Private key, wrapped by the master key of the unit.
    pub(crate) blob: &'a [u8],
    /// Private key, wrapped by the next master key; `None` unless the master key is being changed.
    pub(crate) next_blob: Option<&'a [u8]>,
}

impl<'a> KeyMaterial<'a> {
    /// Key that a unit has just made.
    pub(super) fn of_new(key: &'a NewKey) -> Self {
        Self { key_type: key.key_type, spki: &key.spki, blob: &key.blob, next_blob: None }
    }

    /// Blobs of the key, the present one first.
    pub(super) fn blobs(self) -> impl Iterator<Item = &'a [u8]> {
        core::iter::once(self.blob).chain(self.next_blob)
    }
}
