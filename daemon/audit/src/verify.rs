//! Verification of a trail with the public audit key alone.
//!
//! - Every record has the hash of the record before it, and the number after that one. So a record
//!   that is changed, missing, inserted or out of order breaks the chain at that place.
//! - A checkpoint signs the hash of a record, and so all records before it. Somebody who can write
//!   the files can make a new chain, but no signature.
//! - `head` has the last checkpoint. So an end that is cut off is found, unless `head` is replaced
//!   by an older one too: then only a copy of `head` elsewhere shows it, a kept [`Head`].
//! - A trail whose beginning was removed has a signed record with the hash of the last record that
//!   is gone. So nobody else can cut off a beginning.
//!
//! Records after the last checkpoint are not signed: somebody may have changed them.

use core::fmt;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::files::{HEAD, list, read_head};
use crate::line::{self, CHECKPOINT, Content, Link, REMOVAL, Removed, START, Started};
use crate::reading::{MAX_LINE, is_compressed, open, read_line};
use crate::{AuditKey, Checkpoint, Hash, TrailError};

/// Extent of a trail without a fault.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Number of records.
    pub records: u64,
    /// Number of the first record.
    pub first: u64,
    /// Number of the last record.
    pub last: u64,
    /// Records at the end that no checkpoint covers.
    pub unsigned: u64,
    /// Length in bytes of a record at the end that was not written to its end.
    pub partial: u64,
    /// Number of checkpoints. Without one, nothing shows that the daemon has written the records.
    pub checkpoints: u64,
    /// True if the record of the kept head is in the trail, false if it was removed with the
    /// beginning of the trail. `None` without a kept head.
    pub has_kept: Option<bool>,
}

impl Report {
    /// True if a checkpoint covers every record. A kept head whose record was removed has shown
    /// nothing about the end, so the trail is not known to be whole then.
    pub fn is_whole(&self) -> bool {
        self.checkpoints > 0 && self.unsigned == 0 && self.partial == 0 && self.has_kept != Some(false)
    }
}

/// First place where a trail is not as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// Description of the fault.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

/// A line of a trail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Line number from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// File `head` of a trail, or a copy of it that was kept elsewhere.
#[derive(Clone, Debug)]
pub struct Head {
    /// The file.
    pub path: PathBuf,
    /// Contents of the file.
    pub checkpoint: Checkpoint,
}

/// Checks a whole trail. With a kept head, the trail must also have the record that it covers.
///
/// # Errors
/// The directory or a file cannot be read. A trail that is not as it was written is no error, but
/// a [`Fault`].
pub fn verify(
    directory: &Path,
    key: &AuditKey,
    kept: Option<&Head>,
) -> Result<Result<Report, Fault>, TrailError> {
    verify_within(WINDOW, directory, key, kept)
}

/// Checks a trail with the hashes of some records in memory.
pub(crate) fn verify_within(
    window: usize,
    directory: &Path,
    key: &AuditKey,
    kept: Option<&Head>,
) -> Result<Result<Report, Fault>, TrailError> {
    // A checkpoint is in the trail before it is the head. So the head is read first: a trail that
    // grows meanwhile is whole nevertheless.
    let head = head_of(directory);
    let files = list(directory)?;
    let mut check = Check::new(key, &files, window);
    for number in 0..files.len() {
        if let Err(fault) = check.file(number)? {
            return Ok(Err(fault));
        }
    }
    Ok(head.and_then(|head| check.end(directory, head, kept)))
}

/// State between two lines.
struct Check<'a> {
    key: &'a AuditKey,
    /// First record and path of each file.
    files: &'a [(u64, PathBuf)],
    report: Report,
    /// Hash of the last record.
    prev: Option<Hash>,
    /// Hash of the record before the first one, if the trail does not begin with record 1.
    removed: Option<Hash>,
    /// Number of the first record that says that the beginning of the trail was removed.
    removal: Option<u64>,
    /// Number of the last record that a checkpoint covers.
    covered: u64,
    /// Hashes of the last records, the newest last.
    recent: VecDeque<Hash>,
    /// Most hashes in memory: nothing bounds the number of records without a checkpoint.
    window: usize,
}

impl<'a> Check<'a> {
    fn new(key: &'a AuditKey, files: &'a [(u64, PathBuf)], window: usize) -> Self {
        let (report, recent) = (Report::default(), VecDeque::new());
        Self { key, files, report, prev: None, removed: None, removal: None, covered: 0, recent, window }
    }

