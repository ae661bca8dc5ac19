//! From a label to the key: a store on disk, and the keys in use in memory.
//!
//! Keys come out of here as they were at one moment. A change is on disk before it is answered, and whoever
//! asks after the answer sees it.

mod backup;
pub mod certificates;
pub(crate) mod changes;
pub(crate) mod expiry;
mod migrate;
mod record;
pub mod rows;
mod store;

use core::num::NonZeroUsize;
use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use keyward_proto::{Fingerprint, KeyType, Label, Use};
use keyward_unit::Unit;
use lru::LruCache;

use crate::config::EMBEDDED;
use crate::keys::changes::Changes;
pub(crate) use crate::store::altered::Altered;
pub use crate::store::error::StoreError;
use crate::store::index;
pub(crate) use crate::store::metadata::THIS_FORMAT;
pub(crate) use crate::store::redb::look::{Look, look};
use crate::store::redb::tables::Rebuilt;
pub use crate::store::store_key::StoreKey;
pub(crate) use crate::store::witness::Witness;
pub(crate) use migrate::{MigrationError, OldStore, finish, migrated_before, was_migrated};
pub use store::Store;

/// A key: what is known of it, and the blob of each version.
#[derive(Clone)]
pub struct Key {
    /// Its name.
    pub label: Label,
    /// Whether it may be used at all.
    pub state: State,
    /// What it may be used for, each once.
    pub uses: Vec<Use>,
    /// The backend whose unit can unwrap its blobs.
    pub backend: String,
    /// Number of the version that is used where none is named.
    pub current: u32,
    /// Ascending by number, never empty.
    pub versions: Vec<Version>,
    /// Grows with every change; 0 for a key that was not stored yet.
    pub revision: u64,
}

impl Key {
    /// A version of the key by its number; 0 is the current one.
    pub fn version(&self, number: u32) -> Option<&Version> {
        let number = if number == 0 { self.current } else { number };
        self.versions.iter().find(|version| version.number == number)
    }

    /// The newest version that has certificates; if none has, the current one.
    pub fn certified(&self) -> Option<&Version> {
        let certified = self.versions.iter().rfind(|version| !version.certificates.is_empty());
        certified.or_else(|| self.version(0))
    }

    /// The blobs that the embedded unit may be asked to use for this key.
    fn embedded_blobs(&self) -> impl Iterator<Item = &[u8]> {
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
    /// A key whose record is not the one that was stored last, or that nothing vouches for: nothing
    /// is known of the key.
    Altered {
        /// Its label.
        label: Label,
        /// What is wrong with it.
        reason: StoreError,
    },
}

impl Listed {
    /// The label of the key.
    pub fn label(&self) -> &Label {
        match self {
            Self::Key(key) => &key.label,
            Self::Altered { label, .. } => label,
        }
    }

    /// The key.
    ///
    /// # Errors
    /// [`StoreError::Altered`] if its record was altered, [`StoreError::Unlisted`] if nothing
    /// vouches for it.
    pub fn key(self) -> Result<Key, StoreError> {
        match self {
            Self::Key(key) => Ok(key),
            Self::Altered { reason, .. } => Err(reason),
        }
    }
}

/// Whether a key may be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    /// It signs for whoever has a grant.
    Enabled,
    /// It signs for nobody.
    Disabled,
}

impl State {
    /// The word for it in the store, in the admin interface and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
        }
    }

    /// The state that a word names.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled].into_iter().find(|state| state.name() == name)
    }
}

/// One version of a key.
#[derive(Clone)]
pub struct Version {
    /// From 1.
    pub number: u32,
    /// The type of the key.
    pub key_type: KeyType,
    /// The private key, wrapped by the unit.
    pub blob: Vec<u8>,
    /// The same, wrapped by the master key that is to come.
    pub next_blob: Option<Vec<u8>>,
    /// The public key as SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub spki: Vec<u8>,
    /// What it is told from others by.
    pub fingerprint: Fingerprint,
    /// When it was made or imported, in seconds since 1970.
    pub created: u64,
    /// Its certificate and those that certify it, each in DER (RFC 5280, 4.1), as TLS sends them; none where none are attached.
    pub certificates: Vec<Vec<u8>>,
}

