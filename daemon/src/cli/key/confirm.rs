//! Questions on a terminal.

use std::io::{self, BufRead, Write};

use crate::cli::failure::Failure;
use crate::ground::exit;

/// Asks a question, and returns true if the answer is the expected one.
pub(in crate::cli) fn confirmed(question: &str, expected: &str) -> Result<bool, Failure> {
    let mut answer = String::new();
    eprint!("{question}");
    io::stderr()
        .flush()
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::new(exit::IO, format_args!("cannot read the answer: {error}")))?;
    Ok(answer.trim() == expected)
}
