//! Run of the installed program with `--check-config`.

use core::time::Duration;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Instant;

use rustix::process::{Pid, Signal, WaitStatus, kill_process};

use super::message::Verdict;
use super::program::Program;

/// The installed program, while it checks the configuration.
pub(super) struct Check {
    pub(super) pid: Pid,
    pub(super) deadline: Instant,
    /// Error output. A program that writes more than the pipe holds does not end in time.
    errors: io::PipeReader,
}

impl Check {
    /// Starts the check.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn start(program: &Program) -> io::Result<Self> {
        let (errors, output) = io::pipe()?;
        // A process that the program leaves behind may hold the pipe open.
        rustix::io::ioctl_fionbio(&errors, true)?;
        Ok(Self { pid: program.check(output.into())?, deadline: Instant::now() + CHECK_TIMEOUT, errors })
    }

    /// Verdict of a check that has ended.
    pub(super) fn verdict(mut self, status: WaitStatus, program: &Program) -> Verdict {
        let status = ExitStatus::from_raw(status.as_raw());
        if status.success() {
            return Verdict::Good(program.path().display().to_string());
        }
        let mut errors = Vec::new();
        // Ends with the error WouldBlock if something holds the pipe open.
        let _ = self.errors.read_to_end(&mut errors);
        let errors = String::from_utf8_lossy(&errors);
        let reason = errors.lines().last().map(|last| last.strip_prefix("keyward: ").unwrap_or(last));
        refused(program, reason.unwrap_or(&status.to_string()))
    }

    /// Kills a check that takes too long.
    pub(super) fn give_up(self, program: &Program) -> Verdict {
        self.kill();
        refused(program, &format!("no answer within {CHECK_TIMEOUT:?}"))
    }

    /// Kills the program, which was not waited for yet.
    pub(super) fn kill(self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }
}

/// Verdict of a check that has failed.
pub(super) fn refused(program: &Program, reason: &str) -> Verdict {
    Verdict::Bad(format!("{} --check-config reports: {reason}", program.path().display()))
}

/// Maximum time for the check of the configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
