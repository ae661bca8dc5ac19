//! Standard output.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::failure::Failure;
use crate::exit;

/// Prints text. Whoever closes the pipe early has seen enough.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::IO, format_args!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a value as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(exit::SOFTWARE, error))?;
    print(&format!("{text}\n"))
}

/// An empty table with a row of titles, and without lines around it.
pub(crate) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(columns) = columns() {
        table.set_width(columns);
    }
    table.set_header(titles.iter().copied());
    table
}

/// Prints a table without the blanks around it.
pub(crate) fn print_table(table: &Table) -> Result<(), Failure> {
    let line = |line: String| {
        format!(
            "{}
",
            line.strip_prefix(' ').unwrap_or(&line).trim_end()
        )
    };
    let lines: String = table.lines().map(line).collect();
    print(&lines)
}

/// How wide the terminal is, if there is one.
fn columns() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_col).filter(|columns| *columns > 0)
}
