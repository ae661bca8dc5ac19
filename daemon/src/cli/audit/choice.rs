//! The records that a command is about.

use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use nix::unistd::User;

use crate::admin::client::AdminClient;
use crate::audit::{Filter, Line, Place, Reader, Record, time_text};
use crate::cli::client::RUNTIME_DIR;
use crate::cli::failure::Failure;
use crate::cli::output::note;
use crate::ground::exit;

/// Where the records are.
#[derive(Args, Debug)]
pub(in crate::cli) struct Source {
    /// Directory of the daemon's sockets
    #[arg(long, value_name = "DIR", default_value = RUNTIME_DIR, conflicts_with = "dir")]
    pub(super) runtime_dir: PathBuf,
    /// Directory of a trail or of a copy, read without a daemon
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Times of records.
#[derive(Args, Debug)]
pub(in crate::cli) struct Times {
    /// Earliest time: a time before now such as 7d, a date, or a time such as 2026-11-28T15:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) since: Option<String>,
    /// Latest time, in the same forms
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<String>,
}

impl Times {
    /// A filter with these times. Without an earliest time, `since` stands for it.
    pub(super) fn filter(self, since: Option<&str>) -> Filter {
        let since = self.since.or_else(|| since.and_then(|text| time(text).ok()));
        Filter { since, until: self.until, ..Filter::default() }
    }
}

/// A filter on the command line.
#[derive(Args, Debug)]
pub(in crate::cli) struct Choice {
    /// Label of a key
    #[arg(long, value_name = "LABEL")]
    key: Option<String>,
    /// Name or number of a user
    #[arg(long, value_name = "USER", value_parser = user)]
    user: Option<u32>,
    /// Purpose of the message, such as tls13-server
    #[arg(long, value_name = "PURPOSE")]
    purpose: Option<String>,
    /// Outcome, such as done or no-grant
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// Action, or its beginning up to a dot, such as keyward.key
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    #[command(flatten)]
    times: Times,
}

impl Choice {
    pub(super) fn filter(self) -> Filter {
        let Self { key, user, purpose, outcome, action, times } = self;
        Filter { key, user, purpose, outcome, action, ..times.filter(None) }
    }
}

impl Source {
    /// The trail of a running daemon.
    pub(super) fn of_daemon(runtime_dir: PathBuf) -> Self {
        Self { runtime_dir, dir: None }
    }

