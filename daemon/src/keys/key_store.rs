//! The keys in a store: reads and writes keys as records, and reports records that are refused.
//!
//! Five modules share [`KeyStore`]: this one reads, [`unwritten`](super::unwritten) writes,
//! [`unverified`](super::unverified) is for a locked store, [`facts`](super::facts) has the
//! metadata, and [`shred`](super::shred) has the secrets that wrap the blobs.

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use keyward_proto::Label;
use keyward_unit::Wkid;

use super::shred::{SecretFiles, Secrets, ShredSecret};
use super::unwritten::Unwritten;
use super::{Key, Life, Listed, State, Version, record};
use crate::config::EMBEDDED;
use crate::ground::ownership::Owners;
use crate::store::{Alterations, Altered, FILE, Rebuilt, RedbStore, Store, StoreError, StoreKey};

/// The keys in a store. The methods wait for the disk, so tasks that serve peers never call them.
///
/// A store that is locked answers questions about its owner and its master keys, and shows keys
/// that it cannot verify. No such key can be used.
pub struct KeyStore {
    pub(super) store: Arc<dyn Store>,
    /// Keys that are stopped or destroyed in memory only, because the change could not be written.
    pub(super) unwritten: Mutex<BTreeMap<Label, Unwritten>>,
    /// Alterations that were found by [`Self::check`], or later when keys were listed.
    pub(super) altered: Mutex<Alterations>,
    /// True once the store is unlocked, and the changes from before were written.
    is_open: AtomicBool,
    /// Shred secrets in memory, changed while their files are locked. A secret is here before a
    /// record has a blob under it, and until no record has one.
    pub(super) secrets: ArcSwap<Secrets>,
    /// The files of the secrets, locked while one is written or removed.
    pub(super) secret_files: Mutex<SecretFiles>,
}

impl KeyStore {
    /// Name of the file in the state directory.
    pub const FILE: &str = FILE;

