//! Programs of the owner: issuers, DNS hooks and notifications. They run without a shell, with a
//! time limit, as the user of the agent.

use core::time::Duration;
use std::io;

use keyward_ground::program::{Limits, run as run_to_end};
use tokio::process::Command;

use super::failure::Failure;

/// Runs a program, and returns its standard output.
///
/// # Errors
/// The program cannot be started, takes too long, or ends with a status other than 0.
pub(crate) async fn run(
    plan: &str,
    command: &[String],
    more: &[&str],
    input: &[u8],
) -> Result<Vec<u8>, Failure> {
    let name = command.first().map(String::as_str).unwrap_or_default();
    let failed = |reason: String| Failure::new("program", format!("{name}: {reason}"));
    let mut run = Command::new(name);
    run.args(command.iter().skip(1)).args(more).env("KEYWARD_PLAN", plan);
    let limits = Limits { time: LIMIT, output: MAX_OUTPUT };
    let ended = run_to_end(&mut run, input.to_vec(), limits).await.map_err(|error| {
        failed(match error.kind() {
            io::ErrorKind::TimedOut => format!("took longer than {} seconds", LIMIT.as_secs()),
            _ => error.to_string(),
        })
    })?;
    match ended.status.success() {
        true => Ok(ended.out),
        false => {
            let words = String::from_utf8_lossy(&ended.err);
            let last = words.trim().lines().last().unwrap_or("no message");
            Err(failed(format!("{}: {last}", ended.status)))
        }
    }
}

/// Longest time of a program.
const LIMIT: Duration = Duration::from_secs(120);
/// Longest output, in bytes.
const MAX_OUTPUT: usize = 256 * 1024;
