//! From a label to the key: the store on disk, and the keys in use in memory.
//!
//! [`Keys`] is the entrance for tasks. Each key comes out as it was at one moment. A change is on
//! disk before it is answered, and everyone who asks after the answer sees the change.
//!
//! [`KeyStore`] reads and writes keys and waits for the disk. [`Changes`] tells peers which keys
//! were changed.

mod audit_key;
mod cache;
pub mod certificates;
pub(crate) mod changes;
pub(crate) mod expiry;
mod facts;
mod key;
mod key_store;
mod migration;
mod record;
pub mod rows;
mod scratch;
pub(crate) mod shred;
mod state;
mod together;
pub(crate) mod unlock;
mod unverified;
mod unwritten;
mod usage;
mod verb;

use core::num::NonZeroUsize;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_proto::Label;
use keyward_unit::{Header, Unit, Wkid};

use crate::config::EMBEDDED;
pub(crate) use crate::store::metadata::{BARE_FORMAT, OLD_FORMAT, THIS_FORMAT};
pub(crate) use crate::store::{
    Altered, Format, Look, MigrationError, OldStore, Witness, finish, look, migrated_before, permit,
    was_migrated,
};
pub use crate::store::{StoreError, StoreKey};
pub(crate) use audit_key::AuditKey;
use cache::Cache;
pub use cache::InUse;
use changes::Changes;
pub use key::{Key, Listed, Version};
pub use key_store::KeyStore;
pub(crate) use key_store::WRITTEN;
pub(crate) use migration::migrate;
pub(crate) use scratch::{CopyFile, Scratch};
pub(crate) use state::now;
pub use state::{Approval, Deletion, Life, Standing, State};
use together::NewKeys;
pub(crate) use unlock::StoreKeyError;
pub(crate) use usage::{PeerUsage, SAVE_INTERVAL, Usage};
pub use verb::{Effect, Inadmissible, Verb};

/// Result of [`Keys::repair`].
pub(crate) struct Repaired {
    /// Number of lists that were rebuilt.
    pub(crate) lists: usize,
    /// Keys of these lists that remain, and are disabled now.
    pub(crate) disabled: Vec<Label>,
    /// Keys of these lists that were removed.
    pub(crate) removed: Vec<Label>,
    /// Number of records that were removed because no key can have their name.
    pub(crate) nameless: usize,
}

/// The keys of the daemon. Shared by reference between tasks.
pub struct Keys {
    store: Arc<KeyStore>,
    cache: Arc<Cache>,
    changes: Arc<Changes>,
    usage: Arc<Usage>,
    /// The unit that has private keys in memory. A change of a key can make them invalid.
    unit: Option<Arc<Unit>>,
    /// Locked during a change until the unit knows of the change, so that the unit learns of
    /// changes in their order.
    changing: Arc<TurnLock>,
    /// New keys that wait for their turn to be stored, to be stored together.
    new: Arc<Mutex<NewKeys>>,
    /// File for copies of the store.
    scratch: Scratch,
}

impl Keys {
    /// The keys of a store, of which up to `cached` are kept in memory.
    pub fn new(store: KeyStore, cached: NonZeroUsize) -> Self {
        Self {
            usage: Arc::new(Usage::load(store.state_dir(), now())),
            store: Arc::new(store),
            cache: Arc::new(Cache::new(cached)),
            changes: Arc::new(Changes::new()),
            unit: None,
            changing: Arc::default(),
            new: Arc::default(),
            scratch: Scratch::default(),
        }
    }

    /// Adds an embedded unit. The unit learns of each change, and forgets private keys that nobody
    /// may use any more.
    #[must_use]
    pub(crate) fn with_unit(self, unit: Option<Arc<Unit>>) -> Self {
        Self { unit, ..self }
    }

    /// Sets the file for copies of the store.
    #[must_use]
    pub(crate) fn with_scratch(self, scratch: Scratch) -> Self {
        Self { scratch, ..self }
    }

    /// The store, for notes about files beside it. Its methods wait for the disk.
    pub(crate) fn store(&self) -> Arc<KeyStore> {
        Arc::clone(&self.store)
    }

    /// The directory of the store.
    pub(crate) fn state_dir(&self) -> &Path {
        self.store.state_dir()
    }

