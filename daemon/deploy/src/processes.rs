//! Processes of servers on this host, as /proc has them (proc(5)).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_ground::ownership;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process of a server that has no parent of the same program: the one that takes signals.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    pub(crate) pid: i32,
    /// The process itself, whatever other process gets its number later.
    handle: Arc<OwnedFd>,
    /// Path of its program.
    pub(crate) program: PathBuf,
    /// Arguments, without the name of the program.
    pub(crate) arguments: Vec<String>,
    /// Working directory, for paths in the arguments.
    pub(crate) directory: PathBuf,
}

/// Processes whose program has this file name, and whose parent is another program.
///
/// The deployer runs the programs and reads the configurations of these processes, so it takes only
/// processes of its own user, which is root, with a program that nobody else can change. Processes
/// in containers are left out: their paths are not those of this host.
pub(crate) fn masters(program: &str) -> Vec<Master> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let exe = exe(pid, program)?;
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        if exe_of_parent(pid, program) || !is_own(pid) || !is_of_this_host(pid) {
            return None;
        }
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = arguments
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let master = Master { pid, handle: Arc::new(handle), program: exe, arguments: words, directory };
        // The facts are those of the process of the handle, unless that one has ended meanwhile.
        (master.signal(None).is_ok() && ownership::open(&master.program).is_ok()).then_some(master)
    })
    .collect()
}

/// Path of the program of a process, if its file has this name. A program that was replaced by a
/// package has another file at its path now.
fn exe(pid: i32, program: &str) -> Option<PathBuf> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = exe.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
    (name == program).then(|| exe.with_file_name(&name))
}

fn exe_of_parent(pid: i32, program: &str) -> bool {
    parent(pid).is_some_and(|parent| exe(parent, program).is_some())
}

/// True if each user id of a process is that of this one.
fn is_own(pid: i32) -> bool {
    let own = rustix::process::geteuid().as_raw().to_string();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().count() == 4 && ids.split_whitespace().all(|id| id == own))
}

/// True if a process has the root directory of this one. A service with a /tmp of its own has
/// another mount namespace, and the same root.
fn is_of_this_host(pid: i32) -> bool {
    let place = |path: String| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let own = place("/".into());
    own.is_some() && place(format!("/proc/{pid}/root/")) == own
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may have spaces.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

impl Master {
    /// Sends a signal; none only asks whether the process is there.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn signal(&self, signal: Option<Signal>) -> io::Result<()> {
        match signal {
            Some(signal) => Ok(pidfd_send_signal(&self.handle, signal)?),
            // A handle becomes readable at the end of its process (pidfd_open(2)).
            None => {
                let mut ask = [PollFd::new(&*self.handle, PollFlags::IN)];
                match poll(&mut ask, Some(&Timespec::default()))? {
                    0 => Ok(()),
                    _ => Err(io::ErrorKind::NotFound.into()),
                }
            }
        }
    }

    /// Values of an option, as in `-f FILE`.
    pub(crate) fn values(&self, option: &str) -> Vec<&str> {
        let pairs = self.arguments.iter().zip(self.arguments.iter().skip(1));
        pairs.filter(|(one, _)| *one == option).map(|(_, value)| value.as_str()).collect()
    }

    /// A path in the arguments.
    pub(crate) fn path(&self, text: &str) -> PathBuf {
        self.directory.join(Path::new(text))
    }
}
