//! Uses of keys that wait to be written: one shard for each thread that serves peers, so that
//! threads do not wait for each other.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::acts::refused;
use crate::line::{self, Content};
use crate::refusals::Refusals;
use crate::{Act, Hash, KeyUse};

#[derive(Debug)]
pub(crate) struct Shards {
    shards: Box<[Shard]>,
    capacity: usize,
    /// Uses that had no room since the last [`Shards::take`].
    lost: AtomicU64,
    refusals: Mutex<Refusals>,
    /// Refused acts that have a record of their own.
    acts: Mutex<Vec<Act>>,
}

/// Uses of one thread. Two cache lines, which processors fetch in pairs: a thread does not take the
/// lines of the next one.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<Vec<KeyUse>>);

impl Shards {
    /// Shards for some threads, each with room for a number of uses.
    pub(crate) fn new(threads: usize, capacity: usize) -> Self {
        let shards = (0..threads.max(1)).map(|_| Shard::default()).collect();
        Self { shards, capacity, lost: AtomicU64::new(0), refusals: Mutex::default(), acts: Mutex::default() }
    }

    /// Adds a use to the shard of this thread. Without room the use is counted, and refusals beyond
    /// the limits of their user are counted for the user.
    pub(crate) fn add(&self, r#use: KeyUse) {
        if r#use.outcome != DONE {
            let second = seconds(r#use.time);
            let length = || length_of(&r#use);
            if !self.refusals().admit(r#use.peer.uid, r#use.outcome, second, length) {
                return;
            }
        }
        let Shard(uses) = &self.shards[thread_number() % self.shards.len()];
        let mut shard = uses.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() < self.capacity {
            shard.push(r#use);
        } else {
            drop(shard);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds an act that a user was refused. Beyond the limits of the user the act is counted.
    pub(crate) fn add_refused_act(&self, uid: u32, act: Act, now: SystemTime) {
        let act = refused(act);
        if self.refusals().admit(uid, REFUSED_ACT, seconds(now), || length_of_act(&act, now)) {
            let mut acts = self.acts.lock().unwrap_or_else(PoisonError::into_inner);
            if acts.len() < MAX_ACTS {
                acts.push(act);
            } else {
                drop(acts);
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes the refused acts that have a record of their own.
    pub(crate) fn take_refused_acts(&self) -> Vec<Act> {
        core::mem::take(&mut *self.acts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses and acts that had no room since the writer has last looked.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// The refusals without a record of their own.
    pub(crate) fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all uses to `uses`, in the order of their times, and returns the number of uses that
    /// had no room. `uses` and `spare` are empty before. Threads that add wait for an exchange of
    /// two vectors only.
    pub(crate) fn take(&self, uses: &mut Vec<KeyUse>, spare: &mut Vec<KeyUse>) -> u64 {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        for Shard(waiting) in &self.shards {
            core::mem::swap(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner), spare);
            uses.append(spare);
        }
        uses.sort_by_key(|r#use| r#use.time);
        lost
    }
}

/// Length of the record of a use in bytes, or somewhat more.
fn length_of(r#use: &KeyUse) -> usize {
    // JSON shows a control character as six (RFC 8259, 7).
    let of_byte = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    let texts = [Some(r#use.key.as_str()), r#use.peer.command.as_deref(), r#use.peer.unit.as_deref()];
    let texts = texts.into_iter().flatten().flat_map(str::bytes).map(of_byte).sum::<usize>();
    REST + texts
}

/// Length of the record of an act in bytes, with the number of the last record that there can be.
fn length_of_act(act: &Act, now: SystemTime) -> usize {
    let mut line = Vec::new();
    line::write(&mut line, u64::MAX, now, &Content::Act(act), Hash::NONE);
    line.len() + 1
}

/// Length of the rest of the record of a use, in bytes.
const REST: usize = 500;

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Outcome of a use that was carried out.
pub(crate) const DONE: &str = "done";

/// Outcome that counts refused acts. No use has it.
pub(crate) const REFUSED_ACT: &str = "refused-act";

/// Refused acts that wait for a write: some 2 MB.
const MAX_ACTS: usize = 1000;

/// Number of this thread, given when it asks first.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.with(|number| {
        number.get().unwrap_or_else(|| {
            let new = NEXT.fetch_add(1, Ordering::Relaxed);
            number.set(Some(new));
            new
        })
    })
}