/// The outcome of making altered lists of the index anew.
pub(crate) struct Repaired {
    /// How many lists were made anew.
    pub(crate) lists: usize,
    /// The keys of these lists that are left.
    pub(crate) disabled: Vec<Label>,
    /// The keys of these lists that are not.
    pub(crate) removed: Vec<Label>,
    /// How many records were removed that had names that no key can have.
    pub(crate) nameless: usize,
}

/// The keys of the daemon. Shared by reference between tasks.
pub struct Keys {
    store: Arc<Store>,
    cache: Arc<Mutex<Cache>>,
    changes: Arc<Changes>,
    /// Has private keys in memory that must go when keys are changed.
    unit: Option<Arc<Unit>>,
    /// Held for each change until the unit knows of it: the last change must be the last that the
    /// unit hears of.
    changing: Arc<Mutex<()>>,
}

impl Keys {
    /// The keys of a store, of which up to `cached` are kept in memory.
    pub fn new(store: Store, cached: NonZeroUsize) -> Self {
        let cache = Cache { keys: LruCache::new(cached), changes: 0 };
        Self {
            store: Arc::new(store),
            cache: Arc::new(Mutex::new(cache)),
            changes: Arc::new(Changes::new()),
            unit: None,
            changing: Arc::default(),
        }
    }

    /// The same, whose changes the embedded unit is told of: it forgets private keys that nobody
    /// may use any more.
    #[must_use]
    pub(crate) fn with_unit(self, unit: Option<Arc<Unit>>) -> Self {
        Self { unit, ..self }
    }

    /// The directory of the store.
    pub(crate) fn state_dir(&self) -> &Path {
        self.store.path().parent().unwrap_or(Path::new("."))
    }

    /// What has changed of late.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// A key that is in memory. Never waits for the disk.
    pub fn cached(&self, label: &str) -> Option<Arc<Key>> {
        self.with_cache(|cache| cache.keys.get(label).cloned())
    }