    /// The change feed of these keys.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The peers that used these keys lately.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Writes the last uses of keys beside the store. `clean` says that no use follows.
    pub(crate) async fn save_usage(&self, clean: bool) {
        let usage = Arc::clone(&self.usage);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || usage.save(clean)).await {
            tracing::warn!("cannot write the last uses of keys: {error}");
        }
    }

    /// A key that is in memory. Never waits for the disk.
    pub fn cached(&self, label: &str) -> Option<Arc<InUse>> {
        self.cache.get(label)
    }

    /// A key, from memory or from the store.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn get(&self, label: &Label) -> Result<Option<Arc<Key>>, StoreError> {
        if let Some(key) = self.cached(label.as_str()) {
            return Ok(Some(key.shared()));
        }
        let changes = self.cache.changes();
        let wanted = label.clone();
        let Some(key) = self.in_store(move |store| store.get(&wanted)).await? else {
            return Ok(None);
        };
        let key = Arc::new(key);
        self.cache.insert(&key, changes);
        Ok(Some(key))
    }

    /// A key as it is in the store. The cache stays as it is.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn stored(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        let label = label.clone();
        self.in_store(move |store| store.get(&label)).await
    }

    /// Keys as they are in the store: for each label the key, if there is one, or the reason why it
    /// cannot be read.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn stored_all(
        &self,
        labels: Vec<Label>,
    ) -> Result<Vec<Result<Option<Key>, StoreError>>, StoreError> {
        self.in_store(move |store| Ok(labels.iter().map(|label| store.get(label)).collect())).await
    }

    /// Stores a key if the revision of the stored key is still that of `key`; revision 0 stands for
    /// a key that does not exist yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`] or [`StoreError::Changed`] if another task was faster; other errors
    /// of the store.
    pub async fn put(&self, key: Key) -> Result<Arc<Key>, StoreError> {
        if key.revision == 0 {
            return self.add(key).await;
        }
        let label = key.label.clone();
        self.change(label, move |store| store.put(key)).await.map(Arc::new)
    }

    /// Applies `change` to a key, and stores the key. If another task has changed the key in the
    /// meantime, `change` runs again on the new key. Each further round means that another change
    /// has succeeded.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is no such key; the error of `change`, which leaves the key
    /// unchanged; other errors of the store.
    pub(crate) async fn update<T, E: From<StoreError>>(
        &self,
        label: &Label,
        mut change: impl FnMut(&mut Key) -> Result<T, E>,
    ) -> Result<(Arc<Key>, T), E> {
        loop {
            let old = self.get(label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
            let mut key = (*old).clone();
            let result = change(&mut key)?;
            match self.put(key).await {
                Ok(key) => return Ok((key, result)),
                Err(StoreError::Changed(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Destroys a key with all its versions, even a key whose record was altered.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is none; other errors of the store.
    pub async fn delete(&self, label: &Label) -> Result<(), StoreError> {
        let deleted = label.clone();
        self.usage.forget(label.as_str());
        self.change(label.clone(), move |store| store.delete(&deleted)).await
    }

    /// Destroys a key, if `check` accepts the key as it is stored at that moment.
    ///
    /// # Errors
    /// The error of `check`; [`StoreError::Unknown`] if there is no such key; other errors of the
    /// store.
    pub(crate) async fn destroy<E: From<StoreError> + Send + 'static>(
        &self,
        label: &Label,
        check: impl FnOnce(&Key) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let destroyed = label.clone();
        let destroy = move |store: &KeyStore| {
            let key = store.get(&destroyed)?.ok_or_else(|| StoreError::Unknown(destroyed.clone()))?;
            match check(&key) {
                Ok(()) => store.delete(&destroyed).map(Ok),
                Err(error) => Ok(Err(error)),
            }
        };
        self.change(label.clone(), destroy).await??;
        self.usage.forget(label.as_str());
        Ok(())
    }

    /// Rebuilds the lists of the index that were altered. Their keys come back disabled, because
    /// the records may be old ones. Keys whose records are not authentic are removed.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or written.
    pub(crate) async fn repair(&self) -> Result<Repaired, StoreError> {
        let (cache, changes) = (Arc::clone(&self.cache), Arc::clone(&self.changes));
        let (unit, changing) = (self.unit.clone(), Arc::clone(&self.changing));
        let repair = move |store: &KeyStore| {
            let _changing = changing.blocking_lock();
            let done = store.rebuild();
            // The records of keys in memory may be gone from the store.
            let in_list = |label: &Label| match &done {
                Ok(rebuilt) => rebuilt.covers(label.as_str()),
                Err(_) => true,
            };
            let mut labels: Vec<Label> = cache.labels().into_iter().filter(in_list).collect();
            labels
                .extend(done.iter().flat_map(|rebuilt| rebuilt.kept.iter().chain(&rebuilt.removed)).cloned());
            for label in labels {
                let now = store.get(&label);
                let in_memory = forget(&cache, &changes, label);
                if let Some(unit) = &unit {
                    let stored = now.as_ref().ok().and_then(Option::as_ref).cloned();
                    let before: Vec<_> = stored.iter().chain(in_memory.as_deref()).collect();
                    retire_unused(unit, &before, now);
                }
            }
            let rebuilt = done?;
            Ok(Repaired {
                lists: rebuilt.lists.len(),
                disabled: rebuilt.kept,
                removed: rebuilt.removed,
                nameless: rebuilt.nameless,
            })
        };
        self.in_store(repair).await
    }

    /// Up to `limit` keys in the order of their labels, from the first label after `after`.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn list(&self, after: Option<String>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.in_store(move |store| store.list(after.as_deref(), limit)).await
    }

    /// A copy of the store as it is now, in a file without a name, and the number of its keys.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read, or there is no space for the copy.
    pub(crate) async fn copy(&self) -> Result<(CopyFile, u64), StoreError> {
        let scratch = self.scratch.clone();
        self.in_store(move |store| {
            // A copy is most needed when the state directory is full or gone.
            let elsewhere = scratch.take().and_then(|copy| {
                let count = store.copy_into(&copy.file).ok()?;
                Some((copy, count))
            });
            if let Some(copied) = elsewhere {
                return Ok(copied);
            }
            let failed = |reason: io::Error| StoreError::Copy(reason.to_string());
            let copy = CopyFile::of(tempfile::tempfile_in(store.state_dir()).map_err(failed)?);
            let count = store.copy_into(&copy.file)?;
            Ok((copy, count))
        })
        .await
    }

    /// Number of keys.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn count(&self) -> Result<u64, StoreError> {
        self.in_store(KeyStore::count).await
    }

    /// Time when the store was made, in seconds since 1970; `None` if the time is not known.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn created(&self) -> Result<Option<u64>, StoreError> {
        self.in_store(KeyStore::created).await
    }

    /// Keys of the embedded unit that have a blob under a master key other than these.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn left_behind(&self, wkids: Vec<Wkid>) -> Result<Vec<Label>, StoreError> {
        let master_key_of = |blob: &[u8]| Header::read(blob).map(|header| header.wkid());
        self.in_store(move |store| store.left_behind(&wkids, master_key_of)).await
    }

    /// Authenticates every record. Returns the alterations.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn check(&self) -> Result<Altered, StoreError> {
        let changing = Arc::clone(&self.changing);
        let check = move |store: &KeyStore| {
            if store.is_whole()? {
                return Ok(store.known_altered());
            }
            // Nothing must be repaired between the look and the note of its result.
            let _changing = changing.blocking_lock();
            store.check()
        };
        self.in_store(check).await
    }

    /// True if the store cannot be read because its store key is not known.
    pub(crate) fn is_locked(&self) -> bool {
        self.store.is_locked()
    }

    /// Opens a locked store for work with the key that a unit has wrapped; makes the key of a new
    /// store. `dev` is the owner that a new store gets.
    ///
    /// # Errors
    /// [`StoreKeyError`] if the unit has another master key, or the store cannot be written.
    pub(crate) async fn unlock(&self, unit: Arc<Unit>, dev: bool) -> Result<(), StoreKeyError> {
        let store = Arc::clone(&self.store);
        let unlock = move || {
            unlock::unlock(&store, Some(&unit), None)?;
            if let (None, Some(wkid)) = (store.wkid(EMBEDDED)?, unit.wkid()) {
                store.set_wkid(EMBEDDED, wkid, None)?;
            }
            if store.is_dev()?.is_none() {
                store.set_dev(dev)?;
            }
            store.check().map(|_| ()).map_err(StoreKeyError::from)
        };
        match tokio::task::spawn_blocking(unlock).await {
            Ok(unlocked) => unlocked?,
            Err(_) => return Err(StoreError::Damaged(self.store.path().to_owned()).into()),
        }
        // Peers that follow changes of keys could not see their keys before.
        self.changes.of_grants();
        Ok(())
    }

    /// Master key that the embedded unit needs: it wraps the keys or the store key.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn master_key(&self) -> Result<Option<Wkid>, StoreError> {
        self.in_store(KeyStore::master_key).await
    }

    /// Reason why keys are missing that were here before, or why a change would be lost.
    pub(crate) async fn problem(&self) -> Option<String> {
        self.in_store(|store| Ok(store.problem())).await.unwrap_or_else(|error| Some(error.to_string()))
    }

    /// True if the next start would not find the store: only the running daemon has the keys.
    pub(crate) async fn is_gone(&self) -> bool {
        self.in_store(|store| Ok(store.is_gone())).await.unwrap_or(false)
    }

    /// The alterations of the store that are known. Never waits for the disk.
    pub(crate) fn altered(&self) -> Altered {
        self.store.known_altered()
    }

    /// Master key that wraps the blobs of a backend; `None` before the first key.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn wkid(&self, backend: &str) -> Result<Option<Wkid>, StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.wkid(&backend)).await
    }

    /// Next master key of a backend, which wraps blobs, too; `None` unless the keys of the backend
    /// are being rewrapped.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn next_wkid(&self, backend: &str) -> Result<Option<Wkid>, StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.next_wkid(&backend)).await
    }

    /// Records the next master key of a backend.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub(crate) async fn set_next_wkid(&self, backend: &str, wkid: Wkid) -> Result<(), StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.set_next_wkid(&backend, wkid)).await
    }

    /// Records the master key of a backend. The backend has no next master key any more.
    /// `store_key` is the store key as that master key wraps it, for the embedded unit.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub(crate) async fn set_wkid(
        &self,
        backend: &str,
        wkid: Wkid,
        store_key: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.set_wkid(&backend, wkid, store_key.as_deref())).await
    }

    /// The store key as the embedded unit has wrapped it; `None` if no unit has.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn wrapped_store_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.in_store(KeyStore::wrapped_key).await
    }

    /// Secret for implicit rejection. Derives the replacement returned for an invalid RSA
    /// premaster. A restart, another backend and a change of a master key leave the secret as it
    /// is.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if the store key is not known.
    pub(crate) fn rejection_secret(&self) -> Result<&[u8], StoreError> {
        self.store.rejection_secret()
    }

    /// Changes the store, then removes the key from memory and makes the unit forget private keys
    /// that nobody may use any more. All of this happens on the thread of the change: the task that
    /// waits for the change can end before the change does.
    async fn change<T: Send + 'static>(
        &self,
        label: Label,
        f: impl FnOnce(&KeyStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (cache, changes) = (Arc::clone(&self.cache), Arc::clone(&self.changes));
        let (unit, changing) = (self.unit.clone(), Arc::clone(&self.changing));
        let change = move |store: &KeyStore| {
            let _changing = changing.blocking_lock();
            let before = unit.as_ref().and_then(|_| store.get(&label).ok().flatten());
            let done = f(store);
            let in_memory = forget(&cache, &changes, label.clone());
            if let Some(unit) = unit {
                let before: Vec<_> = before.iter().chain(in_memory.as_deref()).collect();
                retire_unused(&unit, &before, store.get(&label));
            }
            done
        };
        self.in_store(change).await
    }

    async fn in_store<T: Send + 'static>(
        &self,
        f: impl FnOnce(&KeyStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || f(&store)).await {
            Ok(result) => result,
            Err(_) => Err(self.lost()),
        }
    }

    /// Error for work in the store that panicked, which is a sign of damage.
    fn lost(&self) -> StoreError {
        StoreError::Damaged(self.store.path().to_owned())
    }
}

/// Lock whose waiters have their turn in their order.
type TurnLock = tokio::sync::Mutex<()>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a key that was changed from memory, then adds the change to the feed. A change that
/// failed counts as well, because the change may have reached the disk.
fn forget(cache: &Cache, changes: &Changes, label: Label) -> Option<Arc<Key>> {
    let forgotten = cache.remove_changed(&label);
    changes.of_key(label);
    forgotten
}

/// Makes the unit forget the private keys of a key as it was in `before`, except for the private
/// keys that the key may still use `now`. Dates do not count, because nobody reinstates a private
/// key when a date comes or the clock is set.
fn retire_unused(unit: &Unit, before: &[&Key], now: Result<Option<Key>, StoreError>) {
    let was = || before.iter().flat_map(|key| key.embedded_blobs());
    match now {
        Ok(now) => {
            let now = now.as_ref().filter(|key| key.is_enabled());
            let usable: HashSet<_> = now.into_iter().flat_map(Key::embedded_blobs).collect();
            unit.retire(was().filter(|blob| !usable.contains(blob)));
            unit.reinstate(usable);
        }
        // The change may have happened or not. The unit forgets the private keys now, and may load
        // them again.
        Err(_) => {
            unit.retire(was());
            unit.reinstate(was());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
