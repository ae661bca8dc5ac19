//! Upgrade at SIGUSR2: the daemon executes the program that is installed now, and keeps its
//! sockets.
//!
//! The process stays the same, so its supervisor or container does not notice the upgrade. Clients
//! that connect meanwhile wait at the sockets.

use core::time::Duration;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{self, Path, PathBuf};
use std::process::{self, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use keyward_proto::Label;
use keyward_unit::administration::HANDED_OVER;
use nix::sys::signal::{SigSet, Signal};

use zeroize::Zeroizing;

use crate::daemon::Daemon;
use crate::keys;
use crate::lifecycle;
use crate::serve::background;
use crate::serve::sockets::{HandedOver, LISTEN_PLACES};

/// Program and arguments with which the daemon was started.
pub(crate) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Program and arguments of this process. Call this at the start: later, the path may lead to
    /// another program.
    ///
    /// # Errors
    /// The error of the system.
    pub(crate) fn running() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let path = path_as_started(&name).map_or_else(env::current_exe, Ok)?;
        Ok(Self { path, arguments: arguments.collect() })
    }

    /// Runs the installed program with `--check-config`.
    ///
    /// # Errors
    /// The last error line of the program, or the reason why it did not run.
    async fn check(&self) -> Result<(), String> {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.arguments).arg("--check-config").stdin(Stdio::null()).stdout(Stdio::null());
        command.env(RUNNING_FORMAT, keys::THIS_FORMAT);
        // After the timeout, the program is killed.
        let output = tokio::time::timeout(CHECK_TIMEOUT, command.kill_on_drop(true).output()).await;
        let output = output.map_err(|_| format!("no answer within {CHECK_TIMEOUT:?}"))?;
        let output = output.map_err(|reason| reason.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let errors = String::from_utf8_lossy(&output.stderr);
                let last = errors.lines().last().unwrap_or_default();
                Err(last.strip_prefix("keyward: ").unwrap_or(last).to_owned())
            }
        }
    }

    /// Replaces this process by the program. Passes the sockets as sd_listen_fds(3) describes, and
    /// the master keys of a unit with owners through a pipe. Returns only after an error.
    pub(crate) fn replace_process(&self, sockets: Vec<HandedOver>, keys: Option<&[u8]>) -> io::Error {
        let names: Vec<_> = sockets.iter().map(|socket| socket.name).collect();
        let places: Vec<_> = sockets.iter().map(|socket| socket.bound_at.as_str()).collect();
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env("LISTEN_FDNAMES", names.join(":"));
        command.env(LISTEN_PLACES, places.join("\n"));
        command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_PID", process::id().to_string());
        let sockets = sockets.into_iter().map(|socket| OwnedFd::from(socket.listener));
        let mut descriptors: Vec<_> = sockets.collect();
        command.env_remove(MASTER_KEYS);
        if let Some(keys) = keys {
            let pipe = match filled_pipe(keys) {
                Ok(pipe) => pipe,
                Err(error) => return error,
            };
            let number = FIRST_DESCRIPTOR.saturating_add_unsigned(descriptors.len() as u32);
            command.env(MASTER_KEYS, number.to_string());
            descriptors.push(pipe);
        }
        let mappings = descriptors.into_iter().zip(FIRST_DESCRIPTOR..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        match command.fd_mappings(mappings.collect()) {
            Ok(command) => command.exec(),
            Err(error) => io::Error::other(error),
        }
    }
}

/// A pipe with some bytes in it, which is shorter than the buffer of a pipe (pipe(7)).
fn filled_pipe(bytes: &[u8]) -> io::Result<OwnedFd> {
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

/// Returns the program if it would start, and would have the same keys. Otherwise logs the reason,
/// and the daemon goes on.
pub(crate) async fn checked<'a>(
    program: Result<&'a Program, &'a io::Error>,
    daemon: &Daemon,
) -> Option<&'a Program> {
    background::write_pending_now(daemon).await;
    lifecycle::mend_state(daemon).await;
    lifecycle::mend_secrets(daemon).await;
    if let Some(problem) = daemon.keys.problem().await {
        tracing::error!(
            "not upgraded: this program has data in memory that the new program would not find: {problem}"
        );
        return None;
    }
    let pending: Vec<_> = daemon.keys.pending().iter().map(Label::to_string).collect();
    if !pending.is_empty() {
        tracing::error!(
            "not upgraded: the key store does not have the disabled or deleted state of some keys yet, and the new program would use these keys again: {}; make room on the disk, or unseal the unit",
            pending.join(", ")
        );
        return None;
    }
    let program = match program {
        Ok(program) => program,
        Err(error) => {
            tracing::error!("not upgraded: the path of this program is not known: {error}");
            return None;
        }
    };
    match program.check().await {
        Ok(()) => {
            tracing::info!(program = %program.path.display(), "upgrading: going on as the installed program");
            Some(program)
        }
        Err(reason) => {
            tracing::error!(
                "not upgraded, this program goes on: {} --check-config reports: {reason}",
                program.path.display()
            );
            None
        }
    }
}

/// Returns the path by which the program was started. A symbolic link on the path may lead to a
/// newer program later. `None` if the name does not lead to the running program: a caller can pass
/// any name.
fn path_as_started(name: &OsStr) -> Option<PathBuf> {
    let is_path = name.as_bytes().contains(&b'/');
    let directories = env::var_os("PATH").filter(|_| !is_path).unwrap_or_default();
    let found = env::split_paths(&directories).map(|directory| directory.join(name));
    let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let runs = file(Path::new("/proc/self/exe"))?;
    let mut paths = is_path.then(|| name.into()).into_iter().chain(found);
    path::absolute(paths.find(|path| file(path) == Some(runs))?).ok()
}

/// Blocks the signals that the daemon handles and that do not stop it. Without a handler, these
/// signals would end the process: before the handlers are installed, and after an upgrade, where
/// the new program starts without handlers. Blocked and pending signals survive the upgrade.
///
/// # Errors
/// The error of the system.
pub(super) fn block_signals() -> io::Result<()> {
    Ok(signals().thread_block()?)
}

/// Unblocks the signals of [`block_signals`].
///
/// # Errors
/// The error of the system.
pub(super) fn unblock_signals() -> io::Result<()> {
    Ok(signals().thread_unblock()?)
}

fn signals() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2].into_iter().collect()
}

/// Maximum time for the check of the configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Environment variable for `--check-config`: a running daemon has the key store open, in this
/// format.
pub(crate) const RUNNING_FORMAT: &str = "KEYWARD_RUNNING_FORMAT";

/// Environment variable with the number of the descriptor that has the master keys.
const MASTER_KEYS: &str = "KEYWARD_MASTER_KEYS_FD";

/// First passed descriptor, SD_LISTEN_FDS_START of sd_listen_fds(3).
const FIRST_DESCRIPTOR: i32 = 3;
