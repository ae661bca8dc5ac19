//! Programs that the starter runs: its own file as the daemon, and the installed program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{self, Path, PathBuf};
use std::process::{self, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Pid;

use super::link::STARTED;
use crate::keys;
use crate::serve::sockets::{HandedOver, LISTEN_PLACES};
use crate::serve::upgrade::{MASTER_KEYS, RUNNING_FORMAT};

/// Program and arguments with which this process was started.
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// Program and arguments of this process. Call this at the start: later, the path may lead to
    /// another program.
    ///
    /// # Errors
    /// The error of the system.
    pub(super) fn running() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let path = path_as_started(&name).map_or_else(env::current_exe, Ok)?;
        Ok(Self { path, arguments: arguments.collect() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the installed program with `--check-config`, with this standard error output.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn check(&self, errors: Stdio) -> io::Result<Pid> {
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).arg("--check-config");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        for name in PASSED {
            command.env_remove(name);
        }
        Ok(Pid::from_child(&command.env(RUNNING_FORMAT, keys::THIS_FORMAT).spawn()?))
    }

    /// Replaces this process by the installed program. Passes the sockets as sd_listen_fds(3)
    /// describes, and the pipe with the master keys of a unit with owners. Returns only after an
    /// error.
    pub(super) fn replace_process(&self, sockets: Vec<HandedOver>, keys: Option<OwnedFd>) -> io::Error {
        let names: Vec<_> = sockets.iter().map(|socket| socket.role.name()).collect();
        let places: Vec<_> = sockets.iter().map(|socket| socket.bound_at.as_str()).collect();
        let mut command = Command::new(&self.path);
        command.args(&self.arguments).env("LISTEN_FDNAMES", names.join(":"));
        command.env(LISTEN_PLACES, places.join("\n"));
        command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_PID", process::id().to_string());
        let mut descriptors: Vec<_> = sockets.into_iter().map(|socket| socket.listener).collect();
        command.env_remove(MASTER_KEYS);
        if let Some(keys) = keys {
            let number = FIRST_DESCRIPTOR.saturating_add_unsigned(descriptors.len() as u32);
            command.env(MASTER_KEYS, number.to_string());
            descriptors.push(keys);
        }
        let mappings = descriptors.into_iter().zip(FIRST_DESCRIPTOR..);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        match command.fd_mappings(mappings.collect()) {
            Ok(command) => command.exec(),
            Err(error) => io::Error::other(error),
        }
    }
}

/// Descriptors that were passed to this process for the daemon.
pub(super) struct Passed {
    /// True if the variables of sd_listen_fds(3) are about this process.
    has_sockets: bool,
    descriptors: Vec<RawFd>,
}

impl Passed {
    /// Descriptors of this process. Call this before the process opens a descriptor.
    pub(super) fn to_this_process() -> Self {
        let number = |name| env::var(name).ok().and_then(|number| number.parse::<i32>().ok());
        // Some programs pass sockets without the process id.
        let has_sockets = env::var_os("LISTEN_PID").is_none_or(|pid| *pid == *process::id().to_string());
        let sockets = number("LISTEN_FDS").filter(|_| has_sockets).unwrap_or_default();
        let sockets = FIRST_DESCRIPTOR..FIRST_DESCRIPTOR.saturating_add(sockets.min(MOST_PASSED));
        // Another descriptor of this process may get the number of one that was not passed.
        let is_open = |number: &RawFd| fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok();
        let descriptors = sockets.chain(number(MASTER_KEYS)).filter(is_open).collect();
        Self { has_sockets, descriptors }
    }

    /// Starts the daemon: the file of this process, also if there is another program at the path
    /// by now. Closes the passed descriptors, which the daemon has inherited.
    ///
    /// # Errors
    /// The daemon cannot be started.
    pub(super) fn start_daemon(self, link: OwnedFd) -> io::Result<Pid> {
        let mut command = Command::new("/proc/self/exe");
        let mut arguments = env::args_os();
        command.arg0(arguments.next().unwrap_or_default()).args(arguments);
        command.env(STARTED, "1").stdin(link);
        // The daemon accepts sockets without the process id, which nobody knows yet.
        command.env_remove("LISTEN_PID");
        if !self.has_sockets {
            command.env_remove("LISTEN_FDS");
        }
        let daemon = command.spawn()?;
        for number in self.descriptors {
            nix::unistd::close(number)?;
        }
        Ok(Pid::from_child(&daemon))
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

/// First passed descriptor, SD_LISTEN_FDS_START of sd_listen_fds(3).
const FIRST_DESCRIPTOR: RawFd = 3;
/// Maximum number of descriptors that are looked for.
const MOST_PASSED: i32 = 4096;
/// Variables about descriptors that only the daemon has.
const PASSED: [&str; 5] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", LISTEN_PLACES, MASTER_KEYS];
