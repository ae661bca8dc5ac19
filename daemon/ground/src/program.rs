//! Programs of the owner, such as hooks: without a shell, with limits of time and of output.

use core::time::Duration;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: Vec<u8>,
}

/// Limits of a program.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time until its end.
    pub time: Duration,
    /// Longest output that is kept of each of the two, in bytes. The rest is read and forgotten.
    pub output: usize,
}

/// Runs a program to its end, with some input. A program that takes too long is killed, with the
/// programs that it has started. Programs that it leaves running keep nobody waiting.
///
/// # Errors
/// The program cannot be started, or took too long ([`io::ErrorKind::TimedOut`]).
pub async fn run(command: &mut Command, input: Vec<u8>, limits: Limits) -> io::Result<Ended> {
    command.process_group(0).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(mut stdin) = child.stdin.take() {
        tokio::spawn(async move {
            // A program that does not read its input may end before it is written.
            let _ = stdin.write_all(&input).await;
        });
    }
    let (out, err) = (Arc::default(), Arc::default());
    let readers = [
        tokio::spawn(read(child.stdout.take(), limits.output, Arc::clone(&out))),
        tokio::spawn(read(child.stderr.take(), limits.output, Arc::clone(&err))),
    ];
    let status = match timeout(limits.time, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            if let Some(group) = group {
                let _ = kill_process_group(group, Signal::KILL);
            }
            return Err(io::ErrorKind::TimedOut.into());
        }
    };
    // A program that goes on in the background may hold the output open.
    let deadline = Instant::now() + REST;
    for mut reader in readers {
        if timeout_at(deadline, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    let taken = |kept: Kept| core::mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Ended { status, out: taken(out), err: taken(err) })
}

/// Output that was read so far.
type Kept = Arc<Mutex<Vec<u8>>>;

async fn read(stream: Option<impl AsyncRead + Unpin>, most: usize, kept: Kept) {
    let Some(mut stream) = stream else { return };
    let mut part = vec![0; 8192];
    while let Ok(length @ 1..) = stream.read(&mut part).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = most.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(part.get(..room).unwrap_or_default());
    }
}

/// Time for the rest of the output of a program that has ended.
const REST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, limit: Duration) -> io::Result<Ended> {
        let limits = Limits { time: limit, output: 10 };
        run(Command::new("/bin/sh").args(["-c", script]), b"input".to_vec(), limits).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn input_and_output_are_passed_and_limited() {
        let ended = shell("cat; echo words >&2; exit 3", LONG).await.unwrap();
        assert_eq!((ended.out.as_slice(), ended.err.as_slice()), (&b"input"[..], &b"words\n"[..]));
        assert_eq!(ended.status.code(), Some(3));
        let much = shell("head -c 1000000 /dev/zero", LONG).await.unwrap();
        assert_eq!((much.out.len(), much.status.success()), (10, true));
        let missing =
            run(&mut Command::new("/nonexistent"), Vec::new(), Limits { time: LONG, output: 1 }).await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_that_it_has_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; wait", file.display());
        let begin = Instant::now();
        let late = shell(&script, Duration::from_millis(500)).await;
        assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() < LONG);
        let pid = std::fs::read_to_string(file).unwrap();
        let is_gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
        };
        while !is_gone() {
            assert!(begin.elapsed() < LONG, "the child is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_program_in_the_background_keeps_nobody_waiting() {
        let begin = Instant::now();
        let ended = shell("echo words; sleep 5 & exit 0", LONG).await.unwrap();
        assert!(ended.status.success() && begin.elapsed() < Duration::from_secs(4));
        assert_eq!(ended.out, b"words\n");
    }
}
