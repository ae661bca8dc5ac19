//! Verification of a trail with the public audit key alone.
//!
//! - Every record has the hash of the record before it, and the number after that one. So a record
//!   that is changed, missing, inserted or out of order breaks the chain at that place.
//! - A checkpoint signs the hash of a record, and so all records before it. Somebody who can write
//!   the files can make a new chain, but no signature.
//! - `head` has the last checkpoint. So an end that is cut off is found, unless `head` is replaced
//!   by an older one too: then only a copy of `head` elsewhere shows it.
//!
//! Records after the last checkpoint are not signed: somebody may have changed them.

use core::fmt;
use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::files::{HEAD, list};
use crate::line::{self, CHECKPOINT, Content, Link};
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
}

impl Report {
    /// True if a checkpoint covers every record.
    pub fn is_whole(&self) -> bool {
        self.unsigned == 0 && self.partial == 0
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

/// Checks a whole trail.
///
/// # Errors
/// The directory or a file cannot be read. A trail that is not as it was written is no error, but
/// a [`Fault`].
pub fn verify(directory: &Path, key: &AuditKey) -> Result<Result<Report, Fault>, TrailError> {
    let mut check = Check::default();
    let names = list(directory)?;
    for (number, (first, path)) in names.iter().enumerate() {
        let is_last = number + 1 == names.len();
        if let Err(fault) = check.file(path, *first, is_last, key)? {
            return Ok(Err(fault));
        }
    }
    Ok(check.end(directory, key))
}

/// State between two lines.
#[derive(Default)]
struct Check {
    report: Report,
    /// Hash of the last record.
    prev: Option<Hash>,
    /// Number of the last record that a checkpoint covers.
    covered: u64,
    /// Hashes of the records since the last checkpoint, the newest last.
    recent: VecDeque<(u64, Hash)>,
}

impl Check {
    fn file(
        &mut self,
        path: &Path,
        first: u64,
        is_last: bool,
        key: &AuditKey,
    ) -> Result<Result<(), Fault>, TrailError> {
        let error = |source| TrailError::File { act: "read", path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(error)?);
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            if read_line(&mut file, &mut line).map_err(error)? == 0 {
                return Ok(Ok(()));
            }
            number += 1;
            let fault = |problem: String| {
                Ok(Err(Fault { place: Place { path: path.to_owned(), line: number }, problem }))
            };
            if line.pop_if(|byte| *byte == b'\n').is_none() {
                if is_last && line.len() < MAX_LINE {
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
            if let Err(problem) = self.record(&link, &line, key) {
                return fault(problem);
            }
        }
    }

    fn record(&mut self, link: &Link, line: &[u8], key: &AuditKey) -> Result<(), String> {
        let Link { seq, prev, .. } = *link;
        match self.prev {
            None if seq == 1 && prev == Hash::NONE => self.report.first = 1,
            None => return Err(format!("the trail begins with record {seq}: earlier records are missing")),
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
            self.checkpoint(&checkpoint, key)?;
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
        }
        let hash = Hash::of(line);
        self.prev = Some(hash);
        self.report.last = seq;
        self.report.records += 1;
        self.recent.push_back((seq, hash));
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint, key: &AuditKey) -> Result<(), String> {
        let through = checkpoint.through;
        if !checkpoint.is_signed_by(key) {
            return Err(format!("the checkpoint of record {through} is not signed by the audit key"));
        }
        if through <= self.covered {
            return Err(format!(
                "the checkpoint of record {through} is older than the one of {}",
                self.covered
            ));
        }
        // The chain has been followed from there to here, so one comparison is enough.
        let hash = self.recent.iter().find(|(seq, _)| *seq == through).map(|(_, hash)| *hash);
        if hash != Some(checkpoint.hash) {
            return Err(format!("the checkpoint covers another record {through} than the one of this trail"));
        }
        self.covered = through;
        while self.recent.front().is_some_and(|(seq, _)| *seq <= through) {
            self.recent.pop_front();
        }
        Ok(())
    }

    /// Compares the end of the trail with `head`.
    fn end(mut self, directory: &Path, key: &AuditKey) -> Result<Report, Fault> {
        let path = directory.join(HEAD);
        let fault = |problem: String| Fault { place: Place { path: path.clone(), line: 1 }, problem };
        let head = match fs::read(&path) {
            Ok(text) => Some(
                serde_json::from_slice::<Checkpoint>(&text)
                    .map_err(|error| fault(format!("not a checkpoint: {error}")))?,
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(fault(error.to_string())),
        };
        match head {
            Some(head) if !head.is_signed_by(key) => {
                return Err(fault("the checkpoint is not signed by the audit key".into()));
            }
            // A checkpoint is in the trail before it is the head.
            Some(head) if head.through > self.covered => {
                return Err(fault(format!(
                    "the trail went beyond record {}, and ends with {}: its end is missing",
                    head.through, self.report.last
                )));
            }
            None if self.covered > 0 => return Err(fault("the last checkpoint is missing".into())),
            _ => {}
        }
        self.report.unsigned = self.report.last - self.covered;
        Ok(self.report)
    }
}

/// Reads to the next line feed, or to the length that no record has.
fn read_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    file.take(MAX_LINE as u64).read_until(b'\n', line)
}

/// Records are shorter, in bytes.
const MAX_LINE: usize = 1 << 20;
