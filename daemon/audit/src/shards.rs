//! Uses of keys that wait to be written: one shard for each thread that serves peers, so that
//! threads do not wait for each other.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::KeyUse;
use crate::refusals::Refusals;

#[derive(Debug)]
pub(crate) struct Shards {
    shards: Box<[Mutex<Vec<KeyUse>>]>,
    capacity: usize,
    /// Uses that had no room since the last [`Shards::take`].
    lost: AtomicU64,
    refusals: Mutex<Refusals>,
}

impl Shards {
    /// Shards for some threads, each with room for a number of uses.
    pub(crate) fn new(threads: usize, capacity: usize) -> Self {
        let shards = (0..threads.max(1)).map(|_| Mutex::new(Vec::new())).collect();
        Self { shards, capacity, lost: AtomicU64::new(0), refusals: Mutex::default() }
    }

    /// Adds a use to the shard of this thread. Without room the use is counted, and refusals beyond
    /// the limits of their user are counted for the user.
    pub(crate) fn add(&self, r#use: KeyUse) {
        if r#use.outcome != DONE {
            let second = seconds(r#use.time);
            if !self.refusals().admit(r#use.peer.uid, r#use.outcome, second) {
                return;
            }
        }
        let mut shard =
            self.shards[thread_number() % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() < self.capacity {
            shard.push(r#use);
        } else {
            drop(shard);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
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
        for shard in &self.shards {
            core::mem::swap(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner), spare);
            uses.append(spare);
        }
        uses.sort_by_key(|r#use| r#use.time);
        lost
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Outcome of a use that was carried out.
pub(crate) const DONE: &str = "done";

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
