//! Writes keys. An urgent change, which disables or deletes a key, takes effect even if the change
//! cannot be written: then the change holds in memory only, and is written later.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use keyward_proto::Label;

use super::{Key, KeyStore, State, record};
use crate::store::StoreError;

/// Urgent change that holds in memory, even if the store has another state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unwritten {
    Deleted,
    Disabled,
}

impl Unwritten {
    /// Word for the change in [`StoreError::NotDurable`].
    fn name(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Disabled => "disabled",
        }
    }
}

impl KeyStore {
    /// Stores a key if the revision of the stored key is still that of `key`; revision 0 stands for
    /// a key that does not exist yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`] or [`StoreError::Changed`] if another task was faster.
    /// [`StoreError::NotDurable`] if the key is disabled in memory only.
    pub(crate) fn put(&self, key: Key) -> Result<Key, StoreError> {
        let label = key.label.clone();
        if self.unwritten().get(&label) == Some(&Unwritten::Deleted) && key.revision == 0 {
            // A new key with the label of a deleted key: the deletion of the old key is written
            // first.
            self.urgently(&label, Some(Unwritten::Deleted), || self.delete_key(&label))?;
        }
        let disables = !key.state.may_sign()
            && self.get(&label).is_ok_and(|known| known.is_some_and(|known| known.state.may_sign()));
        let urgent = disables.then_some(Unwritten::Disabled);
        self.urgently(&label, urgent, || self.write_key(key.clone()))
    }

    /// Deletes a key, even a key whose record was altered.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is none. [`StoreError::NotDurable`] if the key is deleted
    /// in memory only.
    pub(crate) fn delete(&self, label: &Label) -> Result<(), StoreError> {
        if self.unwritten().get(label) == Some(&Unwritten::Deleted) {
            return Err(StoreError::Unknown(label.clone()));
        }
        self.urgently(label, Some(Unwritten::Deleted), || self.delete_key(label))
    }

    /// Keys that are disabled or deleted in memory only. Never waits for the disk.
    pub(crate) fn pending(&self) -> Vec<Label> {
        self.unwritten().keys().cloned().collect()
    }

    /// Writes the changes that hold in memory only. Returns the keys whose change was written.
    pub(crate) fn write_pending(&self) -> Vec<Label> {
        let unwritten: Vec<_> =
            self.unwritten().iter().map(|(label, change)| (label.clone(), *change)).collect();
        let mut written = Vec::new();
        for (label, change) in unwritten {
            let done = match change {
                Unwritten::Deleted => self.delete_key(&label),
                Unwritten::Disabled => match self.get(&label) {
                    // The key is disabled, as it is in memory.
                    Ok(Some(key)) => self.write_key(key).map(drop),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                },
            };
            if matches!(done, Ok(()) | Err(StoreError::Unknown(_))) {
                self.unwritten().remove(&label);
                written.push(label);
            }
        }
        self.store.keep_reserve();
        written
    }

    /// The key with the changes that hold in memory only; `None` if the key is deleted there.
    pub(super) fn as_in_memory(&self, key: Key) -> Option<Key> {
        match self.unwritten().get(&key.label) {
            None => Some(key),
            Some(Unwritten::Disabled) => {
                Some(Key { state: State::Disabled, revision: key.revision | SEEN_IN_MEMORY, ..key })
            }
            Some(Unwritten::Deleted) => None,
        }
    }

    /// Writes a change. An urgent change may use the reserved space of the store, and holds in
    /// memory if the change cannot be written.
    fn urgently<T>(
        &self,
        label: &Label,
        urgent: Option<Unwritten>,
        write: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut done = write();
        if let (Some(_), Err(StoreError::Io(..))) = (urgent, &done) {
            self.store.release_reserve();
            done = write();
            self.store.keep_reserve();
        }
        match (done, urgent) {
            (Ok(done), _) => {
                self.unwritten().remove(label);
                Ok(done)
            }
            (Err(reason @ (StoreError::Gone(_) | StoreError::Io(..))), Some(change)) => {
                self.unwritten().insert(label.clone(), change);
                let (label, done) = (label.clone(), change.name());
                Err(StoreError::NotDurable { label, done, reason: Box::new(reason) })
            }
            (Err(error), _) => Err(error),
        }
    }

    fn write_key(&self, mut key: Key) -> Result<Key, StoreError> {
        let expected = key.revision & !SEEN_IN_MEMORY;
        match self.unwritten().get(&key.label) {
            // The key was read before it was disabled, and would undo that.
            Some(Unwritten::Disabled) if key.revision & SEEN_IN_MEMORY == 0 => {
                return Err(StoreError::Changed(key.label));
            }
            Some(Unwritten::Deleted) if expected != 0 => return Err(StoreError::Unknown(key.label)),
            _ => {}
        }
        let record = |revision| record::encode(&Key { revision, ..key.clone() });
        key.revision = self.store.put(&key.label, expected, &record)?;
        Ok(key)
    }

    fn delete_key(&self, label: &Label) -> Result<(), StoreError> {
        self.store.delete(label)?;
        self.found_altered().labels.remove(label);
        Ok(())
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<Label, Unwritten>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bit in the revision of a key that was read while it was disabled in memory only.
const SEEN_IN_MEMORY: u64 = 1 << 63;
