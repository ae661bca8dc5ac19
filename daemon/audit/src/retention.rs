//! Retention: which closed files are removed, the oldest first.
//!
//! A file goes when its last record is too old, or while all files of the trail are too large.
//! Other files in the directory do not count: nobody has records removed with them. A record says
//! so, and no file goes before a checkpoint covers this record: see [`Removal`].

use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::time::{Instant, SystemTime};

use crate::files::Stored;
use crate::line::Link;
use crate::reading::{End, open, read_line};
use crate::{Hash, Policy};

/// Records that are removed from the beginning of a trail.
///
/// Verification accepts a trail that begins after record `last`, because this record is in it and
/// a checkpoint covers this record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Removal {
    /// Number of the first record that is removed.
    pub(crate) first: u64,
    /// Number of the last record that is removed.
    pub(crate) last: u64,
    /// Hash of that record.
    pub(crate) hash: Hash,
    /// Setting that asks for the removal.
    pub(crate) reason: &'static str,
}

/// Closed files, as far as they were read.
#[derive(Debug, Default)]
pub(crate) struct Retention {
    /// Last record of files that stay for now. The reading of a compressed file takes time.
    last: HashMap<u64, LastRecord>,
    /// When a file was last removed because of its age.
    aged: Option<Instant>,
    /// True if a file is due because of its age.
    is_by_age: bool,
}

#[derive(Clone, Copy, Debug)]
struct LastRecord {
    seq: u64,
    time: SystemTime,
    hash: Hash,
}

impl Retention {
    /// Files that are to be removed. `current` is the first record of the file that is open.
    ///
    /// # Errors
    /// A file cannot be read, or it is not what the trail has written.
    pub(crate) fn due(
        &mut self,
        files: &[Stored],
        current: u64,
        policy: &Policy,
        now: SystemTime,
    ) -> io::Result<Option<Removal>> {
        let mut removal: Option<Removal> = None;
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        self.last.retain(|first, _| files.iter().any(|file| file.first == *first));
        // A clock that is set wrong makes all files too old at once, so they go slowly.
        let may_age = self.aged.is_none_or(|aged| aged.elapsed() >= AGE_PACE);
        let closed = files.iter().enumerate().filter(|(_, file)| file.first < current);
        for (number, file) in closed {
            let is_over = policy.keep_size.is_some_and(|size| bytes > size);
            if !is_over && policy.keep.is_none() {
                break;
            }
            // A file without a record goes with the next one.
            let Some(last) = self.last_of(file)? else { continue };
            let age = now.duration_since(last.time).unwrap_or_default();
            let is_old = may_age && removal.is_none() && policy.keep.is_some_and(|keep| age > keep);
            if !is_over && !is_old {
                break;
            }
            // A removal must not hide that the trail was changed at this place.
            follows(files.get(number + 1), last)?;
            bytes = bytes.saturating_sub(file.bytes);
            self.is_by_age |= is_old;
            let reason = if is_old { KEEP } else { "keep-size" };
            let first = removal.map_or(file.first, |removal| removal.first);
            removal = Some(Removal { first, last: last.seq, hash: last.hash, reason });
        }
        Ok(removal)
    }

    /// Notes that the files which were due last are removed.
    pub(crate) fn removed(&mut self) {
        if core::mem::take(&mut self.is_by_age) {
            self.aged = Some(Instant::now());
        }
    }

    fn last_of(&mut self, file: &Stored) -> io::Result<Option<LastRecord>> {
        if let Some(last) = self.last.get(&file.first) {
            return Ok(Some(*last));
        }
        let path = file.path().ok_or(io::ErrorKind::NotFound)?;
        let Some(line) = End::of(path)?.line else { return Ok(None) };
        let link: Link = serde_json::from_slice(&line)?;
        let time =
            humantime::parse_rfc3339(&link.time).map_err(|_| unexpected("has a record without a time"))?;
        let last = LastRecord { seq: link.seq, time, hash: Hash::of(&line) };
        self.last.insert(file.first, last);
        Ok(Some(last))
    }
}

/// Compares the first record of the next file with the last one of this file.
fn follows(next: Option<&Stored>, last: LastRecord) -> io::Result<()> {
    let Some(path) = next.and_then(Stored::path) else { return Ok(()) };
    let mut line = Vec::new();
    // The open file may have no record yet.
    if read_line(&mut *open(path)?, &mut line)? == 0 {
        return Ok(());
    }
    let link: Link = serde_json::from_slice(&line)?;
    if link.prev == last.hash && link.seq == last.seq + 1 {
        Ok(())
    } else {
        Err(unexpected("does not follow from the file before it"))
    }
}

/// Reason of a removal because of the age of a file.
const KEEP: &str = "keep";
/// Time between two files that are removed because of their age. A file begins each day, or when
/// it is full, and the total length has its own limit.
const AGE_PACE: Duration = Duration::from_secs(15 * 60);

fn unexpected(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a file of the trail {problem}"))
}
