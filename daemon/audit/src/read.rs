//! Lines of a trail, read while it is written, and chosen by a filter.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use crate::files::list;
use crate::reading::{MAX_LINE, open, read_line};
use crate::{Filter, Place, Record, TrailError};

/// A line of a trail that is wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The line without its line feed; the beginning of a line that is longer than every record.
    pub text: Vec<u8>,
    /// Place of a line that is no record. Every filter admits such a line: nobody knows what it
    /// was about.
    pub odd: Option<Place>,
}

/// Reads a trail, also while it is written. Records are not verified.
pub struct Reader {
    directory: PathBuf,
    filter: Filter,
    /// File that is being read.
    file: Option<Box<dyn BufRead + Send>>,
    /// Path of the file that was opened last.
    path: PathBuf,
    /// Number of the file that was opened last; 0 before the first one.
    at: u64,
    /// True if there is a later file, so that nothing is added to this one.
    is_complete: bool,
    /// Beginning of a line whose end is not written yet.
    line: Vec<u8>,
    /// True if the rest of a line is passed over: it is longer than every record.
    is_long: bool,
    /// Number of the line, from 1.
    number: u64,
    /// True if nobody wants the records any more.
    is_unwanted: Box<dyn Fn() -> bool + Send>,
    /// Lines that were read since `is_unwanted` was asked.
    unasked: u32,
}

impl Reader {
    /// A reader of a whole trail.
    pub fn new(directory: &Path, filter: Filter) -> Self {
        Self {
            directory: directory.to_owned(),
            filter,
            file: None,
            path: directory.to_owned(),
            at: 0,
            is_complete: false,
            line: Vec::new(),
            is_long: false,
            number: 0,
            is_unwanted: Box::new(|| false),
            unasked: 0,
        }
    }

    /// Has the reader give up when nobody wants the records any more. The reader asks after each
    /// 1,000 lines, whether they are wanted or not.
    #[must_use]
    pub fn unless(self, is_unwanted: impl Fn() -> bool + Send + 'static) -> Self {
        Self { is_unwanted: Box::new(is_unwanted), ..self }
    }

    /// Passes over the files without a record that can be wanted.
    ///
    /// # Errors
    /// The directory or a file cannot be read.
    pub fn begin(&mut self) -> Result<(), TrailError> {
        let files = list(&self.directory)?;
        let skipped = match &self.filter.since {
            Some(since) => files_before(&files, since)?,
            None => 0,
        };
        self.go_to(files.get(skipped).map(|(first, _)| *first));
        Ok(())
    }

    /// The last lines that are wanted: at most `count`, and at most 4 MiB. The reader goes on after
    /// them.
    ///
    /// # Errors
    /// The directory or a file cannot be read, or nobody wants the records any more.
    pub fn last(&mut self, count: usize) -> Result<VecDeque<Line>, TrailError> {
        let files = list(&self.directory)?;
        let mut back = 1;
        loop {
            let begin = files.len().saturating_sub(back);
            self.go_to(files.get(begin).map(|(first, _)| *first));
            let (mut last, mut bytes, mut is_full) = (VecDeque::new(), 0, false);
            while let Some(mut line) = self.next()? {
                line.text.shrink_to_fit();
                bytes += line.text.len();
                last.push_back(line);
                while last.len() > count || bytes > MAX_LAST && last.len() > 1 {
                    is_full = true;
                    bytes -= last.pop_front().map_or(0, |line: Line| line.text.len());
                }
            }
            if is_full || last.len() >= count || begin == 0 {
                return Ok(last);
            }
            back *= 2;
        }
    }

    /// Goes to the beginning of a file.
    fn go_to(&mut self, first: Option<u64>) {
        (self.file, self.at) = (None, first.map_or(0, |first| first.saturating_sub(1)));
        (self.is_complete, self.is_long) = (false, false);
        self.line.clear();
    }

