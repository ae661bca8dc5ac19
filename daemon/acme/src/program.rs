//! Programs of the owner: issuers, DNS hooks and notifications. They run without a shell, with a
//! time limit, as the user of the agent.

use core::time::Duration;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::failure::Failure;

/// Runs a program, and returns its standard output.
///
/// # Errors
/// The program cannot be started, takes too long, says too much, or ends with a status other than
/// 0.
pub(crate) async fn run(
    plan: &str,
    command: &[String],
    more: &[&str],
    input: &[u8],
) -> Result<Vec<u8>, Failure> {
    let name = command.first().map(String::as_str).unwrap_or_default();
    let failed = |reason: String| Failure::new("program", format!("{name}: {reason}"));
    let mut child = Command::new(name)
        .args(command.iter().skip(1))
        .args(more)
        .env("KEYWARD_PLAN", plan)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let work = async {
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input may end before it is written.
                let _ = stdin.write_all(input).await;
            }
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read = async {
            if let Some(stdout) = stdout {
                let _ = stdout.take(MAX_OUTPUT).read_to_end(&mut out).await;
            }
        };
        let read_errors = async {
            if let Some(stderr) = stderr {
                let _ = stderr.take(MAX_WORDS).read_to_end(&mut err).await;
            }
        };
        tokio::join!(write, read, read_errors);
        let status = child.wait().await;
        (status, out, err)
    };
    let limited = tokio::time::timeout(LIMIT, work).await;
    let (status, out, err) =
        limited.map_err(|_| failed(format!("took longer than {} seconds", LIMIT.as_secs())))?;
    let status = status.map_err(|error| failed(error.to_string()))?;
    match status.success() {
        true => Ok(out),
        false => {
            let words = String::from_utf8_lossy(&err);
            let last = words.trim().lines().last().unwrap_or("no message");
            Err(failed(format!("{status}: {last}")))
        }
    }
}

/// Longest time of a program.
const LIMIT: Duration = Duration::from_secs(120);
/// Longest output, in bytes.
const MAX_OUTPUT: u64 = 256 * 1024;
const MAX_WORDS: u64 = 16 * 1024;
