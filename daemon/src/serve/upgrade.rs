//! SIGUSR2: the daemon becomes the program that stands in its place now, and keeps its sockets.
//!
//! The process stays the same one, so whoever watches over it notices nothing: a supervisor, or the
//! container whose first process it is. Who connects meanwhile waits at the sockets.

use core::time::Duration;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{self, Path, PathBuf};
use std::process::{self, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use keyward_proto::Label;

use crate::daemon::Daemon;
use crate::keys;
use crate::serve;
use crate::serve::sockets::{HandedOver, PLACES};

/// The program and the words that the daemon was started with.
pub(crate) struct Program {
    path: PathBuf,
    words: Vec<OsString>,
}

impl Program {
    /// Those of this process. To be asked for at the start: later the file may be another one,
    /// which has the same path.
    pub(crate) fn running() -> io::Result<Self> {
        let mut words = env::args_os();
        let name = words.next().unwrap_or_default();
        let path = path_as_started(&name).map_or_else(env::current_exe, Ok)?;
        Ok(Self { path, words: words.collect() })
    }

    /// Has the program that is there now look at the configuration, as its start would.
    ///
    /// # Errors
    /// Its own words.
    async fn check(&self) -> Result<(), String> {
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.words).arg("--check-config").stdin(Stdio::null()).stdout(Stdio::null());
        command.env(RUNNING_FORMAT, keys::THIS_FORMAT);
        // It ends when it is waited for no more.
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output.map_err(|_| format!("nothing within {PATIENCE:?}"))?;
        let output = output.map_err(|reason| reason.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let told = String::from_utf8_lossy(&output.stderr);
                let last = told.lines().last().unwrap_or_default();
                Err(last.strip_prefix("keyward: ").unwrap_or(last).to_owned())
            }
        }
    }

    /// Becomes that program, with these sockets as sd_listen_fds(3) has them.
    ///
    /// # Errors
    /// Returns where that failed, and only then.
    pub(crate) fn become_it(&self, sockets: Vec<HandedOver>) -> io::Error {
        let names: Vec<_> = sockets.iter().map(|socket| socket.name).collect();
        let places: Vec<_> = sockets.iter().map(|socket| socket.at.as_str()).collect();
        let mut command = Command::new(&self.path);
        command.args(&self.words).env("LISTEN_FDNAMES", names.join(":")).env(PLACES, places.join("\n"));
        command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_PID", process::id().to_string());
        let mappings = sockets.into_iter().zip(FIRST..);
        let mappings =
            mappings.map(|(socket, child_fd)| FdMapping { parent_fd: socket.listener.into(), child_fd });
        match command.fd_mappings(mappings.collect()) {
            Ok(command) => command.exec(),
            Err(error) => io::Error::other(error),
        }
    }
}

/// The program, if it would start, and have every key; otherwise the log says why not, and the
/// daemon goes on.
pub(crate) async fn checked<'a>(
    program: Result<&'a Program, &'a io::Error>,
    daemon: &Daemon,
) -> Option<&'a Program> {
    serve::settle_now(daemon).await;
    if let Some(problem) = daemon.keys.problem().await {
        tracing::error!("not upgraded, since this program has what the next one would not find: {problem}");
        return None;
    }
    let unsettled: Vec<_> = daemon.keys.unsettled().iter().map(Label::to_string).collect();
    if !unsettled.is_empty() {
        tracing::error!(
            "not upgraded, since the next program would take the end of keys back that could not be written: {}; make room on the disk",
            unsettled.join(", ")
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
            tracing::info!(program = %program.path.display(), "upgrading: going on as the program that is there now");
            Some(program)
        }
        Err(reason) => {
            tracing::error!(
                "not upgraded, this program goes on: {} --check-config says: {reason}",
                program.path.display()
            );
            None
        }
    }
}

/// Where the program was found by its name: a link there may lead to another one later. None if it
/// leads elsewhere, as where a caller gave any name.
fn path_as_started(name: &OsStr) -> Option<PathBuf> {
    let is_path = name.as_bytes().contains(&b'/');
    let directories = env::var_os("PATH").filter(|_| !is_path).unwrap_or_default();
    let found = env::split_paths(&directories).map(|directory| directory.join(name));
    let file = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let runs = file(Path::new("/proc/self/exe"))?;
    let mut paths = is_path.then(|| name.into()).into_iter().chain(found);
    path::absolute(paths.find(|path| file(path) == Some(runs))?).ok()
}

/// Longest time for the look at the configuration.
const PATIENCE: Duration = Duration::from_secs(10);

/// Variable of the environment that tells `--check-config` that a daemon of this user has the key
/// store open, and the format of that.
pub(crate) const RUNNING_FORMAT: &str = "KEYWARD_RUNNING_FORMAT";

/// SD_LISTEN_FDS_START of sd_listen_fds(3).
const FIRST: i32 = 3;
