use core::hash::{BuildHasherDefault, Hasher};
use core::num::NonZeroUsize;
use std::collections::HashMap;
use std::sync::Arc;

use lru::LruCache;

use crate::object::Object;

/// Private keys in the clear, by their blobs: a bounded number, and none for longer than it is
/// used.
pub(crate) struct Cache {
    keys: LruCache<Box<[u8]>, Entry, BuildHasherDefault<MacTail>>,
    /// Blobs that are not to be used, by the tails of their MACs, each with the sweeps since it was
    /// retired.
    ///
    /// A request may have read a key before the key was disabled, and bring the blob afterwards.
    retired: HashMap<u64, u16, BuildHasherDefault<MacTail>>,
}

impl Cache {
    pub(crate) fn new(capacity: NonZeroUsize) -> Self {
        Self {
            keys: LruCache::with_hasher(capacity, BuildHasherDefault::default()),
            retired: HashMap::default(),
        }
    }

    /// The key of a blob, which counts as used now.
    pub(crate) fn get(&mut self, blob: &[u8]) -> Option<Arc<Object>> {
        let entry = self.keys.get_mut(blob)?;
        entry.idle = 0;
        Some(Arc::clone(&entry.key))
    }

    /// Keeps a key, unless its blob is retired. Returns the key that had to make room.
    pub(crate) fn put(&mut self, blob: &[u8], key: &Arc<Object>) -> Option<Arc<Object>> {
        if self.is_retired(blob) {
            return None;
        }
        let entry = Entry { key: Arc::clone(key), idle: 0 };
        self.keys.push(blob.into(), entry).map(|(_, entry)| entry.key)
    }

    /// True if a blob was retired, and not reinstated.
    pub(crate) fn is_retired(&self, blob: &[u8]) -> bool {
        self.retired.contains_key(&tail(blob))
    }

    /// Gives up the key of a blob, and keeps it no more until the blob is reinstated.
    pub(crate) fn retire(&mut self, blob: &[u8]) -> Option<Arc<Object>> {
        self.retired.insert(tail(blob), 0);
        self.keys.pop(blob).map(|entry| entry.key)
    }

    /// Takes [`Self::retire`] back.
    pub(crate) fn reinstate(&mut self, blob: &[u8]) {
        self.retired.remove(&tail(blob));
    }

    /// Gives up the keys that were used the last time [`IDLE_SWEEPS`] sweeps ago.
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
/// They are as good as random for every blob in the cache, and nobody can choose them without the
/// master key. Whoever looks for a made-up blob compares it once and finds nothing.
#[derive(Default)]
struct MacTail(u64);

impl Hasher for MacTail {
    fn write(&mut self, blob: &[u8]) {
        if let Some(tail) = blob.last_chunk() {
            self.0 = u64::from_ne_bytes(*tail);
        }
    }

    // The length, which the slice hashes first.
    fn write_usize(&mut self, _: usize) {}

    fn write_u64(&mut self, tail: u64) {
        self.0 = tail;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The last eight bytes of a blob, which are those of its MAC.
fn tail(blob: &[u8]) -> u64 {
    blob.last_chunk().map_or(0, |tail| u64::from_ne_bytes(*tail))
}

/// Sweeps that a key stays for without being used: at one each minute, 15 minutes.
const IDLE_SWEEPS: u16 = 15;

/// Sweeps that a blob stays retired for: at one each minute, two hours. No request is that old: it
/// has an hour at most.
const RETIRED_SWEEPS: u16 = 120;