    /// The next line that is wanted. `None` at the end of the trail: a later call goes on from
    /// there.
    ///
    /// # Errors
    /// A file cannot be read, or nobody wants the records any more.
    #[expect(clippy::should_implement_trait, reason = "the end is not final")]
    pub fn next(&mut self) -> Result<Option<Line>, TrailError> {
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
            if self.line.pop_if(|byte| *byte == b'\n').is_some() {
                if let Some(line) = self.line()? {
                    return Ok(Some(line));
                }
            } else if self.line.len() >= MAX_LINE {
                // The beginning of the line is kept, to be shown, and the rest is passed over.
                self.is_long = true;
                self.line.truncate(SHOWN);
                self.count()?;
            } else if self.is_complete {
                // A record without its end was cut off when the daemon started again.
                self.line.clear();
                (self.file, self.is_long) = (None, false);
            } else {
                self.is_complete = self.later()?.is_some();
                if !self.is_complete {
                    return Ok(None);
                }
                // Once more: the last record may have been written since.
            }
        }
    }

    /// The line that was read to its end, if it is wanted.
    fn line(&mut self) -> Result<Option<Line>, TrailError> {
        self.number += 1;
        self.count()?;
        let is_long = core::mem::take(&mut self.is_long);
        let record = Some(&self.line).filter(|_| !is_long);
        let record = record.and_then(|line| serde_json::from_slice::<Record>(line).ok());
        let odd = match record {
            Some(record) if self.filter.admits(&record) => None,
            Some(_) => {
                self.line.clear();
                return Ok(None);
            }
            None => Some(Place { path: self.path.clone(), line: self.number }),
        };
        if is_long {
            self.line.truncate(SHOWN);
        }
        Ok(Some(Line { text: core::mem::take(&mut self.line), odd }))
    }

    /// Asks from time to time whether the records are still wanted.
    fn count(&mut self) -> Result<(), TrailError> {
        self.unasked += 1;
        if self.unasked < ASK_AFTER {
            return Ok(());
        }
        self.unasked = 0;
        match (self.is_unwanted)() {
            true => Err(self
                .error(io::Error::new(io::ErrorKind::BrokenPipe, "nobody waits for the records any more"))),
            false => Ok(()),
        }
    }

    fn open_next(&mut self) -> Result<bool, TrailError> {
        let Some((number, path)) = self.later()? else { return Ok(false) };
        (self.at, self.is_complete, self.number) = (number, false, 0);
        match open(&path) {
            Ok(file) => self.file = Some(file),
            // The file was compressed since, and has another name: see again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.at = number.saturating_sub(1),
            Err(source) => return Err(TrailError::File { act: "read", path, source }),
        }
        self.path = path;
        Ok(true)
    }

    /// The first file after the one that was opened last.
    fn later(&self) -> Result<Option<(u64, PathBuf)>, TrailError> {
        Ok(list(&self.directory)?.into_iter().find(|(first, _)| *first > self.at))
    }

    fn error(&self, source: io::Error) -> TrailError {
        TrailError::File { act: "read", path: self.path.clone(), source }
    }
}

/// Number of the first files whose records are all before a time: the records of a file are before
/// the first one of the next file. That is not so if the clock was ever set back, so then it is 0.
fn files_before(files: &[(u64, PathBuf)], since: &str) -> Result<usize, TrailError> {
    let (mut skipped, mut latest) = (0, String::new());
    for (index, (_, path)) in files.iter().enumerate() {
        match first_time(path)? {
            First::None => {}
            First::Time(time) if time >= latest => {
                if time.as_str() < since {
                    skipped = index;
                }
                latest = time;
            }
            First::Time(_) | First::Odd => return Ok(0),
        }
    }
    Ok(skipped)
}

/// Time of the first record of a file.
enum First {
    /// The file has no record yet, or is removed.
    None,
    /// The first line is no record.
    Odd,
    Time(String),
}

fn first_time(path: &Path) -> Result<First, TrailError> {
    let error = |source| TrailError::File { act: "read", path: path.to_owned(), source };
    let mut line = Vec::new();
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(First::None),
        Err(source) => return Err(error(source)),
    };
    read_line(&mut *file, &mut line).map_err(error)?;
    if line.len() < MAX_LINE && line.last() != Some(&b'\n') {
        return Ok(First::None);
    }
    Ok(serde_json::from_slice::<Record>(&line).map_or(First::Odd, |record| First::Time(record.time)))
}