    /// Passes on the records that the filter admits, with their lines: the last ones, or all if
    /// `last` is 0. With `follow` it goes on with new records. Ends early without a failure if
    /// `each` reports a closed pipe. Fails at the end if a line was no record.
    pub(super) fn read(
        &self,
        filter: &Filter,
        last: usize,
        follow: bool,
        each: impl FnMut(Record, &str) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let attempt = "cannot read the audit trail";
        let mut lines = Lines { each, follow, before: None, odd: 0, first: None };
        let Some(dir) = &self.dir else {
            let mut part = Vec::new();
            let split = |bytes: &[u8]| -> io::Result<()> {
                let known = part.len();
                part.extend_from_slice(bytes);
                let mut begin = 0;
                while let Some(end) = part[begin.max(known)..].iter().position(|byte| *byte == b'\n') {
                    let end = begin.max(known) + end;
                    lines.add(&part[begin..end], None)?;
                    begin = end + 1;
                }
                part.drain(..begin);
                Ok(())
            };
            let read = AdminClient::new(&self.runtime_dir)
                .and_then(|admin| admin.audit(filter, last, follow, split));
            return match read {
                Err(error) if error.is_closed_pipe() => Ok(()),
                read => read
                    .map_err(|error| Failure::from(error).while_trying(attempt))
                    .and_then(|()| lines.result()),
            };
        };
        if follow {
            return Err(Failure::new(exit::USAGE, "--follow needs a daemon; leave --dir out"));
        }
        let failed = |error| Failure::new(exit::DATA, error).while_trying(attempt);
        let mut reader = Reader::new(dir, filter.clone());
        let mut first = match last {
            0 => reader.begin().map(|()| VecDeque::new()),
            last => reader.last(last),
        }
        .map_err(failed)?;
        loop {
            let next = match first.pop_front() {
                Some(next) => Some(next),
                None => reader.next().map_err(failed)?,
            };
            let Some(Line { text, odd }) = next else { return lines.result() };
            match lines.add(&text, odd.as_ref()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(|error| Failure::new(exit::IO, error).while_trying(attempt))?,
            }
        }
    }
}

/// Lines of a trail. Those that are no records are counted: one damaged line must not hide all
/// records after it.
struct Lines<F> {
    each: F,
    /// True if the answer has no end, so that a line must be named at once.
    follow: bool,
    /// Number of the last record.
    before: Option<u64>,
    /// Lines that are no records.
    odd: u64,
    /// Where the first of them is.
    first: Option<String>,
}

impl<F: FnMut(Record, &str) -> io::Result<()>> Lines<F> {
    /// Passes a record on. `place` is known for a line that is no record, if a file was read.
    fn add(&mut self, line: &[u8], place: Option<&Place>) -> io::Result<()> {
        let record = serde_json::from_slice::<Record>(line).ok().filter(|_| place.is_none());
        if let Some(record) = record {
            self.before = Some(record.seq);
            return (self.each)(record, &String::from_utf8_lossy(line));
        }
        self.odd += 1;
        if self.first.is_none() {
            let place = match (place, self.before) {
                (Some(place), _) => format!("at {place}"),
                (None, Some(seq)) => format!("after record {seq}"),
                (None, None) => "before the first record of the answer".into(),
            };
            if self.follow {
                note(format_args!("a line of the audit trail {place} is no record"));
            }
            self.first = Some(place);
        }
        Ok(())
    }

    fn result(self) -> Result<(), Failure> {
        let Some(first) = self.first else { return Ok(()) };
        let are = if self.odd == 1 {
            "1 line of the audit trail is no record and was".to_owned()
        } else {
            format!("{} lines of the audit trail are no records and were", self.odd)
        };
        Err(Failure::new(
            exit::DATA,
            format_args!("{are} passed over, the first one {first}; see: keyward audit verify"),
        ))
    }
}

/// Name of a user, or the number.
pub(super) fn user_name(uid: u32) -> String {
    User::from_uid(uid.into()).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let user = User::from_name(text).map_err(|error| error.to_string())?;
    user.map(|user| user.uid.as_raw()).ok_or_else(|| "there is no such user".into())
}

/// Reads a time: a time before now, a date, or a time in RFC 3339. The text compares with times of
/// records.
fn time(text: &str) -> Result<String, String> {
    let date = text.get(..10).filter(|date| humantime::parse_rfc3339(&format!("{date}T00:00:00Z")).is_ok());
    if date == Some(text) {
        return Ok(text.to_owned());
    }
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(time_text(time));
    }
    let before = humantime::parse_duration(text).map_err(|_| {
        "not a time before now such as 7d, a date such as 2026-11-28, or a time such as 2026-11-28T15:00:00Z"
            .to_owned()
    })?;
    let then = SystemTime::now().checked_sub(before);
    then.map(time_text).ok_or_else(|| TOO_LONG_AGO.into())
}

/// A time before now, as records have it.
pub(super) fn before_now(before: Duration) -> Result<String, Failure> {
    let then = SystemTime::now().checked_sub(before);
    then.map(time_text).ok_or_else(|| Failure::new(exit::USAGE, TOO_LONG_AGO))
}

const TOO_LONG_AGO: &str = "the time is too long ago";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_compare_with_times_of_records() {
        assert_eq!(time("2026-11-28").unwrap(), "2026-11-28");
        assert_eq!(time("2026-11-28T15:00:00Z").unwrap(), "2026-11-28T15:00:00.000000Z");
        assert!(time("1d").unwrap() < time_text(SystemTime::now()));
        assert!(time("7d").unwrap() < time("1h").unwrap());
        for wrong in ["2026-13-01", "yesterday", "", "7"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