    fn file(&mut self, file: usize) -> Result<Result<(), Fault>, TrailError> {
        let (first, ref path) = self.files[file];
        let is_last = file + 1 == self.files.len();
        let error = |source| TrailError::File { act: "read", path: path.clone(), source };
        let mut file = open(path).map_err(error)?;
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            let read = read_line(&mut *file, &mut line);
            number += 1;
            let fault = |problem: String| {
                Ok(Err(Fault { place: Place { path: path.clone(), line: number }, problem }))
            };
            match read {
                Ok(0) => return Ok(Ok(())),
                Ok(_) => {}
                Err(damage) if is_compressed(path) => {
                    return fault(format!("the file cannot be decompressed: {damage}"));
                }
                Err(source) => return Err(error(source)),
            }
            if line.pop_if(|byte| *byte == b'\n').is_none() {
                if is_last && !is_compressed(path) && line.len() < MAX_LINE {
                    self.report.partial = line.len() as u64;
                    return Ok(Ok(()));
                }
                return fault("the record has no end".into());
            }
            let link: Link = match serde_json::from_slice(&line) {
                Ok(link) => link,
                Err(error) => return fault(format!("not a record: {error}")),
            };
            if number == 1 && link.seq != first {
                return fault(format!(
                    "the file has the name of record {first} and begins with {}",
                    link.seq
                ));
            }
            if let Err(problem) = self.record(&link, &line) {
                return fault(problem);
            }
        }
    }

    fn record(&mut self, link: &Link, line: &[u8]) -> Result<(), String> {
        let Link { seq, prev, .. } = *link;
        match self.prev {
            None => self.begin(seq, prev)?,
            Some(_) if seq != self.report.last + 1 => {
                return Err(format!("record {seq} follows record {}", self.report.last));
            }
            Some(last) if prev != last => {
                return Err(format!(
                    "record {seq} does not follow from record {}: one of them was changed",
                    seq - 1
                ));
            }
            Some(_) => {}
        }
        if link.action == CHECKPOINT {
            let checkpoint: Checkpoint =
                serde_json::from_slice(line).map_err(|error| format!("not a checkpoint: {error}"))?;
            self.checkpoint(&checkpoint)?;
            // Nothing signs the last checkpoint but its own signature, so nothing else may be in
            // the record.
            let mut same = Vec::new();
            line::write(&mut same, seq, SystemTime::UNIX_EPOCH, &Content::Checkpoint(&checkpoint), prev);
            if same != line {
                return Err("the checkpoint has more in it than the trail writes".into());
            }
            if checkpoint.through + 1 == seq {
                self.covered = seq;
            }
        } else if link.action == REMOVAL {
            let removed = serde_json::from_slice(line);
            self.removal(seq, &removed.map_err(|error| format!("not a removal: {error}"))?)?;
        } else if link.action == START {
            self.start(line)?;
        }
        let hash = Hash::of(line);
        self.prev = Some(hash);
        self.report.last = seq;
        self.report.records += 1;
        self.recent.push_back(hash);
        if self.recent.len() > self.window {
            self.recent.pop_front();
        }
        Ok(())
    }

    fn begin(&mut self, seq: u64, prev: Hash) -> Result<(), String> {
        self.report.first = seq;
        match seq {
            1 if prev == Hash::NONE => Ok(()),
            0 | 1 => Err(format!("record {seq} is not the first record of a trail")),
            _ => {
                self.covered = seq - 1;
                self.removed = Some(prev);
                Ok(())
            }
        }
    }

    /// Follows the record of a start.
    fn start(&mut self, line: &[u8]) -> Result<(), String> {
        let started: Started =
            serde_json::from_slice(line).map_err(|error| format!("not a start: {error}"))?;
        if let Some(through) = started.rewound {
            return Err(format!(
                "when the daemon started here, record {through} was not in the trail as a checkpoint had covered it: the end was cut off or replaced"
            ));
        }
        // Somebody may have written the records that no checkpoint covered when the daemon started,
        // and the daemon has signed them with the rest. No file goes because of such a record.
        self.removal.take_if(|removal| *removal > self.covered);
        Ok(())
    }

    /// Follows the record of a removal, which may say why the beginning of the trail is missing.
    fn removal(&mut self, seq: u64, removed: &Removed) -> Result<(), String> {
        let first = self.report.first;
        let is_all_gone = removed.last.checked_add(1) == Some(first) && self.removed == Some(removed.hash);
        // A process that was killed has left files whose removal was signed.
        let is_part_gone =
            (first..seq).contains(&removed.last) && self.hash_of(removed.last)? == Some(removed.hash);
        if is_all_gone || is_part_gone {
            self.removal.get_or_insert(seq);
        }
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        let through = checkpoint.through;
        if !checkpoint.is_signed_by(self.key) {
            return Err(format!("the checkpoint of record {through} is not signed by the audit key"));
        }
        self.report.checkpoints += 1;
        // The end of the records that are removed may have been signed after a file was begun.
        if through < self.report.first {
            let is_last = through + 1 == self.report.first;
            return match self.removed {
                Some(hash) if is_last && hash != checkpoint.hash => Err(format!(
                    "the checkpoint covers another record {through} than the one that was removed"
                )),
                _ => Ok(()),
            };
        }
        if through <= self.covered {
            return Err(format!(
                "the checkpoint of record {through} is older than the one of {}",
                self.covered
            ));
        }
        // The chain has been followed from there to here, so one comparison is enough.
        if self.hash_of(through)? != Some(checkpoint.hash) {
            return Err(format!("the checkpoint covers another record {through} than the one of this trail"));
        }
        self.covered = through;
        Ok(())
    }

    /// Hash of a record that was read before, or `None` if it was not.
    fn hash_of(&self, seq: u64) -> Result<Option<Hash>, String> {
        let Some(back) = self.report.last.checked_sub(seq) else { return Ok(None) };
        let place = usize::try_from(back).ok().and_then(|back| self.recent.len().checked_sub(back + 1));
        if let Some(place) = place {
            return Ok(self.recent.get(place).copied());
        }
        // Each checkpoint covers more than the one before it, so this is rare: a unit was slow.
        let number = self.files.partition_point(|(first, _)| *first <= seq);
        let Some((first, path)) = number.checked_sub(1).and_then(|number| self.files.get(number)) else {
            return Ok(None);
        };
        let error = |error| format!("cannot read {} again: {error}", path.display());
        let (mut file, mut line) = (open(path).map_err(error)?, Vec::new());
        for _ in *first..=seq {
            line.clear();
            read_line(&mut *file, &mut line).map_err(error)?;
        }
        Ok(line.strip_suffix(b"\n").map(Hash::of))
    }

    /// Compares the end of the trail with its head, which was read before the trail, and with a
    /// head that was kept elsewhere.
    fn end(mut self, directory: &Path, head: Option<Head>, kept: Option<&Head>) -> Result<Report, Fault> {
        if self.removed.is_some() && self.removal.is_none_or(|removal| removal > self.covered) {
            let path = self.files.first().map_or_else(|| directory.to_owned(), |(_, path)| path.clone());
            let first = self.report.first;
            let problem = format!(
                "the trail begins with record {first}, and no signed record says that earlier ones were removed"
            );
            return Err(Fault { place: Place { path, line: 1 }, problem });
        }
        match head {
            Some(head) if !self.has(&head)? => {
                let through = head.checkpoint.through;
                return Err(head.fault(format!("the checkpoint of record {through} is older than the trail")));
            }
            // The first checkpoint may have been made meanwhile.
            None if self.covered > 0 && head_of(directory)?.is_none() => {
                let place = Place { path: directory.join(HEAD), line: 1 };
                return Err(Fault { place, problem: "the last checkpoint is missing".into() });
            }
            _ => {}
        }
        self.report.has_kept = kept.map(|kept| self.has(kept)).transpose()?;
        self.report.unsigned = self.report.last - self.covered;
        Ok(self.report)
    }

    /// True if the trail has the record that a head covers. False if the record was removed with
    /// the beginning of the trail.
    fn has(&self, head: &Head) -> Result<bool, Fault> {
        let Checkpoint { through, hash, .. } = head.checkpoint;
        let fault = |problem: String| Err(head.fault(problem));
        if !head.checkpoint.is_signed_by(self.key) {
            return fault("the checkpoint is not signed by the audit key".into());
        }
        if through > self.covered {
            return fault(format!(
                "the trail went beyond record {through}, and ends with {}: its end is missing",
                self.report.last
            ));
        }
        let is_removed = through < self.report.first;
        let there = match is_removed {
            true => self.removed.filter(|_| through + 1 == self.report.first).or(Some(hash)),
            false => self.hash_of(through).map_err(|problem| head.fault(problem))?,
        };
        if there != Some(hash) {
            return fault(format!(
                "the checkpoint covers another record {through} than the one of this trail"
            ));
        }
        Ok(!is_removed)
    }
}

impl Head {
    fn fault(&self, problem: String) -> Fault {
        Fault { place: Place { path: self.path.clone(), line: 1 }, problem }
    }
}

/// Reads the last checkpoint, if there is one.
fn head_of(directory: &Path) -> Result<Option<Head>, Fault> {
    let path = directory.join(HEAD);
    match read_head(directory) {
        Ok(checkpoint) => Ok(checkpoint.map(|checkpoint| Head { path, checkpoint })),
        Err(error) => Err(Fault { place: Place { path, line: 1 }, problem: error.to_string() }),
    }
}

/// Hashes in memory. A trail asks for a checkpoint after fewer records.
const WINDOW: usize = 65_536;
