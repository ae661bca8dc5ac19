//! Writes keys. An urgent change, which keeps a key from signing, takes effect even if the change
//! cannot be written: then the change holds in memory only, and is written later.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use keyward_proto::Label;

use super::verb::is_urgent;
use super::{Key, KeyStore, Keys, Life, State, now, record};
use crate::store::{Put, StoreError};

/// Urgent change that holds in memory, even if the store has another state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Unwritten {
    Destroyed,
    /// The key has this state and this life.
    Stopped(State, Life),
    /// The key has this state, unless the key is compromised. The store was locked when the key was
    /// stopped, so the rest of the record was not known.
    StoppedUnverified(State),
}

impl Unwritten {
    /// Word for the change in [`StoreError::NotDurable`].
    fn name(&self) -> &'static str {
        match self {
            Self::Destroyed => "destroyed",
            Self::Stopped(_, Life { deletion: Some(_), .. }) => "deleted",
            Self::Stopped(State::Compromised, _) | Self::StoppedUnverified(State::Compromised) => {
                "compromised"
            }
            Self::Stopped(State::Disabled, _) | Self::StoppedUnverified(State::Disabled) => "disabled",
            Self::Stopped(State::Enabled, _) | Self::StoppedUnverified(State::Enabled) => "deactivated",
        }
    }
}

impl KeyStore {
    /// Stores a key if the revision of the stored key is still that of `key`; revision 0 stands for
    /// a key that does not exist yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`] or [`StoreError::Changed`] if another task was faster.
    /// [`StoreError::NotDurable`] if the change holds in memory only.
    pub(crate) fn put(&self, key: Key) -> Result<Key, StoreError> {
        let label = key.label.clone();
        if self.unwritten().get(&label) == Some(&Unwritten::Destroyed) && key.revision == 0 {
            // A new key with the label of a deleted key: the deletion of the old key is written
            // first.
            self.urgently(&label, Some(Unwritten::Destroyed), || self.delete_key(&label))?;
        }
        let before = self.get(&label).ok().flatten();
        let is_urgent = before.is_some_and(|before| is_urgent(&before, &key, now()));
        let urgent = is_urgent.then(|| Unwritten::Stopped(key.state, key.life.clone()));
        self.urgently(&label, urgent, || self.write_key(key.clone()))
    }

    /// Stores keys that do not exist yet, which become durable together. Returns a result for each
    /// of them, as [`Self::put`] does.
    pub(super) fn put_new(&self, keys: &[Key]) -> Vec<Result<Key, StoreError>> {
        // One whose label belongs to a key that is destroyed in memory only waits for that.
        if keys.len() == 1 || keys.iter().any(|key| self.is_pending(&key.label)) {
            return keys.iter().map(|key| self.put(key.clone())).collect();
        }
        let all = self.make_first_secret().and_then(|()| {
            let records: Vec<_> = keys
                .iter()
                .map(|key| move |revision: u64, secret: &str| self.record(key, revision, secret))
                .collect();
            let puts = keys.iter().zip(&records);
            let puts: Vec<_> =
                puts.map(|(key, record)| Put { label: &key.label, expected: 0, record }).collect();
            self.store.put_all(&puts)
        });
        match all {
            Ok(all) => {
                let added = keys.iter().zip(all);
                added.map(|(key, revision)| Ok(Key { revision: revision?, ..key.clone() })).collect()
            }
            // Nothing is tried again: the keys may be on the disk.
            Err(error) => keys.iter().map(|_| Err(error.again())).collect(),
        }
    }

    /// Deletes a key, even a key whose record was altered.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is none. [`StoreError::NotDurable`] if the key is deleted
    /// in memory only.
    pub(crate) fn delete(&self, label: &Label) -> Result<(), StoreError> {
        if self.unwritten().get(label) == Some(&Unwritten::Destroyed) {
            return Err(StoreError::Unknown(label.clone()));
        }
        self.urgently(label, Some(Unwritten::Destroyed), || self.delete_key(label))
    }

    /// Keys whose last change holds in memory only. Never waits for the disk.
    pub(crate) fn pending(&self) -> Vec<Label> {
        self.unwritten().keys().cloned().collect()
    }

    /// True if a key is destroyed in memory only. Never waits for the disk.
    pub(super) fn has_unwritten_destruction(&self) -> bool {
        self.unwritten().values().any(|change| *change == Unwritten::Destroyed)
    }

