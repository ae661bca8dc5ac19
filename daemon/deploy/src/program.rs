//! Programs of servers and hooks: without a shell, with a time limit.

use core::time::Duration;
use std::process::Stdio;

use tokio::process::Command;

/// Runs a program to its end.
///
/// # Errors
/// The reason as a sentence: the last line that the program said, or how it ended.
pub(crate) async fn run(command: &mut Command) -> Result<String, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    let output = output.map_err(|_| format!("{name} took longer than {} seconds", LIMIT.as_secs()))?;
    let output = output.map_err(|error| format!("cannot run {name}: {error}"))?;
    let words = [output.stdout.as_slice(), &output.stderr].concat();
    let words: String = String::from_utf8_lossy(&words).chars().take(MAX_WORDS).collect();
    match output.status.success() {
        true => Ok(words),
        false => {
            let lines = words.trim().lines();
            let telling = lines
                .clone()
                .find(|line| line.contains("emerg") || line.contains("ALERT") || line.contains("rror"));
            let line = telling.or_else(|| lines.last()).unwrap_or("no message");
            Err(format!("{name}: {}: {line}", output.status))
        }
    }
}

/// Longest time of a program.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest output that is kept: a whole configuration of nginx.
const MAX_WORDS: usize = 8 << 20;
