//! Usage of keys: the peers that used each key lately, and when.
//!
//! Each signature makes one entry in memory, so an entry takes no system call and no memory if the
//! peer is known. A file beside the store has the entries across a restart.
//!
//! Entries get lost: the table is bounded, and a crash of the daemon loses the uses since the file
//! was written, at most [`SAVE_INTERVAL`]. So each answer has the time from which it is complete.

use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::ground::shard::Sharded;

/// The peers that used keys lately. Shared by reference between tasks.
pub(crate) struct Usage {
    /// Uses that are not in `shards` yet. Each thread that serves peers has a part of its own, so
    /// that threads do not write the same memory for each signature. Every reader brings all parts
    /// into `shards` first.
    new: Sharded<Mutex<Uses>>,
    shards: [Mutex<Shard>; SHARDS],
    /// Time from which no use got lost with a daemon, in seconds since 1970.
    since: u64,
    /// True if the file does not have the last entries.
    is_unsaved: AtomicBool,
    /// True if the file may have the mark of a clean end.
    is_marked: AtomicBool,
    file: PathBuf,
}

/// Uses of some keys by one thread. The lock is held for one entry, or while a reader takes all.
type Uses = HashMap<Box<str>, Vec<PeerUsage>>;

/// Entries of some keys. The lock is held for one entry or one look-up.
struct Shard {
    keys: LruCache<Box<str>, Vec<PeerUsage>>,
    /// Time from which a key without an entry was not used, in seconds since 1970. The table was
    /// too small for an entry of an earlier time.
    complete_since: u64,
}

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
    /// True if the daemon wrote the file as its last act, so that no use is missing.
    clean: bool,
    since: u64,
    /// [`Shard::complete_since`] of each shard.
    complete_since: [u64; SHARDS],
    keys: BTreeMap<Box<str>, Vec<PeerUsage>>,
}

impl Usage {
    /// Entries of the file in the state directory. If the file is missing or damaged, or the last
    /// daemon did not end in order, uses before `now` may be missing.
    pub(crate) fn load(state_dir: &Path, now: u64) -> Self {
        let file = state_dir.join(FILE);
        let stored = match fs::read(&file).map(|bytes| serde_json::from_slice::<Stored>(&bytes)) {
            Ok(Ok(stored)) => stored,
            Ok(Err(_)) => {
                tracing::warn!("the last uses of keys in {} are damaged, and begin anew", file.display());
                Stored::empty(now)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read the last uses of keys in {}: {error}", file.display());
                }
                Stored::empty(now)
            }
        };
        let since = if stored.clean { stored.since.min(now) } else { now };
        let shard = |number: usize| {
            let complete_since = stored.complete_since[number].clamp(since, now);
            Mutex::new(Shard { keys: LruCache::new(KEYS_IN_SHARD), complete_since })
        };
        let usage = Self {
            new: Sharded::default(),
            shards: core::array::from_fn(shard),
            since,
            // The mark goes before the first use.
            is_unsaved: AtomicBool::new(true),
            is_marked: AtomicBool::new(true),
            file,
        };
        // In the order of their uses, so that the key that was not used for longest goes first.
        let mut keys: Vec<_> = stored.keys.into_iter().collect();
        keys.sort_by_key(|(_, peers)| last(peers));
        for (label, mut peers) in keys {
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
        let mut new = lock(self.new.own());
        let is_same = |peer: &&mut PeerUsage| peer.is_of(uid, unit, command);
        let known = new.get_mut(label).and_then(|peers| peers.iter_mut().find(is_same));
        match known {
            Some(peer) => {
                peer.last = now;
                peer.count += 1;
            }
            None => {
                let peer = PeerUsage::first(uid, unit, command, now);
                if new.len() >= MAX_NEW {
                    self.take_in(core::mem::take(&mut *new));
                }
                let peers = new.entry(label.into()).or_default();
                peers.push(peer);
                if peers.len() >= MAX_PEERS {
                    self.take_in(core::mem::take(&mut *new));
                }
            }
        }
        drop(new);
        // A store to memory that all threads share costs more than a load.
        if !self.is_unsaved.load(Ordering::Relaxed) {
            self.is_unsaved.store(true, Ordering::Relaxed);
        }
    }

    /// Brings the uses of all threads into `shards`.
    fn take_in_all(&self) {
        for new in self.new.all() {
            let mut new = lock(new);
            // Under the lock, so that nobody who reads meanwhile misses these uses.
            self.take_in(core::mem::take(&mut *new));
        }
    }

