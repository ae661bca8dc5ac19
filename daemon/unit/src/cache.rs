use core::hash::{BuildHasherDefault, Hasher};
use core::num::NonZeroUsize;
use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;

use crate::object::Object;

/// Private keys in the clear, found by their blobs. The number of keys is bounded, and an unused
/// key is dropped.
pub(crate) struct Cache {
    keys: LruCache<Box<[u8]>, Entry, BuildHasherDefault<MacTail>>,
    /// Retired blobs, which must not be used: the tail of the MAC of each, and the sweeps since it
    /// was retired.
    ///
    /// A request that read the key store before a key was disabled may bring the blob afterwards.
    retired: HashMap<u64, u16, BuildHasherDefault<MacTail>>,
}

impl Cache {
    pub(crate) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            keys: LruCache::with_hasher(capacity, BuildHasherDefault::default()),
            retired: HashMap::default(),
        }
    }

    /// The key of a blob. The key counts as used now.
    pub(crate) fn get(&mut self, blob: &[u8]) -> Option<Arc<Object>> {
        let entry = self.keys.get_mut(blob)?;
        entry.idle = 0;
        Some(Arc::clone(&entry.key))
    }

    /// Keeps a key, unless its blob is retired. Returns the key that was removed to make room.
    pub(crate) fn put(&mut self, blob: &[u8], key: &Arc<Object>) -> Option<Arc<Object>> {
        if self.is_retired(blob) {
            return None;
        }
        let entry = Entry { key: Arc::clone(key), idle: 0 };
        self.keys.push(blob.into(), entry).map(|(_, entry)| entry.key)
    }

    /// True if a blob is retired.
    pub(crate) fn is_retired(&self, blob: &[u8]) -> bool {
        self.retired.contains_key(&tail(blob))
    }

    /// Removes the key of a blob, and refuses to keep it until the blob is reinstated.
    pub(crate) fn retire(&mut self, blob: &[u8]) -> Option<Arc<Object>> {
        self.retired.insert(tail(blob), 0);
        self.keys.pop(blob).map(|entry| entry.key)
    }

    /// Undoes [`Self::retire`].
    pub(crate) fn reinstate(&mut self, blob: &[u8]) {
        self.retired.remove(&tail(blob));
    }

    /// Removes all keys. Retired blobs stay retired.
    pub(crate) fn clear(&mut self) -> Vec<Arc<Object>> {
        let mut keys = Vec::with_capacity(self.keys.len());
        while let Some((_, entry)) = self.keys.pop_lru() {
            keys.push(entry.key);
        }
        keys
    }

    /// Removes the keys that nobody used in the last [`IDLE_SWEEPS`] sweeps.
    pub(crate) fn sweep(&mut self) -> Vec<Arc<Object>> {
        self.retired.retain(|_, sweeps| {
            *sweeps += 1;
            *sweeps <= RETIRED_SWEEPS
        });
        let mut idle = Vec::new();
        self.keys.retain(|_, entry| {
            let keep = entry.idle < IDLE_SWEEPS;
            entry.idle += 1;
            if !keep {
                idle.push(Arc::clone(&entry.key));
            }
            keep
        });
        idle
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, blob: &[u8]) -> bool {
        self.keys.contains(blob)
    }
}

struct Entry {
    key: Arc<Object>,
    /// Sweeps since the key was used.
    idle: u16,
}

/// Hashes a blob to the last eight bytes of its MAC.
///
/// These bytes are as good as random for every blob in the cache, and nobody can choose them
/// without the master key. A lookup of a made-up blob costs one comparison and finds nothing.
#[derive(Default)]
struct MacTail(u64);

impl Hasher for MacTail {
    fn write(&mut self, blob: &[u8]) {
        if let Some(tail) = blob.last_chunk() {
            self.0 = u64::from_ne_bytes(*tail);
        }
    }

    // A slice hashes its length first.
    fn write_usize(&mut self, _: usize) {}

    fn write_u64(&mut self, tail: u64) {
        self.0 = tail;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The last eight bytes of a blob: the end of its MAC.
fn tail(blob: &[u8]) -> u64 {
    blob.last_chunk().map_or(0, |tail| u64::from_ne_bytes(*tail))
}

/// Sweeps until an unused key is removed: 15 minutes at one sweep a minute.
const IDLE_SWEEPS: u16 = 15;

/// Sweeps that a blob stays retired for: two hours at one sweep a minute. A request lasts an hour
/// at most.
const RETIRED_SWEEPS: u16 = 120;
