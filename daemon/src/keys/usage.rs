//! Usage of keys: the peers that used each key lately, and when.
//!
//! Each signature makes one entry in memory, so an entry takes no system call and no memory if the
//! peer is known. A file beside the store has the entries across a restart. A crash of the daemon
//! loses the entries since the file was written, at most [`SAVE_INTERVAL`].

use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use serde::{Deserialize, Serialize};

/// The peers that used keys lately. Shared by reference between tasks.
pub(crate) struct Usage {
    shards: [Mutex<Shard>; SHARDS],
    /// Time from which uses are recorded, in seconds since 1970.
    since: u64,
    /// True if the file does not have the last entries.
    is_unsaved: AtomicBool,
    file: PathBuf,
}

/// Entries of some keys. The lock is held for one entry or one look-up.
type Shard = LruCache<Box<str>, Vec<PeerUsage>>;

/// Uses of a key by the processes of one program, user and service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct PeerUsage {
    /// User id.
    pub(crate) uid: u32,
    /// The systemd service, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    pub(crate) unit: Option<Arc<str>>,
    /// Name of the program, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text")]
    pub(crate) command: Option<Arc<str>>,
    /// Time of the last use, in seconds since 1970.
    pub(crate) last: u64,
    /// Number of uses since the first entry.
    pub(crate) count: u64,
}

/// Form of the file.
#[derive(Deserialize, Serialize)]
struct Stored {
    since: u64,
    keys: BTreeMap<Box<str>, Vec<PeerUsage>>,
}

impl Usage {
    /// Entries of the file in the state directory. Without the file, uses are recorded from `now`.
    pub(crate) fn load(state_dir: &Path, now: u64) -> Self {
        let file = state_dir.join(FILE);
        let stored = match fs::read(&file).map(|bytes| serde_json::from_slice::<Stored>(&bytes)) {
            Ok(Ok(stored)) => stored,
            Ok(Err(_)) => {
                tracing::warn!("the last uses of keys in {} are damaged, and begin anew", file.display());
                Stored { since: now, keys: BTreeMap::new() }
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read the last uses of keys in {}: {error}", file.display());
                }
                Stored { since: now, keys: BTreeMap::new() }
            }
        };
        let usage = Self {
            shards: core::array::from_fn(|_| Mutex::new(LruCache::new(KEYS_IN_SHARD))),
            since: stored.since.min(now),
            // A file without entries says from when on uses are recorded.
            is_unsaved: AtomicBool::new(stored.keys.is_empty()),
            file,
        };
        for (label, mut peers) in stored.keys {
            peers.truncate(MAX_PEERS);
            usage.shard(&label).put(label, peers);
        }
        usage
    }

    /// Records a use of a key.
    pub(crate) fn note(
        &self,
        label: &str,
        uid: u32,
        unit: Option<&Arc<str>>,
        command: Option<&Arc<str>>,
        now: u64,
    ) {
        let mut shard = self.shard(label);
        let is_same = |peer: &&mut PeerUsage| {
            peer.uid == uid && peer.unit.as_ref() == unit && peer.command.as_ref() == command
        };
        match shard.get_mut(label) {
            Some(peers) => match peers.iter_mut().find(is_same) {
                Some(peer) => {
                    peer.last = now;
                    peer.count += 1;
                }
                None => {
                    if peers.len() >= MAX_PEERS {
                        let oldest = peers.iter().enumerate().min_by_key(|(_, peer)| peer.last);
                        let oldest = oldest.map_or(0, |(at, _)| at);
                        peers.swap_remove(oldest);
                    }
                    peers.push(PeerUsage::first(uid, unit, command, now));
                }
            },
            None => {
                shard.put(label.into(), vec![PeerUsage::first(uid, unit, command, now)]);
            }
        }
        drop(shard);
        // A store to memory that all threads share costs more than a load.
        if !self.is_unsaved.load(Ordering::Relaxed) {
            self.is_unsaved.store(true, Ordering::Relaxed);
        }
    }

    /// The peers that used a key, the last user first.
    pub(crate) fn of_key(&self, label: &str) -> Vec<PeerUsage> {
        let mut peers = self.shard(label).peek(label).cloned().unwrap_or_default();
        peers.sort_by_key(|peer| core::cmp::Reverse(peer.last));
        peers
    }

    /// Time from which uses are recorded, in seconds since 1970.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Removes the entries of a key that is destroyed.
    pub(crate) fn forget(&self, label: &str) {
        self.shard(label).pop(label);
        self.is_unsaved.store(true, Ordering::Relaxed);
    }

    /// Writes the file if there are new entries. Waits for the disk.
    ///
    /// # Errors
    /// The error of the system. The next call tries again.
    pub(crate) fn save(&self) -> io::Result<()> {
        if !self.is_unsaved.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut keys = BTreeMap::new();
        for shard in &self.shards {
            keys.extend(lock(shard).iter().map(|(label, peers)| (label.clone(), peers.clone())));
        }
        let saved = self.write(&Stored { since: self.since, keys });
        if saved.is_err() {
            self.is_unsaved.store(true, Ordering::Relaxed);
        }
        saved
    }

    fn write(&self, stored: &Stored) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.persist(&self.file)?;
        Ok(())
    }

    fn shard(&self, label: &str) -> MutexGuard<'_, Shard> {
        // FNV-1a. The keys of a daemon have labels that an administrator chose.
        let hash = label
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        lock(&self.shards[hash as usize % SHARDS])
    }
}