    /// Brings the uses of one thread into `shards`, in the order of the last use of each key, so
    /// that the key that was not used for longest goes first if there is no room.
    fn take_in(&self, uses: Uses) {
        let mut keys: Vec<_> = uses.into_iter().collect();
        keys.sort_by_key(|(_, peers)| last(peers));
        for (label, peers) in keys {
            let mut shard = self.shard(&label);
            match shard.keys.get_mut(&label) {
                Some(known) => peers.into_iter().for_each(|peer| add(known, peer)),
                None => shard.put(label, peers),
            }
        }
    }

    /// The peers that used a key, the last user first.
    pub(crate) fn of_key(&self, label: &str) -> Vec<PeerUsage> {
        self.take_in_all();
        let mut peers = self.shard(label).keys.peek(label).cloned().unwrap_or_default();
        peers.sort_by_key(|peer| core::cmp::Reverse(peer.last));
        peers
    }

    /// Time from which the last use of a key is known, in seconds since 1970: either
    /// [`Self::of_key`] has the last use after this time, or there was none.
    pub(crate) fn since(&self, label: &str) -> u64 {
        self.take_in_all();
        let shard = self.shard(label);
        match shard.keys.contains(label) {
            true => self.since,
            false => shard.complete_since,
        }
    }

    /// Removes the entries of a key that is destroyed.
    pub(crate) fn forget(&self, label: &str) {
        self.take_in_all();
        self.shard(label).keys.pop(label);
        self.is_unsaved.store(true, Ordering::Relaxed);
    }

    /// Writes the file if there are new entries. Waits for the disk. `clean` marks the file of a
    /// daemon in which no use follows.
    ///
    /// # Errors
    /// The error of the system. The next call tries again.
    pub(crate) fn save(&self, clean: bool) -> io::Result<()> {
        if !self.is_unsaved.swap(false, Ordering::Relaxed) && !clean {
            return Ok(());
        }
        self.take_in_all();
        let (mut keys, mut complete_since) = (BTreeMap::new(), [0; SHARDS]);
        for (shard, complete_since) in self.shards.iter().zip(&mut complete_since) {
            let shard = lock(shard);
            keys.extend(shard.keys.iter().map(|(label, peers)| (label.clone(), peers.clone())));
            *complete_since = shard.complete_since;
        }
        let saved = self.write(&Stored { clean, since: self.since, complete_since, keys });
        match saved {
            Ok(()) => self.is_marked.store(clean, Ordering::Relaxed),
            Err(_) => {
                self.is_unsaved.store(true, Ordering::Relaxed);
                // A daemon that is killed must not leave the mark of the daemon before it.
                if self.is_marked.load(Ordering::Relaxed) && fs::remove_file(&self.file).is_ok() {
                    self.is_marked.store(false, Ordering::Relaxed);
                }
            }
        }
        saved
    }

    fn write(&self, stored: &Stored) -> io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&serde_json::to_vec(stored)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.file)?;
        // Otherwise a loss of power can bring a file with the mark of a clean end back.
        fs::File::open(directory)?.sync_all()
    }

    fn shard(&self, label: &str) -> MutexGuard<'_, Shard> {
        // FNV-1a. The keys of a daemon have labels that an administrator chose.
        let hash = label
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        lock(&self.shards[hash as usize % SHARDS])
    }
}

impl Stored {
    /// No use is known.
    fn empty(now: u64) -> Self {
        Self { clean: false, since: now, complete_since: [now; SHARDS], keys: BTreeMap::new() }
    }
}

impl Shard {
    /// Adds a key. If there is no room, the key that was not used for longest goes: from then on,
    /// nobody knows of its uses.
    fn put(&mut self, label: Box<str>, peers: Vec<PeerUsage>) {
        if let Some((evicted, peers)) = self.keys.push(label.clone(), peers)
            && evicted != label
        {
            self.complete_since = self.complete_since.max(last(&peers) + 1);
        }
    }
}

/// Adds uses of one peer to the entries of a key.
fn add(peers: &mut Vec<PeerUsage>, new: PeerUsage) {
    let is_same = |peer: &&mut PeerUsage| peer.is_of(new.uid, new.unit.as_ref(), new.command.as_ref());
    match peers.iter_mut().find(is_same) {
        Some(peer) => {
            peer.last = peer.last.max(new.last);
            peer.count += new.count;
        }
        None => {
            if peers.len() >= MAX_PEERS {
                forget_one(peers);
            }
            peers.push(new);
        }
    }
}

/// Time of the last use of a key.
fn last(peers: &[PeerUsage]) -> u64 {
    peers.iter().map(|peer| peer.last).max().unwrap_or_default()
}

