//! Records, read and chosen by a filter.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::TrailError;
use crate::files::list;
use crate::reading::{MAX_LINE, open};

/// A record as a reader sees it. Fields that the action does not have are `None`.
#[derive(Clone, Debug, Deserialize)]
pub struct Record {
    /// Number of the record.
    pub seq: u64,
    /// When it was: RFC 3339 in UTC, so that texts compare as times do.
    pub time: String,
    /// Name of the act or event: `keyward.` and then object and verb.
    pub action: String,
    /// `done`, or the reason why not.
    pub outcome: Option<String>,
    /// Reason why an act has failed.
    pub reason: Option<String>,
    /// Label of the key.
    pub key: Option<String>,
    /// Version of the key.
    pub version: Option<u32>,
    /// Purpose of the message.
    pub purpose: Option<String>,
    /// Signature scheme.
    pub scheme: Option<String>,
    /// The process that used the key.
    pub peer: Option<Party>,
    /// The process that asked for an act.
    pub actor: Option<Party>,
    /// The user of refusals that are counted.
    pub uid: Option<u32>,
    /// Number of refusals that are counted.
    pub refusals: Option<u64>,
    /// Number of uses that are counted.
    pub count: Option<u64>,
    /// Further facts about an act.
    pub details: Option<serde_json::Value>,
}

/// A process in a record.
#[derive(Clone, Debug, Deserialize)]
pub struct Party {
    /// Effective user id when the process connected. `None` for the daemon itself.
    pub uid: Option<u32>,
    /// Process id.
    pub pid: Option<i32>,
    /// Name of the program.
    pub command: Option<String>,
    /// systemd unit.
    pub unit: Option<String>,
}

impl Record {
    /// The user whom the record is about.
    pub fn user(&self) -> Option<u32> {
        self.peer.as_ref().or(self.actor.as_ref()).and_then(|party| party.uid).or(self.uid)
    }

    /// Number of uses or refusals that the record stands for.
    pub fn times(&self) -> u64 {
        self.count.or(self.refusals).unwrap_or(1)
    }
}

/// Records that are wanted. Every condition must hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Label of the key.
    pub key: Option<String>,
    /// User id of the peer or the actor.
    pub user: Option<u32>,
    /// Purpose of the message.
    pub purpose: Option<String>,
    /// The outcome.
    pub outcome: Option<String>,
    /// The action, or its beginning up to a dot: `keyward.key` is every action on keys.
    pub action: Option<String>,
    /// Earliest time: RFC 3339 in UTC, or its beginning.
    pub since: Option<String>,
    /// Time after the latest one.
    pub until: Option<String>,
}

impl Filter {
    /// True if a record is wanted.
    pub fn admits(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        is(&self.key, &record.key)
            && is(&self.purpose, &record.purpose)
            && is(&self.outcome, &record.outcome)
            && (self.user.is_none() || self.user == record.user())
            && self.action.as_deref().is_none_or(|wanted| is_within(&record.action, wanted))
            && self.since.as_deref().is_none_or(|since| record.time.as_str() >= since)
            && self.until.as_deref().is_none_or(|until| record.time.as_str() < until)
    }
}

fn is_within(action: &str, wanted: &str) -> bool {
    action.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The text of a time as records have it.
pub fn time_text(time: SystemTime) -> String {
    crate::record::Time(time).to_string()
}

/// Reads a trail, also while it is written. Records are not verified.
pub struct Reader {
    directory: PathBuf,
    filter: Filter,
    /// File that is being read.
    file: Option<Box<dyn BufRead>>,
    /// Number of the file that was opened last; 0 before the first one.
    at: u64,
    /// True if there is a later file, so that nothing is added to this one.
    is_complete: bool,
    /// Beginning of a line whose end is not written yet.
    line: Vec<u8>,
}

impl Reader {
    /// Begins to read at the first record that can be wanted.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn open(directory: &Path, filter: Filter) -> Result<Self, TrailError> {
        let mut files = list(directory)?;
        // The records of a file are older than the first one of the next file.
        if let Some(since) = &filter.since {
            while files.len() > 1 && first_time(&files[1].1)?.is_some_and(|time| time < *since) {
                files.remove(0);
            }
        }
        let first = files.first().map_or(0, |(first, _)| first.saturating_sub(1));
        Ok(Self::after(directory, filter, first))
    }

    /// The last records that are wanted, at most `count`, with their lines. The reader goes on
    /// after them.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn last(
        directory: &Path,
        filter: &Filter,
        count: usize,
    ) -> Result<(VecDeque<(Record, String)>, Self), TrailError> {
        let files = list(directory)?;
        let mut back = 1;
        loop {
            let begin = files.len().saturating_sub(back);
            let first = files.get(begin).map_or(0, |(first, _)| first.saturating_sub(1));
            let mut reader = Self::after(directory, filter.clone(), first);
            let mut last = VecDeque::new();
            while let Some(read) = reader.next()? {
                last.push_back(read);
                if last.len() > count {
                    last.pop_front();
                }
            }
            if last.len() >= count || begin == 0 {
                return Ok((last, reader));
            }
            back *= 2;
        }
    }

    /// Begins with the first file whose number is greater.
    fn after(directory: &Path, filter: Filter, at: u64) -> Self {
        Self { directory: directory.to_owned(), filter, file: None, at, is_complete: false, line: Vec::new() }
    }

    /// The next record that is wanted, with its line. `None` at the end of the trail: a later call
    /// goes on from there.
    ///
    /// # Errors
    /// A file cannot be read, or a line is no record.
    #[expect(clippy::should_implement_trait, reason = "the end is not final")]
    pub fn next(&mut self) -> Result<Option<(Record, String)>, TrailError> {
        loop {
            let Some(file) = &mut self.file else {
                match self.open_next()? {
                    true => continue,
                    false => return Ok(None),
                }
            };
            let left = MAX_LINE.saturating_sub(self.line.len()) as u64;
            let read = file.take(left).read_until(b'\n', &mut self.line);
            read.map_err(|source| self.error(source))?;
            if self.line.len() >= MAX_LINE {
                return Err(self.error(io::Error::other("a line is longer than every record")));
            }
            if self.line.pop_if(|byte| *byte == b'\n').is_some() {
                let line = core::mem::take(&mut self.line);
                let record: Record =
                    serde_json::from_slice(&line).map_err(|error| self.error(error.into()))?;
                if self.filter.admits(&record) {
                    return Ok(Some((record, String::from_utf8_lossy(&line).into_owned())));
                }
            } else if self.is_complete {
                // A record without its end was cut off when the daemon started again.
                self.line.clear();
                self.file = None;
            } else {
                self.is_complete = self.later()?.is_some();
                if !self.is_complete {
                    return Ok(None);
                }
                // Once more: the last record may have been written since.
            }
        }
    }

    fn open_next(&mut self) -> Result<bool, TrailError> {
        let Some((number, path)) = self.later()? else { return Ok(false) };
        self.at = number;
        self.is_complete = false;
        match open(&path) {
            Ok(file) => self.file = Some(file),
            // The file was compressed since, and has another name: see again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.at = number.saturating_sub(1),
            Err(error) => return Err(self.error(error)),
        }
        Ok(true)
    }

    /// The first file after the one that was opened last.
    fn later(&self) -> Result<Option<(u64, PathBuf)>, TrailError> {
        Ok(list(&self.directory)?.into_iter().find(|(first, _)| *first > self.at))
    }

    fn error(&self, source: io::Error) -> TrailError {
        TrailError::File { act: "read file", path: self.directory.join(self.at.to_string()), source }
    }
}

