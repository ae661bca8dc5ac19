//! Many keys at once: the keys of a list in a file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use hyper::StatusCode;
use indicatif::{ProgressBar, ProgressStyle};
use keyward_proto::Label;

use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::input::read_text;
use crate::cli::output::{JsonList, print};
use crate::ground::exit;

/// A key of a list.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) label: Label,
    /// File with the private key, in the list of an import.
    pub(super) file: PathBuf,
}

/// Reason why a key of a list was not made.
pub(super) struct Missed {
    failure: Failure,
    kind: Kind,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    /// There is a key with the label already.
    Exists,
    /// The reason is about this key.
    OfTheKey,
    /// The other keys of the list would be missed for the same reason, or nobody knows whether this
    /// key was made.
    OfAll,
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Self {
        Self { failure, kind: Kind::OfTheKey }
    }
}

impl From<AdminClientError> for Missed {
    fn from(error: AdminClientError) -> Self {
        let kind = match &error {
            AdminClientError::Refused { status, .. } => match *status {
                StatusCode::CONFLICT => Kind::Exists,
                StatusCode::NOT_FOUND
                | StatusCode::PAYLOAD_TOO_LARGE
                | StatusCode::UNPROCESSABLE_ENTITY
                | StatusCode::LOCKED => Kind::OfTheKey,
                _ => Kind::OfAll,
            },
            _ => Kind::OfAll,
        };
        Self { failure: error.into(), kind }
    }
}

impl Missed {
    /// True if the key was not made, as far as the daemon has said.
    pub(super) fn is_of_the_key(&self) -> bool {
        self.kind != Kind::OfAll
    }
}

/// Keys of a list that were made, and the first reason why others were not.
pub(super) struct Done {
    pub(super) made: usize,
    pub(super) result: Result<(), Failure>,
}

/// Reads a list: a label in each line, and the path of a file after it if `with_files`. Blank lines
/// and lines that begin with `#` are left out. `-` stands for standard input.
///
/// # Errors
/// The file cannot be read. A line is no such line, or has a label that another line has.
pub(super) fn read_list(path: &Path, with_files: bool) -> Result<Vec<Entry>, Failure> {
    parse(&read_text(path, LONGEST_LIST)?, with_files)
        .map_err(|why| Failure::new(exit::DATA, format_args!("cannot read {}: {why}", path.display())))
}

fn parse(text: &str, with_files: bool) -> Result<Vec<Entry>, String> {
    let (mut entries, mut lines) = (Vec::new(), HashMap::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (label, file) = match with_files {
            true => line.split_once(char::is_whitespace).ok_or_else(|| {
                format!("line {number} is not a label and the path of a file with a space between them")
            })?,
            false => (line, ""),
        };
        let label: Label = label.parse().map_err(|why| format!("line {number} has no label: {why}"))?;
        if let Some(first) = lines.insert(label.clone(), number) {
            return Err(format!("lines {first} and {number} have the same label, {label}"));
        }
        if file.trim_start() == "-" {
            return Err(format!("line {number} has no path of a file: a list cannot name standard input"));
        }
        entries.push(Entry { label, file: file.trim_start().into() });
    }
    match entries.is_empty() {
        true => Err("there is no label in the list".into()),
        false => Ok(entries),
    }
}

