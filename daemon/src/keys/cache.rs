//! Keys in memory.

use core::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use keyward_proto::Label;
use lru::LruCache;

use super::Key;

/// The keys that were used last, as they are in the store. The lock is held for one look-up or one
/// insertion, never longer.
pub(super) struct Cache(Mutex<Cached>);

struct Cached {
    keys: LruCache<String, Arc<Key>>,
    /// Number of changes to keys, in memory or not.
    changes: u64,
}

impl Cache {
    /// An empty cache for up to `size` keys.
    pub(super) fn new(size: NonZeroUsize) -> Self {
        Self(Mutex::new(Cached { keys: LruCache::new(size), changes: 0 }))
    }

    /// The key of a label, if the key is in memory.
    pub(super) fn get(&self, label: &str) -> Option<Arc<Key>> {
        self.with(|cached| cached.keys.get(label).cloned())
    }

    /// Number of changes until now, for [`Self::insert`].
    pub(super) fn changes(&self) -> u64 {
        self.with(|cached| cached.changes)
    }

    /// Inserts a key that was read after `changes` changes. Does nothing if there were more since:
    /// the key may be old by now, and a change that was answered must not be undone.
    pub(super) fn insert(&self, key: &Arc<Key>, changes: u64) {
        self.with(|cached| {
            if cached.changes == changes {
                cached.keys.put(key.label.to_string(), Arc::clone(key));
            }
        });
    }

    /// Removes a key that was changed, and returns the key as it was in memory.
    pub(super) fn remove_changed(&self, label: &Label) -> Option<Arc<Key>> {
        self.with(|cached| {
            cached.changes += 1;
            cached.keys.pop(label.as_str())
        })
    }

    /// Labels of the keys in memory.
    pub(super) fn labels(&self) -> Vec<Label> {
        self.with(|cached| cached.keys.iter().map(|(_, key)| key.label.clone()).collect())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Cached) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
