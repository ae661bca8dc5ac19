//! Upgrade at SIGUSR2: the daemon ends, and its [starter](super::starter) executes the program that
//! is installed now, with the sockets of the daemon. Clients that connect meanwhile wait at the
//! sockets.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};

use keyward_proto::Label;
use keyward_unit::administration::HANDED_OVER;
use nix::sys::signal::{SigSet, Signal};
use zeroize::Zeroizing;

use super::starter::Starter;
use crate::daemon::Daemon;
use crate::lifecycle;
use crate::serve::background;

/// A pipe with some bytes in it, which are fewer than a pipe holds (pipe(7)).
///
/// # Errors
/// The error of the system.
pub(super) fn filled_pipe(bytes: &[u8]) -> io::Result<OwnedFd> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(bytes)?;
    Ok(reader.into())
}

/// The master keys that the program before an upgrade has handed over; `None` if there are none.
///
/// # Errors
/// The pipe cannot be read.
pub(super) fn handed_over_keys() -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let Some(number) = env::var(MASTER_KEYS).ok().and_then(|number| number.parse::<RawFd>().ok()) else {
        return Ok(None);
    };
    let mut keys = Zeroizing::new(vec![0; HANDED_OVER]);
    // The descriptor belongs to nobody in this program yet: opened by its name, and closed.
    let read = File::open(format!("/proc/self/fd/{number}")).and_then(|mut pipe| pipe.read_exact(&mut keys));
    nix::unistd::close(number)?;
    read.map(|()| Some(keys))
}

/// True if the installed program would start, and would have the same keys. Otherwise logs the
/// reason, and the daemon goes on.
pub(super) async fn is_possible(starter: &Starter, daemon: &Daemon) -> bool {
    background::write_pending_now(daemon).await;
    lifecycle::mend_state(daemon).await;
    if let Some(problem) = lifecycle::mend_secrets(daemon).await {
        tracing::error!("not upgraded: the new program would not find a secret of the key store: {problem}");
        return false;
    }
    if let Some(problem) = daemon.keys.problem().await {
        tracing::error!(
            "not upgraded: this program has data in memory that the new program would not find: {problem}"
        );
        return false;
    }
    let pending: Vec<_> = daemon.keys.pending().iter().map(Label::to_string).collect();
    if !pending.is_empty() {
        tracing::error!(
            "not upgraded: the key store does not have the disabled or deleted state of some keys yet, and the new program would use these keys again: {}; make room on the disk, or unseal the unit",
            pending.join(", ")
        );
        return false;
    }
    match starter.check().await {
        Ok(program) => {
            tracing::info!(program, "upgrading: going on as the installed program");
            true
        }
        Err(reason) => {
            tracing::error!("not upgraded, this program goes on: {reason}");
            false
        }
    }
}

/// Blocks the signals that the daemon handles and that do not stop it, and no other signal. Without
/// a handler, these signals would end a process that has not installed its handlers yet. Blocked
/// and pending signals survive execve(2).
///
/// # Errors
/// The error of the system.
pub(super) fn set_signals_of_start() -> io::Result<()> {
    Ok(signals().thread_set_mask()?)
}

/// Unblocks the signals of [`set_signals_of_start`].
///
/// # Errors
/// The error of the system.
pub(super) fn unblock_signals() -> io::Result<()> {
    Ok(signals().thread_unblock()?)
}

fn signals() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect()
}

/// Environment variable for `--check-config`: a running daemon has the key store open, in this
/// format.
pub(crate) const RUNNING_FORMAT: &str = "KEYWARD_RUNNING_FORMAT";

/// Environment variable with the number of the descriptor that has the master keys.
pub(super) const MASTER_KEYS: &str = "KEYWARD_MASTER_KEYS_FD";