    /// A key, wherever it is.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn get(&self, label: &Label) -> Result<Option<Arc<Key>>, StoreError> {
        if let Some(key) = self.cached(label.as_str()) {
            return Ok(Some(key));
        }
        let changes = self.with_cache(|cache| cache.changes);
        let wanted = label.clone();
        let Some(key) = self.in_store(move |store| store.get(&wanted)).await? else {
            return Ok(None);
        };
        let key = Arc::new(key);
        self.with_cache(|cache| {
            // What was read may be old by now: a change that was answered in between must not be undone.
            if cache.changes == changes {
                cache.keys.put(label.to_string(), Arc::clone(&key));
            }
        });
        Ok(Some(key))
    }

    /// A key as it is in the store. Other keys keep their places in memory.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn stored(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        let label = label.clone();
        self.in_store(move |store| store.get(&label)).await
    }

    /// Stores a key whose revision is still that of `key`; revision 0 stands for a key that does not exist yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`] or [`StoreError::Changed`] if someone was faster; other errors of the store.
    pub async fn put(&self, key: Key) -> Result<Arc<Key>, StoreError> {
        let label = key.label.clone();
        self.change(label, move |store| store.put(key)).await.map(Arc::new)
    }

    /// Changes a key as `change` says, and stores the key. If somebody else has changed the key in the
    /// meantime, `change` runs again on the key as it is then. Each further round means that one other
    /// change has succeeded.
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

    /// Deletes a key with all its versions, also one whose record was altered.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is none; other errors of the store.
    pub async fn delete(&self, label: &Label) -> Result<(), StoreError> {
        let deleted = label.clone();
        self.change(label.clone(), move |store| store.delete(&deleted)).await
    }

    /// Makes the lists of the index anew that were altered. Their keys come back disabled, for
    /// their records may be old ones; those whose records are not genuine are removed.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read or written.
    pub(crate) async fn repair(&self) -> Result<Repaired, StoreError> {
        let (cache, changes) = (Arc::clone(&self.cache), Arc::clone(&self.changes));
        let (unit, changing) = (self.unit.clone(), Arc::clone(&self.changing));
        let repair = move |store: &Store| {
            let _changing = changing.lock().unwrap_or_else(PoisonError::into_inner);
            let done = store.rebuild();
            // The records of keys in memory may be gone from the store.
            let in_list = |label: &str| match &done {
                Ok(rebuilt) => rebuilt.lists.contains(&index::list_of(label)),
                Err(_) => true,
            };
            let mut labels: Vec<Label> = with(&cache, |cache| {
                let labels = cache.keys.iter().map(|(label, _)| label);
                labels.filter(|label| in_list(label)).filter_map(|label| label.parse().ok()).collect()
            });
            labels
                .extend(done.iter().flat_map(|rebuilt| rebuilt.kept.iter().chain(&rebuilt.removed)).cloned());
            for label in labels {
                let now = store.get(&label);
                let in_memory = forget(&cache, &changes, label);
                if let Some(unit) = &unit {
                    let stored = now.as_ref().ok().and_then(Option::as_ref).cloned();
                    let before: Vec<_> = stored.iter().chain(in_memory.as_deref()).collect();
                    settle(unit, &before, now);
                }
            }
            let Rebuilt { lists, kept, removed, nameless } = done?;
            Ok(Repaired { lists: lists.len(), disabled: kept, removed, nameless })
        };
        self.in_store(repair).await
    }

    /// Up to `limit` keys in the order of their labels, from the first one behind `after`.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn list(&self, after: Option<String>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        self.in_store(move |store| store.list(after.as_deref(), limit)).await
    }

    /// A copy of the store as it is now, in a file without a name, and how many keys that has.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read, or there is no room for the copy.
    pub(crate) async fn copy(&self) -> Result<(File, u64), StoreError> {
        self.in_store(|store| {
            // The state directory may be full or gone, which is when a copy is needed, and its room
            // is for other things.
            let elsewhere = || {
                let file = tempfile::tempfile().map_err(|reason| StoreError::Copy(reason.to_string()))?;
                let count = store.copy_into(&file)?;
                Ok((file, count))
            };
            let beside = || {
                let file = tempfile::tempfile_in(store.path().parent()?).ok()?;
                let count = store.copy_into(&file).ok()?;
                Some((file, count))
            };
            elsewhere().or_else(|error| beside().ok_or(error))
        })
        .await
    }

    /// How many keys there are.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub async fn count(&self) -> Result<u64, StoreError> {
        self.in_store(Store::count).await
    }

    /// When the store was made, in seconds since 1970; `None` if that is not known.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn created(&self) -> Result<Option<u64>, StoreError> {
        self.in_store(Store::created).await
    }

    /// True if the store cannot be read, since the master key that it was made with is not there.
    pub(crate) fn is_locked(&self) -> bool {
        self.store.is_locked()
    }

    /// Reason why keys that there were are not there, or what is written would be lost.
    pub(crate) async fn problem(&self) -> Option<String> {
        self.in_store(|store| Ok(store.problem())).await.unwrap_or_else(|error| Some(error.to_string()))
    }

    /// Keys that are disabled or deleted in memory alone. Never waits for the disk.
    pub(crate) fn unsettled(&self) -> Vec<Label> {
        self.store.unsettled()
    }

    /// Writes what could not be written when a key was disabled or deleted. Returns the keys of
    /// which it was.
    pub(crate) async fn settle(&self) -> Vec<Label> {
        match self.store.unsettled().is_empty() {
            true => Vec::new(),
            false => self.in_store(|store| Ok(store.settle())).await.unwrap_or_default(),
        }
    }

    /// What in the store is known to be altered. Never waits for the disk.
    pub(crate) fn altered(&self) -> Altered {
        self.store.known_altered()
    }

    /// The master key that the blobs of a backend are wrapped by, if there was one yet.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn wkid(&self, backend: &str) -> Result<Option<String>, StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.wkid(&backend)).await
    }

    /// The master key that is to come, by which blobs of a backend are wrapped as well.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn next_wkid(&self, backend: &str) -> Result<Option<String>, StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.next_wkid(&backend)).await
    }

    /// Notes the master key that is to come.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub(crate) async fn set_next_wkid(&self, backend: &str, wkid: String) -> Result<(), StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.set_next_wkid(&backend, &wkid)).await
    }

    /// Settles the master key of a backend; none is to come any more. `store_key` is the key of the
    /// store as that master key wraps it, where it does.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub(crate) async fn set_wkid(
        &self,
        backend: &str,
        wkid: String,
        store_key: Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let backend = backend.to_owned();
        self.in_store(move |store| store.set_wkid(&backend, &wkid, store_key.as_deref())).await
    }

    /// The store key as the embedded unit has wrapped it, if it did.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn wrapped_store_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.in_store(Store::wrapped_key).await
    }

    /// Secret for implicit rejection. Derives the replacement returned for an invalid RSA premaster. It is the same after
    /// a restart, at every backend, and after a change of any master key.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if the store key is not known.
    pub(crate) fn rejection_secret(&self) -> Result<&[u8], StoreError> {
        self.store.rejection_secret()
    }

    /// Changes the store, then lets go of the key in memory and of the private keys that nobody may
    /// use any more. All of it is done where the change is, not where it is waited for: whoever
    /// asked may be gone by then.
    async fn change<T: Send + 'static>(
        &self,
        label: Label,
        f: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (cache, changes) = (Arc::clone(&self.cache), Arc::clone(&self.changes));
        let (unit, changing) = (self.unit.clone(), Arc::clone(&self.changing));
        let change = move |store: &Store| {
            let _changing = changing.lock().unwrap_or_else(PoisonError::into_inner);
            let before = unit.as_ref().and_then(|_| store.get(&label).ok().flatten());
            let done = f(store);
            let in_memory = forget(&cache, &changes, label.clone());
            if let Some(unit) = unit {
                let before: Vec<_> = before.iter().chain(in_memory.as_deref()).collect();
                settle(&unit, &before, store.get(&label));
            }
            done
        };
        self.in_store(change).await
    }

    async fn in_store<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || f(&store)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Damaged(self.store.path().to_owned())),
        }
    }

    fn with_cache<T>(&self, f: impl FnOnce(&mut Cache) -> T) -> T {
        with(&self.cache, f)
    }
}