impl PeerUsage {
    fn first(uid: u32, unit: Option<&Arc<str>>, command: Option<&Arc<str>>, now: u64) -> Self {
        Self { uid, unit: unit.cloned(), command: command.cloned(), last: now, count: 1 }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Text that may be absent.
mod text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
        text.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Arc::from))
    }
}

/// Interval at which the daemon writes the file.
pub(crate) const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// Name of the file in the state directory.
const FILE: &str = "key-usage.json";
/// Number of parts with a lock of their own.
const SHARDS: usize = 16;
/// Maximum number of keys in a part. Beyond, the key that was not used for longest is forgotten.
const KEYS_IN_SHARD: NonZeroUsize = NonZeroUsize::new(2048).unwrap();
/// Maximum number of peers of a key. Beyond, the peer that did not use the key for longest is
/// forgotten.
const MAX_PEERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn used(usage: &Usage, label: &str) -> Vec<(u32, u64, u64)> {
        usage.of_key(label).iter().map(|peer| (peer.uid, peer.last, peer.count)).collect()
    }

    #[test]
    fn each_peer_of_a_key_has_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage::load(dir.path(), NOW);
        let [nginx, curl]: [Arc<str>; 2] = ["nginx".into(), "curl".into()];
        usage.note("shop", 33, Some(&nginx), Some(&nginx), NOW);
        // Each connection has a text of its own.
        usage.note("shop", 33, Some(&"nginx".into()), Some(&"nginx".into()), NOW + 1);
        usage.note("shop", 33, Some(&nginx), Some(&curl), NOW + 2);
        usage.note("shop", 0, None, Some(&curl), NOW + 3);
        usage.note("mail", 33, None, None, NOW + 4);
        assert_eq!(used(&usage, "shop"), [(0, NOW + 3, 1), (33, NOW + 2, 1), (33, NOW + 1, 2)]);
        assert_eq!(used(&usage, "mail"), [(33, NOW + 4, 1)]);
        assert_eq!(used(&usage, "none"), []);
        usage.forget("mail");
        assert_eq!(used(&usage, "mail"), []);
    }

    #[test]
    fn the_file_has_the_entries_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage::load(dir.path(), NOW);
        usage.save().unwrap();
        usage.note("shop", 33, None, Some(&"nginx".into()), NOW + 5);
        usage.save().unwrap();
        let again = Usage::load(dir.path(), NOW + 9);
        assert_eq!((again.since(), again.of_key("shop")), (NOW, usage.of_key("shop")));
        // Nothing new: the file stays as it is.
        fs::remove_file(dir.path().join(FILE)).unwrap();
        again.save().unwrap();
        assert!(!dir.path().join(FILE).exists());
        again.note("shop", 33, None, None, NOW + 10);
        again.save().unwrap();
        assert_eq!(used(&Usage::load(dir.path(), NOW + 11), "shop").len(), 2);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Usage::load(dir.path(), NOW + 12).since(), NOW + 12);
    }

    #[test]
    fn memory_is_bounded_and_the_last_uses_stay() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage::load(dir.path(), NOW);
        for uid in 0..100 {
            usage.note("shop", uid, None, None, NOW + u64::from(uid));
        }
        let peers = used(&usage, "shop");
        assert_eq!((peers.len(), peers[0].0), (MAX_PEERS, 99));
        assert!(peers.iter().all(|(uid, ..)| *uid >= 84), "{peers:?}");
        let most = SHARDS * KEYS_IN_SHARD.get();
        for number in 0..2 * most {
            usage.note(&format!("key-{number}"), 1, None, None, NOW);
        }
        let count: usize = usage.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(count <= most, "{count}");
        assert_eq!(used(&usage, &format!("key-{}", 2 * most - 1)).len(), 1);
    }
}