/// Removes the oldest entry of the user with most entries, so that a user with many programs does
/// not hide another user.
fn forget_one(peers: &mut Vec<PeerUsage>) {
    let entries = |uid| peers.iter().filter(|peer| peer.uid == uid).count();
    let goes = peers
        .iter()
        .enumerate()
        .min_by_key(|(_, peer)| (core::cmp::Reverse(entries(peer.uid)), peer.last))
        .map_or(0, |(at, _)| at);
    peers.swap_remove(goes);
}

impl PeerUsage {
    fn first(uid: u32, unit: Option<&Arc<str>>, command: Option<&Arc<str>>, now: u64) -> Self {
        Self { uid, unit: unit.cloned(), command: command.cloned(), last: now, count: 1 }
    }

    /// True for uses by this user, service and program.
    fn is_of(&self, uid: u32, unit: Option<&Arc<str>>, command: Option<&Arc<str>>) -> bool {
        self.uid == uid && self.unit.as_ref() == unit && self.command.as_ref() == command
    }
}

fn lock<T>(entries: &Mutex<T>) -> MutexGuard<'_, T> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
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
/// Number of keys at which a thread brings its uses into the common table.
const MAX_NEW: usize = 256;
/// Maximum number of peers of a key. Beyond, a peer of the user with most peers is forgotten.
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
        usage.save(false).unwrap();
        usage.note("shop", 33, None, Some(&"nginx".into()), NOW + 5);
        usage.save(true).unwrap();
        let again = Usage::load(dir.path(), NOW + 9);
        assert_eq!((again.since("shop"), again.of_key("shop")), (NOW, usage.of_key("shop")));
        again.save(false).unwrap();
        // Nothing new: the file stays as it is.
        fs::remove_file(dir.path().join(FILE)).unwrap();
        again.save(false).unwrap();
        assert!(!dir.path().join(FILE).exists());
        again.note("shop", 33, None, None, NOW + 10);
        again.save(false).unwrap();
        assert_eq!(used(&Usage::load(dir.path(), NOW + 11), "shop").len(), 2);
    }

    #[test]
    fn a_loss_of_entries_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let load = |now| Usage::load(dir.path(), now);
        let usage = load(NOW);
        assert_eq!(usage.since("mail"), NOW, "no file");
        usage.note("shop", 33, None, None, NOW + 1);
        usage.save(true).unwrap();
        // The next daemon says that it runs, and is killed.
        let killed = load(NOW + 10);
        assert_eq!([killed.since("shop"), killed.since("mail")], [NOW; 2]);
        killed.save(false).unwrap();
        let next = load(NOW + 20);
        assert_eq!(used(&next, "shop"), [(33, NOW + 1, 1)], "the last known use");
        assert_eq!([next.since("shop"), next.since("mail")], [NOW + 20; 2]);
        next.save(true).unwrap();
        assert_eq!(load(NOW + 30).since("mail"), NOW + 20);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(load(NOW + 40).since("mail"), NOW + 40);
    }

    #[test]
    fn a_key_without_room_is_not_unused() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage::load(dir.path(), NOW);
        usage.note("shop", 33, None, None, NOW + 5);
        for number in 0..4 * SHARDS * KEYS_IN_SHARD.get() {
            usage.note(&format!("key-{number}"), 7, None, None, NOW + 10);
        }
        assert_eq!(used(&usage, "shop"), []);
        // Keys that were used at the last moment were evicted, too.
        assert_eq!(usage.since("shop"), NOW + 11);
        usage.note("shop", 33, None, None, NOW + 20);
        assert_eq!(usage.since("shop"), NOW, "the last use is known again");
        usage.save(true).unwrap();
        let next = Usage::load(dir.path(), NOW + 30);
        assert_eq!((next.since("shop"), used(&next, "shop")), (NOW, vec![(33, NOW + 20, 1)]));
        next.forget("shop");
        assert_eq!(next.since("shop"), NOW + 11);
    }

    #[test]
    fn a_user_with_many_programs_does_not_hide_another() {
        let dir = tempfile::tempdir().unwrap();
        let usage = Usage::load(dir.path(), NOW);
        usage.note("shop", 33, None, Some(&"nginx".into()), NOW);
        for number in 1..100_u64 {
            usage.note("shop", 7, None, Some(&format!("program-{number}").into()), NOW + number);
        }
        let peers = used(&usage, "shop");
        assert_eq!((peers.len(), peers[0], peers[15]), (MAX_PEERS, (7, NOW + 99, 1), (33, NOW, 1)));
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
        let count: usize = usage.shards.iter().map(|shard| lock(shard).keys.len()).sum();
        assert!(count <= most, "{count}");
        assert_eq!(used(&usage, &format!("key-{}", 2 * most - 1)).len(), 1);
    }
}
