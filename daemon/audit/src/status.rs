//! Status of a trail, for people and monitoring.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::PoisonError;
use std::time::Instant;

use crate::trail::Shared;
use crate::{Checkpoint, Signing, Trail};

/// Status of a trail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// When the writer has last looked for work. It does so every 50 milliseconds: an older time
    /// is that of a disk that hangs. `None`: not yet. The time does not depend on the clock.
    pub looked: Option<Instant>,
    /// Number of the last record. 0: there is none.
    pub last: u64,
    /// Last checkpoint, as `head` has it. `None`: there is none.
    pub checkpoint: Option<Checkpoint>,
    /// Answer of the unit when it was last asked to sign.
    pub signing: Signing,
    /// Time of the oldest record that no checkpoint covers, or a time shortly before it. A trail
    /// that was not signed to its end has the time of its start. `None`: every record is signed.
    pub unsigned_since: Option<Instant>,
    /// Reason why records cannot be written, from the moment that one could not, until records are
    /// written again.
    pub failure: Option<String>,
    /// Uses of keys, refused ones too, and refused acts without a record since the start.
    pub unwritten: u64,
    /// Number of a record that a checkpoint covers, and that was not in the trail as it was when
    /// the trail was opened: its end was cut off or replaced.
    pub rewound: Option<u64>,
    /// Records that the collector has no copy of, since the start.
    pub uncopied: u64,
    /// Reason why uses of keys go into summaries. `None`: each use has a record.
    pub summaries: Option<Summed>,
    /// Free part of the file system, in per cent. `None`: not yet looked at.
    pub free: Option<u8>,
    /// Extent of the directory. `None`: not yet looked at.
    pub extent: Option<Extent>,
}

/// Reason why uses of keys go into summaries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Summed {
    /// The policy says so.
    Policy,
    /// The file system has little free space.
    Space,
}

/// Extent of the directory of a trail, at the last look: each minute, and when a file begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Number of files with records.
    pub files: u64,
    /// Length of all files in the directory, in bytes.
    pub bytes: u64,
}

impl Status {
    /// Status before anything has looked.
    pub(crate) fn new(last: u64, checkpoint: Option<Checkpoint>) -> Self {
        Self {
            looked: None,
            last,
            checkpoint,
            signing: Signing::NotAsked,
            unsigned_since: None,
            failure: None,
            unwritten: 0,
            rewound: None,
            uncopied: 0,
            summaries: None,
            free: None,
            extent: None,
        }
    }
}

impl Trail {
    /// Status of the trail. The writer does not wait for it.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Reason why records cannot be written now.
    pub fn failure(&self) -> Option<String> {
        let met = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner).failure.clone();
        self.shared.failure(met)
    }
}

impl Shared {
    fn status(&self) -> Status {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lost = self.shards.lost();
        Status {
            looked: self.looked(),
            last: self.last.load(Ordering::Relaxed),
            unwritten: self.unwritten.load(Ordering::Relaxed) + lost,
            failure: self.failure(status.failure),
            ..status
        }
    }

    /// Reason why records cannot be written now: the one that the writer has met, or the one that
    /// keeps the writer waiting.
    fn failure(&self, met: Option<String>) -> Option<String> {
        met.or_else(|| self.hangs().then(|| "the disk does not answer".into()))
            .or_else(|| (self.shards.lost() > 0).then(|| "the disk is too slow".into()))
    }

    /// Changes what the status says.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// True if the writer has not looked for work for some time: the disk does not answer.
    pub(crate) fn hangs(&self) -> bool {
        self.looked().is_some_and(|looked| looked.elapsed() > HANGS)
    }

    /// When the writer has last looked for work.
    fn looked(&self) -> Option<Instant> {
        let since_opened = self.looked.load(Ordering::Relaxed).checked_sub(1)?;
        self.opened.checked_add(Duration::from_millis(since_opened))
    }

    /// Notes that the writer looks for work.
    pub(crate) fn look(&self) {
        let since_opened = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.looked.store(since_opened.saturating_add(1), Ordering::Relaxed);
    }
}

/// Time without a look for work after which the writer must be waiting for the disk.
const HANGS: Duration = Duration::from_secs(5);
