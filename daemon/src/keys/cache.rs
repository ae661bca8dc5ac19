//! Keys in memory.

use core::num::NonZeroUsize;
use core::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_proto::Label;
use lru::LruCache;

use super::Key;
use crate::ground::shard::Sharded;

/// The keys that were used last, as they are in the store.
///
/// Each thread that serves peers also has the keys that it has used last in a part of its own, so
/// that threads do not write the same memory for each request. A key that is changed leaves the
/// cache and all parts. Each lock is held for one look-up or one insertion, never longer.
pub(super) struct Cache {
    keys: Mutex<Kept<Arc<Key>>>,
    parts: Sharded<Mutex<Kept<Arc<InUse>>>>,
}

/// A key in use by one thread. Each thread has a count of references of its own: threads that all
/// write one count slow each other down.
pub struct InUse(Arc<Key>);

impl InUse {
    /// The key with the count of references that all threads share.
    pub(crate) fn shared(&self) -> Arc<Key> {
        Arc::clone(&self.0)
    }
}

impl From<Arc<Key>> for InUse {
    fn from(key: Arc<Key>) -> Self {
        Self(key)
    }
}

impl Deref for InUse {
    type Target = Key;

    fn deref(&self) -> &Key {
        &self.0
    }
}

/// Keys that are kept, those used last.
struct Kept<K> {
    keys: LruCache<String, K>,
    /// Number of changes to keys, in memory or not.
    changes: u64,
}

impl Cache {
    /// An empty cache for up to `size` keys.
    pub(super) fn new(size: NonZeroUsize) -> Self {
        let parts = Sharded::new(|| Mutex::new(Kept::new(size.min(PART))));
        Self { keys: Mutex::new(Kept::new(size)), parts }
    }

    /// The key of a label, if the key is in memory.
    pub(super) fn get(&self, label: &str) -> Option<Arc<InUse>> {
        let changes = {
            let mut part = lock(self.parts.own());
            if let Some(key) = part.keys.get(label) {
                return Some(Arc::clone(key));
            }
            part.changes
        };
        let key = lock(&self.keys).keys.get(label).cloned()?;
        let key = Arc::new(InUse(key));
        lock(self.parts.own()).insert(label, &key, changes);
        Some(key)
    }

    /// Number of changes until now, for [`Self::insert`].
    pub(super) fn changes(&self) -> u64 {
        lock(&self.keys).changes
    }

    /// Inserts a key that was read after `changes` changes. Does nothing if there were more since:
    /// the key may be old by now, and a change that was answered must not be undone.
    pub(super) fn insert(&self, key: &Arc<Key>, changes: u64) {
        lock(&self.keys).insert(key.label.as_str(), key, changes);
    }

    /// Removes a key that was changed, and returns the key as it was in memory.
    pub(super) fn remove_changed(&self, label: &Label) -> Option<Arc<Key>> {
        // The parts come last: a thread may have taken the key from `keys` just before.
        let mut removed = lock(&self.keys).remove_changed(label);
        for part in self.parts.all() {
            // A part may have a key for which `keys` had no room any more.
            removed = lock(part).remove_changed(label).map(|key| key.shared()).or(removed);
        }
        removed
    }

    /// Labels of the keys in memory. A label can occur more than once.
    pub(super) fn labels(&self) -> Vec<Label> {
        let mut labels: Vec<_> = lock(&self.keys).keys.iter().map(|(_, key)| key.label.clone()).collect();
        for part in self.parts.all() {
            labels.extend(lock(part).keys.iter().map(|(_, key)| key.label.clone()));
        }
        labels
    }
}

impl<K: Clone> Kept<K> {
    fn new(size: NonZeroUsize) -> Self {
        Self { keys: LruCache::new(size), changes: 0 }
    }

    fn insert(&mut self, label: &str, key: &K, changes: u64) {
        if self.changes == changes {
            self.keys.put(label.to_owned(), key.clone());
        }
    }

    fn remove_changed(&mut self, label: &Label) -> Option<K> {
        self.changes += 1;
        self.keys.pop(label.as_str())
    }
}

fn lock<K>(keys: &Mutex<Kept<K>>) -> MutexGuard<'_, Kept<K>> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Largest number of keys in the part of a thread. More keys in use at a time cost the lock that
/// all threads share.
const PART: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
