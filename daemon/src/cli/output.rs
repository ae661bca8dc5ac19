//! Output: results on standard output, warnings and notes on standard error.

use core::fmt::Display;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;
use crate::ground::exit;
pub(crate) use crate::ground::text::time;
use crate::ground::text::{distance, printable, printable_json, printable_lines};

/// Prints text of any number of lines. Control characters are replaced.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write(&printable_lines(text))
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    write(&format!("{}\n", printable_json(&text)))
}

/// A list that is printed as JSON one element after the other.
#[derive(Default)]
pub(crate) struct JsonList {
    is_begun: bool,
}

impl JsonList {
    /// Prints an element.
    pub(crate) fn add(&mut self, element: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(element);
        let text = text.map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let begin = if self.is_begun { ",\n  " } else { "[\n  " };
        self.is_begun = true;
        write(&format!("{begin}{}", printable_json(&text).replace('\n', "\n  ")))
    }

    /// Prints the end of the list.
    pub(crate) fn end(self) -> Result<(), Failure> {
        write(if self.is_begun { "\n]\n" } else { "[]\n" })
    }
}

/// Prints a warning on standard error.
pub(crate) fn warn(text: impl Display) {
    eprintln!("keyward: warning: {}", printable(&text.to_string()));
}

/// Prints a note on standard error.
pub(crate) fn note(text: impl Display) {
    eprintln!("keyward: note: {}", printable(&text.to_string()));
}

/// Writes to standard output. A closed pipe is no error: its reader has seen enough.
fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IO, format_args!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// An empty table with a row of titles, and without borders.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = table_without_titles();
    table.set_header(titles.iter().copied());
    table
}

/// A table like [`table`], whose titles were printed before.
pub(crate) fn table_without_titles() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(columns) = columns() {
        table.set_width(columns);
    }
    table
}

/// Prints a table without the blanks around its lines.
pub(crate) fn print_table(table: &Table) -> Result<(), Failure> {
    let line = |line: String| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end());
    let lines: String = table.lines().map(line).collect();
    print(&lines)
}

/// Distance from now to a time in seconds since 1970, as in `in 41 days` and `3 hours ago`.
pub(crate) fn from_now(seconds: u64) -> String {
    distance(now(), seconds)
}

/// Distance from an event to now, as in `0 minutes ago`, also for an event of this second.
pub(crate) fn ago(seconds: u64) -> String {
    distance(now().max(seconds + 1), seconds)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Width of the terminal in columns, if there is a terminal.
pub(crate) fn columns() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_their_distance() {
        assert_eq!(time(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(ago(now()), "0 minutes ago");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