/// Length of the last lines, in bytes.
const MAX_LAST: usize = 4 << 20;
/// Bytes of a line that is longer than every record.
const SHOWN: usize = 200;
/// Lines after which the reader asks whether somebody wants the records.
const ASK_AFTER: u32 = 1000;

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
        core::iter::from_fn(|| reader.next().unwrap()).map(|line| seq_of(&line)).collect()
    }

    fn seq_of(line: &Line) -> u64 {
        serde_json::from_slice::<Record>(&line.text).unwrap().seq
    }

    fn reader(directory: &Path, filter: Filter) -> Reader {
        let mut reader = Reader::new(directory, filter);
        reader.begin().unwrap();
        reader
    }

    #[test]
    fn a_reader_follows_the_end_into_the_next_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = |first: u64| directory.path().join(format!("{first:020}.jsonl"));
        fs::write(file(1), line(1, "shop") + &line(2, "mail")).unwrap();
        let of_shop = Filter { key: Some("shop".into()), ..Filter::default() };
        let mut all = reader(directory.path(), Filter::default());
        let mut shop = reader(directory.path(), of_shop);
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
        let chosen = |filter: Filter| seqs(&mut reader(directory.path(), filter));
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
        let mut reader = Reader::new(directory.path(), Filter::default());
        assert_eq!(reader.last(2).unwrap().iter().map(seq_of).collect::<Vec<_>>(), [4, 5]);
        assert!(seqs(&mut reader).is_empty());
    }

    /// The clock was two days ahead, and was set back.
    #[test]
    fn no_file_is_passed_over_if_times_are_out_of_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = |first: u64| directory.path().join(format!("{first:020}.jsonl"));
        let at = |seq: u64, day: u64| line(seq, "shop").replace(&format!("-0{seq}T"), &format!("-0{day}T"));
        fs::write(file(1), at(1, 1) + &at(2, 6)).unwrap();
        fs::write(file(3), at(3, 6)).unwrap();
        fs::write(file(4), at(4, 4)).unwrap();
        fs::write(file(5), at(5, 5)).unwrap();
        fs::write(file(6), "").unwrap();
        let since = |day: &str| Filter { since: Some(day.into()), ..Filter::default() };
        assert_eq!(seqs(&mut reader(directory.path(), since("2026-01-05"))), [2, 3, 5]);
        fs::write(file(1), "{}\n".to_owned() + &at(2, 6)).unwrap();
        let mut odd = reader(directory.path(), since("2026-01-05"));
        assert_eq!(odd.next().unwrap().unwrap().odd.unwrap().line, 1, "the first line is no record");
        assert_eq!(seqs(&mut odd), [2, 3, 5]);
    }

    #[test]
    fn lines_that_are_no_records_are_passed_on_with_their_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("{:020}.jsonl", 1));
        let long = "x".repeat(2 * MAX_LINE + 1);
        fs::write(&path, format!("{}no record\n{long}\n\n{}", line(1, "shop"), line(2, "mail"))).unwrap();
        let of_mail = Filter { key: Some("mail".into()), ..Filter::default() };
        let mut reader = reader(directory.path(), of_mail);
        for (number, text) in [(2, "no record"), (3, &long[..SHOWN]), (4, "")] {
            let odd = Some(Place { path: path.clone(), line: number });
            assert_eq!(reader.next().unwrap().unwrap(), Line { text: text.into(), odd });
        }
        assert_eq!(seqs(&mut reader), [2]);
    }

    #[test]
    fn the_last_lines_are_bounded_and_a_reader_whom_nobody_hears_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("{:020}.jsonl", 1));
        let long = line(1, &"x".repeat(MAX_LINE / 2));
        fs::write(&path, long.repeat(20)).unwrap();
        let last = Reader::new(directory.path(), Filter::default()).last(10_000).unwrap();
        assert_eq!(last.len(), MAX_LAST / long.len());
        fs::write(&path, line(1, "shop").repeat(2000)).unwrap();
        let nothing = Filter { key: Some("none".into()), ..Filter::default() };
        let mut unheard = Reader::new(directory.path(), nothing).unless(|| true);
        assert!(unheard.next().is_err());
        assert_eq!(unheard.number, 1000);
    }
}