    /// Opens the store of a state directory, or makes an empty one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another daemon has the store open, [`StoreError::SecretGone`] if
    /// the secret that wraps its blobs is missing; otherwise what is wrong with the file.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(state_dir, Vec::new())
    }

    /// Opens the store like [`Self::open`]. `secrets` do not need to be in the state directory.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub(crate) fn open_with(state_dir: &Path, secrets: Vec<ShredSecret>) -> Result<Self, StoreError> {
        Self::over(Arc::new(RedbStore::open(state_dir)?), secrets)
    }

    /// The keys in a store.
    pub(super) fn over(store: Arc<dyn Store>, secrets: Vec<ShredSecret>) -> Result<Self, StoreError> {
        let opened = Self::without_secrets(store);
        opened.secrets.store(Arc::new(Secrets(secrets.into_iter().map(Arc::new).collect())));
        opened.load_secrets()?;
        Ok(opened)
    }

    /// The keys in a store, whose blobs do not open.
    pub(super) fn without_secrets(store: Arc<dyn Store>) -> Self {
        let files = SecretFiles::of(store.path().parent().unwrap_or(Path::new(".")), Owners::Own);
        Self {
            is_open: AtomicBool::new(!store.is_locked()),
            store,
            unwritten: Mutex::default(),
            altered: Mutex::default(),
            secrets: ArcSwap::default(),
            secret_files: Mutex::new(files),
        }
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// The directory of the file.
    pub(crate) fn state_dir(&self) -> &Path {
        self.path().parent().unwrap_or(Path::new("."))
    }

    /// Opens the store for work with the key that the store was made with. A new store is made with
    /// `key`. `wrapped` is the key as the embedded unit wraps it, and replaces the wrapped key in
    /// the store. Writes the changes that were made before, and only then gives out keys.
    ///
    /// # Errors
    /// [`StoreError::OtherStoreKey`] for another key, [`StoreError::AlteredStore`] if another
    /// program has changed the metadata.
    pub(crate) fn unlock(&self, key: &StoreKey, wrapped: Option<&[u8]>) -> Result<(), StoreError> {
        let unlocked = self.unlock_store(key, wrapped);
        if !self.is_locked() {
            for label in self.write_pending() {
                tracing::info!(key = label.as_str(), "{WRITTEN}");
            }
            self.is_open.store(true, Ordering::Release);
        }
        unlocked
    }

    /// True until the store key is known.
    pub(crate) fn is_locked(&self) -> bool {
        self.store.is_locked()
    }

    /// True if nothing was ever stored.
    pub(crate) fn is_new(&self) -> Result<bool, StoreError> {
        self.store.is_new()
    }

    /// Secret for implicit rejection, derived from the store key. No copy of the file contains the
    /// secret. A restart and a change of the master key leave the secret as it is.
    pub(crate) fn rejection_secret(&self) -> Result<&[u8], StoreError> {
        self.store.rejection_secret()
    }

    /// Reason why keys are missing that were here before, or why a change would be lost.
    pub(crate) fn problem(&self) -> Option<String> {
        self.store.problem()
    }

    /// True if the file is gone, or another file has its name.
    pub(crate) fn is_gone(&self) -> bool {
        self.store.is_gone()
    }

    /// The key of a label.
    pub(crate) fn get(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        match self.is_open.load(Ordering::Acquire) {
            true => self.read(label),
            false => Err(StoreError::Locked(self.path().to_owned())),
        }
    }

    /// The key of a label, also before the first changes were written.
    pub(super) fn read(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        // Before the record is read: a change that is written meanwhile counts in any case.
        let before = self.unwritten_of(label);
        let (record, secrets) = self.with_secrets(|| self.store.get(label))?;
        let key = record.map(|record| self.decode(label, &record, &secrets)).transpose()?;
        Ok(key.and_then(|key| self.as_in_memory(key, before)))
    }

    /// Up to `limit` keys in the order of their labels, from the first label after `after`.
    pub(crate) fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let before = self.unwritten().clone();
        let is_altered = self.known_altered().total() > 0;
        let (page, secrets) = self.with_secrets(|| self.store.list(after, limit, is_altered))?;
        let listed: Vec<Listed> = page
            .entries
            .into_iter()
            .filter_map(|entry| {
                match entry.record.and_then(|record| self.decode(&entry.label, &record, &secrets)) {
                    Ok(key) => {
                        let before = before.get(&key.label).cloned();
                        self.as_in_memory(key, before).map(Listed::Key)
                    }
                    Err(reason) => Some(Listed::Altered { label: entry.label, reason }),
                }
            })
            .collect();
        let altered = listed.iter().filter(|listed| matches!(listed, Listed::Altered { .. }));
        let mut found = self.found_altered();
        found.labels.extend(altered.map(|listed| listed.label().clone()));
        found.lists.extend(page.altered_lists);
        drop(found);
        if !page.is_whole && !is_altered {
            // The pages before may lack a record that is gone.
            let all = self.store.check()?;
            let mut found = self.found_altered();
            found.labels.extend(all.labels);
            found.lists.extend(all.lists);
            found.nameless = found.nameless.max(all.nameless);
        }
        Ok(listed)
    }

    /// Number of keys.
    pub(crate) fn count(&self) -> Result<u64, StoreError> {
        self.store.count()
    }

    /// Writes the store as it is at one moment into an empty file. Returns the number of keys.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read, or the file cannot be written.
    pub(crate) fn copy_into(&self, file: &File) -> Result<u64, StoreError> {
        self.store.copy_into(file)
    }

    /// Authenticates every record, so that the daemon reports an altered record before a peer needs
    /// the key.
    pub(crate) fn check(&self) -> Result<Altered, StoreError> {
        let found = self.store.check()?;
        *self.found_altered() = found;
        Ok(self.known_altered())
    }

    /// True if every record is authentic as the store is at one moment. Changes go on meanwhile, so
    /// the known alterations stay as they are.
    pub(super) fn is_whole(&self) -> Result<bool, StoreError> {
        Ok(Altered::from(&self.store.check()?).total() == 0)
    }

    /// The alterations that are known. Never waits for the disk.
    pub(crate) fn known_altered(&self) -> Altered {
        Altered::from(&*self.found_altered())
    }

    /// Rebuilds the lists of the index that were altered, and removes records under names that no
    /// key can have. Without the list, an old copy of a record is as authentic as the latest one:
    /// so the keys of these lists come back disabled.
    pub(super) fn rebuild(&self) -> Result<Rebuilt, StoreError> {
        self.make_first_secret()?;
        let rebuilt = self.store.rebuild(&|label, record, revision, secret| {
            let secrets = self.secrets();
            let key = record::decode(label.clone(), record, &secrets)?;
            let state = match key.state {
                State::Enabled => State::Disabled,
                state => state,
            };
            // A deletion in an old record may have been undone since.
            let life = Life { deletion: None, approval: None, ..key.life };
            record::encode(&Key { state, life, revision, ..key }, secrets.named(secret)?)
        })?;
        self.check()?;
        Ok(rebuilt)
    }

    /// True if a backend has a key.
    pub(crate) fn has_keys_of(&self, backend: &str) -> Result<bool, StoreError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.list(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(false) };
            after = Some(last.label().to_string());
            // A key whose record was altered may belong to the backend.
            if page.into_iter().any(|listed| listed.key().map_or(true, |key| key.backend == backend)) {
                return Ok(true);
            }
        }
    }

    /// Keys of the embedded unit that have a blob under a master key other than `wkids`. These keys
    /// do not sign. `master_key_of` reads the master key from a blob.
    pub(crate) fn left_behind(
        &self,
        wkids: &[Wkid],
        master_key_of: impl Fn(&[u8]) -> Option<Wkid>,
    ) -> Result<Vec<Label>, StoreError> {
        let is_other =
            |version: &Version| master_key_of(&version.blob).is_some_and(|wkid| !wkids.contains(&wkid));
        let (mut left, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.list(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(left) };
            after = Some(last.label().to_string());
            for key in page.into_iter().filter_map(|listed| listed.key().ok()) {
                if key.backend == EMBEDDED && key.versions.iter().any(is_other) {
                    left.push(key.label);
                }
            }
        }
    }

    pub(super) fn found_altered(&self) -> MutexGuard<'_, Alterations> {
        self.altered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn damaged(&self) -> StoreError {
        StoreError::Damaged(self.path().to_owned())
    }

    fn decode(&self, label: &Label, record: &[u8], secrets: &Secrets) -> Result<Key, StoreError> {
        record::decode(label.clone(), record, secrets).ok_or_else(|| self.damaged())
    }
}

/// Line of the log for a change that was in memory only.
pub(crate) const WRITTEN: &str = "the key store has the disabled or deleted state of the key now";
/// Number of keys that are read in one transaction.
const PAGE: usize = 1000;

#[cfg(test)]
mod tests;
