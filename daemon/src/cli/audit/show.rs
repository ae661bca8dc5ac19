//! `keyward audit tail` and `show`: records, one on each line.

use std::io;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::choice::{Choice, Source, user_name};
use crate::audit::{Party, Record};
use crate::cli::failure::Failure;
use crate::ground::text::printable;

#[derive(Args, Debug)]
pub(in crate::cli) struct Tail {
    /// Number of records
    #[arg(short = 'n', long, value_name = "N", default_value = "10", value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    lines: usize,
    /// Go on with new records
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    records: Records,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    records: Records,
}

/// The records to show, and their form.
#[derive(Args, Debug)]
struct Records {
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    source: Source,
    /// Print the records as they are in the trail: JSON, one object on each line
    #[arg(long)]
    json: bool,
}

impl Tail {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.records.print(self.lines, self.follow)
    }
}

impl Show {
    pub(super) fn run(self) -> Result<(), Failure> {
        self.records.print(0, false)
    }
}

impl Records {
    /// Prints the last records, or all if `last` is 0. With `follow` it goes on with new records.
    fn print(self, last: usize, follow: bool) -> Result<(), Failure> {
        use io::Write;

        let Self { choice, source, json } = self;
        let mut out = io::BufWriter::new(io::stdout().lock());
        source.read(&choice.filter(), last, follow, |record, line| {
            let text = if json { printable(line) } else { printable(&text_of(&record)) };
            writeln!(out, "{text}")?;
            // People who follow wait for the line.
            if follow { out.flush() } else { Ok(()) }
        })
    }
}

/// A record for people: time, user, action, key, and the rest.
fn text_of(record: &Record) -> String {
    let time = record.time.get(..19).unwrap_or(&record.time).replace('T', " ");
    let action = record.action.strip_prefix("keyward.").unwrap_or(&record.action);
    let who = match record.peer.as_ref().or(record.actor.as_ref()) {
        Some(Party { uid, command, unit, .. }) => {
            let from: Vec<_> = [command, unit].into_iter().flatten().map(String::as_str).collect();
            let from = if from.is_empty() { String::new() } else { format!(" ({})", from.join(", ")) };
            format!("{}{from}", uid.map_or_else(|| "daemon".into(), user_name))
        }
        None => record.uid.map_or_else(|| "-".into(), user_name),
    };
    let mut text = format!("{time}  {who}  {action}");
    for part in [record.refused_act(), record.refused_path()].into_iter().flatten() {
        text += &format!("  {part}");
    }
    if let Some(key) = &record.key {
        text += &format!("  {key}");
        if let Some(version) = record.version.filter(|version| *version > 0) {
            text += &format!(" v{version}");
        }
    }
    let times = Some(record.times()).filter(|times| *times != 1).map(|times| format!("{times} times"));
    let rest = [record.purpose.clone(), record.outcome.clone(), times, record.reason.clone()];
    for part in rest.into_iter().flatten() {
        text += &format!("  {part}");
    }
    text
}