/// Time of the first record of a file, if the file has one.
fn first_time(path: &Path) -> Result<Option<String>, TrailError> {
    let error = |source| TrailError::File { act: "read", path: path.to_owned(), source };
    let mut line = Vec::new();
    open(path).map_err(error)?.take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(error)?;
    Ok(serde_json::from_slice::<Record>(&line).ok().map(|record| record.time))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use super::*;

    fn line(seq: u64, key: &str) -> String {
        format!(
            "{{\"seq\":{seq},\"time\":\"2026-01-0{seq}T00:00:00.000000Z\",\"action\":\"keyward.key.use\",\"key\":\"{key}\",\"peer\":{{\"uid\":33}}}}\n"
        )
    }

    fn seqs(reader: &mut Reader) -> Vec<u64> {
        core::iter::from_fn(|| reader.next().unwrap()).map(|(record, _)| record.seq).collect()
    }

    #[test]
    fn a_reader_follows_the_end_into_the_next_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = |first: u64| directory.path().join(format!("{first:020}.jsonl"));
        fs::write(file(1), line(1, "shop") + &line(2, "mail")).unwrap();
        let of_shop = Filter { key: Some("shop".into()), ..Filter::default() };
        let mut all = Reader::open(directory.path(), Filter::default()).unwrap();
        let mut shop = Reader::open(directory.path(), of_shop).unwrap();
        assert_eq!((seqs(&mut all), seqs(&mut shop)), (vec![1, 2], vec![1]));
        // Half of a record, then the rest, and another file.
        let third = line(3, "shop");
        let (half, rest) = third.split_at(20);
        let mut end = OpenOptions::new().append(true).open(file(1)).unwrap();
        end.write_all(half.as_bytes()).unwrap();
        assert!(seqs(&mut all).is_empty());
        end.write_all(rest.as_bytes()).unwrap();
        fs::write(file(4), line(4, "shop")).unwrap();
        assert_eq!((seqs(&mut all), seqs(&mut shop)), (vec![3, 4], vec![3, 4]));
    }

    #[test]
    fn filters_choose_by_time_user_and_action() {
        let directory = tempfile::tempdir().unwrap();
        for seq in 1..=5 {
            fs::write(directory.path().join(format!("{seq:020}.jsonl")), line(seq, "shop")).unwrap();
        }
        let chosen = |filter: Filter| seqs(&mut Reader::open(directory.path(), filter).unwrap());
        let (since, until) = (Some("2026-01-02".into()), Some("2026-01-04".into()));
        assert_eq!(chosen(Filter { since, until, ..Filter::default() }), [2, 3]);
        for (user, action, count) in [
            (Some(33), None, 5),
            (Some(0), None, 0),
            (None, Some("keyward.key"), 5),
            (None, Some("keyward.key.us"), 0),
        ] {
            let action = action.map(str::to_owned);
            assert_eq!(chosen(Filter { user, action, ..Filter::default() }).len(), count);
        }
        let (last, mut after) = Reader::last(directory.path(), &Filter::default(), 2).unwrap();
        assert_eq!(last.iter().map(|(record, _)| record.seq).collect::<Vec<_>>(), [4, 5]);
        assert!(seqs(&mut after).is_empty());
    }
}