/// Lets go of a key that was changed, and then tells of it. A change that failed is told of as
/// well, since it may have come to pass on the disk.
fn forget(cache: &Mutex<Cache>, changes: &Changes, label: Label) -> Option<Arc<Key>> {
    let forgotten = with(cache, |cache| {
        cache.changes += 1;
        cache.keys.pop(label.as_str())
    });
    changes.of_key(label);
    forgotten
}

/// Has the unit forget the private keys of a key as it was, unless the key as it is now may use
/// them.
fn settle(unit: &Unit, before: &[&Key], now: Result<Option<Key>, StoreError>) {
    let was = || before.iter().flat_map(|key| key.embedded_blobs());
    match now {
        Ok(now) => {
            let now = now.as_ref().filter(|key| key.state == State::Enabled);
            let usable: HashSet<_> = now.into_iter().flat_map(Key::embedded_blobs).collect();
            unit.retire(was().filter(|blob| !usable.contains(blob)));
            unit.reinstate(usable);
        }
        // Nobody knows whether the change has come to pass: forgotten now, they may come back.
        Err(_) => {
            unit.retire(was());
            unit.reinstate(was());
        }
    }
}

/// Holds the lock for a look-up or an insertion, never longer.
fn with<T>(cache: &Mutex<Cache>, f: impl FnOnce(&mut Cache) -> T) -> T {
    f(&mut cache.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Cache {
    keys: LruCache<String, Arc<Key>>,
    /// How many changes there were, of whatever key.
    changes: u64,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    pub(crate) fn key(label: &str) -> Key {
        let version = Version {
            number: 1,
            key_type: KeyType::P256,
            blob: vec![1, 2, 3],
            next_blob: None,
            spki: vec![4, 5],
            fingerprint: Fingerprint::of(&[4, 5]),
            created: 1_700_000_000,
            certificates: Vec::new(),
        };
        Key {
            label: label.parse().unwrap(),
            state: State::Enabled,
            uses: vec![Use::TlsServer],
            backend: "embedded".into(),
            current: 1,
            versions: vec![version],
            revision: 0,
        }
    }

    /// The store of a directory, with a store key that is always the same.
    pub(crate) fn unlocked(state_dir: &Path) -> Store {
        let store = Store::open(state_dir).unwrap();
        store.unlock(&StoreKey::from_bytes(&[7; 32]).unwrap(), None).unwrap();
        store
    }

    fn keys(dir: &tempfile::TempDir, cached: usize) -> Keys {
        Keys::new(unlocked(dir.path()), NonZeroUsize::new(cached).unwrap())
    }

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

    #[tokio::test]
    async fn a_change_is_seen_by_whoever_asks_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(&dir, 2);
        let label = "shop".parse().unwrap();
        assert!(keys.get(&label).await.unwrap().is_none());
        let stored = keys.put(key("shop")).await.unwrap();
        assert_eq!(keys.get(&label).await.unwrap().unwrap().revision, stored.revision);
        assert!(keys.cached("shop").is_some());

        keys.put(Key { state: State::Disabled, ..(*stored).clone() }).await.unwrap();
        assert_eq!(keys.get(&label).await.unwrap().unwrap().state, State::Disabled);
        keys.delete(&label).await.unwrap();
        assert!(keys.get(&label).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_change_counts_even_if_nobody_waits_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(&dir, 2);
        let label = "shop".parse().unwrap();
        let stored = keys.put(key("shop")).await.unwrap();
        keys.get(&label).await.unwrap();
        let change = keys.put(Key { state: State::Disabled, ..(*stored).clone() });
        tokio::select! {
            biased;
            // Begins, and is dropped before it ends.
            done = change => panic!("done at once: {}", done.is_ok()),
            () = core::future::ready(()) => {}
        }
        let seen = async {
            while keys.get(&label).await.unwrap().unwrap().state != State::Disabled {
                tokio::task::yield_now().await;
            }
        };
        let limit = core::time::Duration::from_secs(10);
        tokio::time::timeout(limit, seen).await.expect("the key in memory is the one on the disk");
    }

    #[tokio::test]
    async fn a_change_meets_another_change_and_runs_again() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(keys(&dir, 2));
        let label: Label = "shop".parse().unwrap();
        let add = async |number: usize| {
            let add = |key: &mut Key| {
                key.versions[0].certificates.push(vec![u8::try_from(number).unwrap()]);
                Ok::<_, StoreError>(())
            };
            keys.update(&label, add).await
        };
        assert!(matches!(add(0).await, Err(StoreError::Unknown(_))));
        keys.put(key("shop")).await.unwrap();
        let (first, second, third) = tokio::join!(add(1), add(2), add(3));
        assert!([first, second, third].iter().all(Result::is_ok));
        let mut stored = keys.get(&label).await.unwrap().unwrap().versions[0].certificates.clone();
        stored.sort();
        assert_eq!(stored, [[1], [2], [3]]);

        let refused = keys.update(&label, |key| {
            key.state = State::Disabled;
            Err::<(), _>(StoreError::Locked("/".into()))
        });
        assert!(matches!(refused.await, Err(StoreError::Locked(_))));
        assert_eq!(keys.get(&label).await.unwrap().unwrap().state, State::Enabled);
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys(&dir, 2);
        for label in ["a", "b", "c"] {
            keys.put(key(label)).await.unwrap();
            keys.get(&label.parse().unwrap()).await.unwrap();
        }
        assert!(keys.cached("a").is_none());
        assert!(keys.cached("c").is_some());
        assert!(keys.get(&"a".parse().unwrap()).await.unwrap().is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_disabled_key_never_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(keys(&dir, 2));
        let label: Label = "shop".parse().unwrap();
        let mut latest = (*keys.put(key("shop")).await.unwrap()).clone();
        let reader = tokio::spawn({
            let (keys, label) = (Arc::clone(&keys), label.clone());
            async move {
                loop {
                    let _ = keys.get(&label).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        for round in 0..50 {
            let state = if round % 2 == 0 { State::Disabled } else { State::Enabled };
            latest = (*keys.put(Key { state, ..latest }).await.unwrap()).clone();
            assert_eq!(keys.get(&label).await.unwrap().unwrap().state, state, "round {round}");
        }
        reader.abort();
    }
}