    /// True if the last change of a key holds in memory only. Never waits for the disk.
    pub(crate) fn is_pending(&self, label: &Label) -> bool {
        self.unwritten().contains_key(label)
    }

    /// Writes the changes that hold in memory only. Returns the keys whose change was written.
    pub(crate) fn write_pending(&self) -> Vec<Label> {
        let unwritten: Vec<_> =
            self.unwritten().iter().map(|(label, change)| (label.clone(), change.clone())).collect();
        let mut written = Vec::new();
        for (label, change) in unwritten {
            let done = match change {
                Unwritten::Destroyed => self.delete_key(&label),
                Unwritten::Stopped(..) | Unwritten::StoppedUnverified(_) => match self.read(&label) {
                    // The key has the state that it has in memory.
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
    /// `before` is the change that was in memory before the record of the key was read.
    pub(super) fn as_in_memory(&self, key: Key, before: Option<Unwritten>) -> Option<Key> {
        let revision = key.revision | SEEN_IN_MEMORY;
        match self.unwritten_of(&key.label).or(before) {
            None => Some(key),
            Some(Unwritten::Stopped(state, life)) => Some(Key { state, life, revision, ..key }),
            Some(Unwritten::StoppedUnverified(state)) => {
                let state = if key.state == State::Compromised { key.state } else { state };
                Some(Key { state, revision, ..key })
            }
            Some(Unwritten::Destroyed) => None,
        }
    }

    /// The change of a key that holds in memory only.
    pub(super) fn unwritten_of(&self, label: &Label) -> Option<Unwritten> {
        self.unwritten().get(label).cloned()
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
        if let (Some(_), Err(StoreError::Io(..))) = (&urgent, &done) {
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
                let done = change.name();
                self.unwritten().insert(label.clone(), change);
                let label = label.clone();
                Err(StoreError::NotDurable { label, done, reason: Box::new(reason) })
            }
            (Err(error), _) => Err(error),
        }
    }

    fn write_key(&self, mut key: Key) -> Result<Key, StoreError> {
        if key.unverified {
            return Err(StoreError::Locked(self.path().to_owned()));
        }
        let expected = key.revision & !SEEN_IN_MEMORY;
        match self.unwritten().get(&key.label) {
            // The key was read before it was stopped, and would undo that.
            Some(Unwritten::Stopped(..) | Unwritten::StoppedUnverified(_))
                if key.revision & SEEN_IN_MEMORY == 0 =>
            {
                return Err(StoreError::Changed(key.label));
            }
            // The change was written since, and the key may have been changed again.
            None if key.revision & SEEN_IN_MEMORY != 0 => return Err(StoreError::Changed(key.label)),
            Some(Unwritten::Destroyed) if expected != 0 => return Err(StoreError::Unknown(key.label)),
            _ => {}
        }
        self.make_first_secret()?;
        let record = |revision, secret: &str| self.record(&key, revision, secret);
        key.revision = self.store.put(&Put { label: &key.label, expected, record: &record })?;
        Ok(key)
    }

    fn record(&self, key: &Key, revision: u64, secret: &str) -> Option<Vec<u8>> {
        record::encode(&Key { revision, ..key.clone() }, self.secrets().named(secret)?)
    }

    fn delete_key(&self, label: &Label) -> Result<(), StoreError> {
        self.store.delete(label)?;
        self.found_altered().labels.remove(label);
        Ok(())
    }

    pub(super) fn unwritten(&self) -> MutexGuard<'_, BTreeMap<Label, Unwritten>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// Keys that are disabled or deleted in memory only. Never waits for the disk.
    pub(crate) fn pending(&self) -> Vec<Label> {
        self.store.pending()
    }

    /// True if the last change of a key holds in memory only. Never waits for the disk.
    pub(crate) fn is_pending(&self, label: &Label) -> bool {
        self.store.is_pending(label)
    }

    /// Writes the changes that hold in memory only. Returns the keys whose change was written.
    pub(crate) async fn write_pending(&self) -> Vec<Label> {
        match self.store.pending().is_empty() {
            true => Vec::new(),
            false => self.in_store(|store| Ok(store.write_pending())).await.unwrap_or_default(),
        }
    }
}

/// Bit in the revision of a key that was read while it was stopped in memory only.
const SEEN_IN_MEMORY: u64 = 1 << 63;
