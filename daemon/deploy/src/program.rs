//! Programs of servers and hooks: without a shell, with a time limit.

use core::time::Duration;
use std::io;

use keyward_ground::program::{Limits, run as run_to_end};
use tokio::process::Command;

/// Runs a program to its end.
///
/// # Errors
/// The reason as a sentence: the last line that the program said, or how it ended.
pub(crate) async fn run(command: &mut Command) -> Result<String, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let limits = Limits { time: LIMIT, output: MAX_WORDS };
    let ended = run_to_end(command, Vec::new(), limits).await.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => format!("{name} took longer than {} seconds", LIMIT.as_secs()),
        _ => format!("cannot run {name}: {error}"),
    })?;
    let words = [ended.out, ended.err].concat();
    let words = String::from_utf8_lossy(&words);
    match ended.status.success() {
        true => Ok(words.into_owned()),
        false => {
            let lines = words.trim().lines();
            let telling = lines
                .clone()
                .find(|line| line.contains("emerg") || line.contains("ALERT") || line.contains("rror"));
            let line = telling.or_else(|| lines.last()).unwrap_or("no message");
            Err(format!("{name}: {}: {line}", ended.status))
        }
    }
}

/// Longest time of a program.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest output that is kept: a whole configuration of nginx.
const MAX_WORDS: usize = 8 << 20;