/// Makes the keys of a list, several at a time, and shows the progress on a terminal. A key that
/// cannot be made does not keep the others from being made. `verb` and `done` are for messages,
/// such as `generate` and `generated`. `make` asks for up to `some` keys, and returns as many
/// results. Prints each failure, but of labels in use only the first ones.
pub(super) fn make_all(
    entries: &[Entry],
    client: &Client,
    [verb, done]: [&str; 2],
    some: usize,
    make: impl Fn(&AdminClient, &[Entry]) -> Result<Vec<Result<KeyView, Missed>>, Missed> + Sync,
) -> Done {
    let all = entries.len();
    let left = Mutex::new(entries.chunks(some));
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let stop = || left.lock().unwrap_or_else(PoisonError::into_inner).by_ref().for_each(drop);
    let bar = ProgressBar::new(all as u64);
    bar.set_style(style());
    let (sender, results) = mpsc::channel();
    let work = |sender: mpsc::Sender<_>| {
        let admin = AdminClient::new(&client.runtime_dir);
        while let Some(entries) = next() {
            let made = admin.as_ref().map_err(|error| Failure::new(exit::OS, error).into());
            let made = made.and_then(|admin| make(admin, entries));
            let ends = match &made {
                Ok(made) => {
                    made.iter().any(|made| made.as_ref().is_err_and(|missed| !missed.is_of_the_key()))
                }
                Err(_) => true,
            };
            if ends {
                stop();
            }
            if sender.send((entries, made)).is_err() {
                return;
            }
        }
    };
    let (mut made, mut missed, mut existing) = (0, 0, 0);
    let (mut status, mut status_of_existing) = (None, None);
    let mut keys = client.json.then(JsonList::default);
    let mut report = |Missed { failure, kind }: Missed, attempt: &str, is_shown: bool| {
        let failure = failure.at(&client.runtime_dir).while_trying(format_args!("cannot {verb} {attempt}"));
        let first = if kind == Kind::Exists { &mut status_of_existing } else { &mut status };
        first.get_or_insert(failure.status());
        if is_shown {
            bar.suspend(|| failure.report());
        }
    };
    let written: Result<(), Failure> = thread::scope(|scope| {
        for _ in 0..(AT_A_TIME / some).max(2).min(all) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        for (entries, answer) in results {
            let answer = match answer {
                Ok(answer) => answer,
                Err(reason) => {
                    let attempt = match entries {
                        [Entry { label, .. }] => format!("key {label}"),
                        _ => "the next keys".to_owned(),
                    };
                    report(reason, &attempt, true);
                    continue;
                }
            };
            for (Entry { label, .. }, result) in entries.iter().zip(answer) {
                bar.inc(1);
                match result {
                    Ok(key) => {
                        made += 1;
                        if let Some(keys) = &mut keys {
                            keys.add(&key).inspect_err(|_| stop())?;
                        }
                    }
                    Err(reason) => {
                        match reason.kind {
                            Kind::Exists => existing += 1,
                            Kind::OfTheKey => missed += 1,
                            // The key may be there.
                            Kind::OfAll => {}
                        }
                        let is_shown = reason.kind != Kind::Exists || existing <= SHOWN;
                        report(reason, &format!("key {label}"), is_shown);
                    }
                }
            }
        }
        Ok(())
    });
    bar.finish_and_clear();
    let written = written.and_then(|()| match keys {
        Some(keys) => keys.end(),
        None => print(&format!("{} {done}\n", counted(made))),
    });
    let Some(status) = status.or(status_of_existing) else { return Done { made, result: written } };
    let parts = [
        (existing, "there already, and left as they are"),
        (missed, &format!("not {done}")),
        (all - made - missed - existing, "without an answer, or not tried"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts.map(|(count, what)| format!("{what}: {}", counted(*count))).collect();
    let failure = Failure::new(status, format_args!("of {}, {}", counted(all), parts.join("; ")));
    Done { made, result: written.and(Err(failure)) }
}

fn counted(keys: usize) -> String {
    if keys == 1 { "1 key".into() } else { format!("{keys} keys") }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos} of {len} keys, {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Longest list, in bytes (256 MiB): more than a million labels of full length.
const LONGEST_LIST: usize = 256 * 1024 * 1024;
/// Labels in use that are named.
const SHOWN: usize = 10;
/// Requests at a time for one key each: half of the connections that a user can have, so that other
/// commands of the user find one.
const AT_A_TIME: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_a_label_in_each_line() {
        let labels = |text: &str| {
            let read = parse(text, false).map(|entries| {
                entries.iter().map(|entry| entry.label.to_string()).collect::<Vec<_>>().join(",")
            });
            read.unwrap_or_else(|why| why)
        };
        assert_eq!(labels("# mine\na\n\n  b \r\nc"), "a,b,c");
        assert_eq!(labels("a\nb\na\n"), "lines 1 and 3 have the same label, a");
        assert!(labels("a\nb c\n").starts_with("line 2 has no label: "));
        assert_eq!(labels("# a\n\n"), "there is no label in the list");
    }

    #[test]
    fn a_list_of_an_import_has_a_file_after_each_label() {
        let entries = parse("a  one key.pem \nb\ttwo.pem\n", true).unwrap();
        let files: Vec<_> = entries.iter().map(|entry| entry.file.to_str().unwrap()).collect();
        assert_eq!(files, ["one key.pem", "two.pem"]);
        assert!(parse("a -\n", true).unwrap_err().starts_with("line 1 has no path"));
        assert!(parse("a one.pem\nb\n", true).unwrap_err().starts_with("line 2 is not a label and"));
    }
}
