//! Processes of servers on this host, as /proc has them (proc(5)).

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::ground::ownership;
use crate::ground::text::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process of a server that has no parent of the same program: the one that takes signals.
#[derive(Clone, Debug)]
pub struct Master {
    /// Process id.
    pub pid: i32,
    /// The process itself, whatever other process gets its number later.
    handle: Arc<OwnedFd>,
    /// Path of its program.
    pub program: PathBuf,
    /// Arguments, without the name of the program.
    pub arguments: Vec<String>,
    /// Working directory, for paths in the arguments.
    pub directory: PathBuf,
}

/// Processes whose program has this file name, and whose parent is another program.
///
/// Callers run the programs and read the configurations of these processes, so this takes only
/// processes of their own user, which is root, with a program that nobody else can change.
/// Processes in containers are left out: their paths are not those of this host.
pub fn masters(program: &str) -> Vec<Master> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| !exe_of_parent(*pid, program)).filter_map(|pid| master(pid, program)).collect()
}

/// A process as [`masters`] returns it, whatever its parent is: while nginx replaces its program, a
/// master is the child of another.
pub fn master(pid: i32, program: &str) -> Option<Master> {
    let exe = exe(pid, program)?;
    let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    if !is_own(pid) || !is_of_this_host(pid) {
        return None;
    }
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> =
        arguments.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let master = Master { pid, handle: Arc::new(handle), program: exe, arguments: words, directory };
    // The facts are those of the process of the handle, unless that one has ended meanwhile.
    (master.signal(None).is_ok() && ownership::open(&master.program).is_ok()).then_some(master)
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

/// A process of this host whose command line names one of these files, for people.
pub(crate) fn naming(files: &[&Path]) -> Option<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = rustix::process::getpid().as_raw_pid();
    let mut others = pids.filter(|pid| *pid != own && is_of_this_host(*pid));
    others.find_map(|pid| {
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0').filter(|word| !word.is_empty());
        let program = words.next()?;
        let names = |word: &str| files.contains(&directory.join(word).as_path());
        let is_named =
            words.any(|word| names(word) || word.split_once('=').is_some_and(|(_, value)| names(value)));
        is_named.then(|| format!("{pid} ({})", printable(program)))
    })
}

/// The child processes of a process with the same program.
pub fn children(of: &Master) -> Vec<Child> {
    let Some(name) = of.program.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_this = pids.filter(|pid| parent(*pid) == Some(of.pid) && exe(*pid, name).is_some());
    of_this
        .filter_map(|pid| {
            let title = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let title = title.split(|byte| *byte == 0).next().unwrap_or_default();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let effective = |name: &str| -> Option<u32> {
                let ids = status.lines().find_map(|line| line.strip_prefix(name))?;
                ids.split_whitespace().nth(1)?.parse().ok()
            };
            let (uid, gid) = (effective("Uid:")?, effective("Gid:")?);
            Some(Child { pid, uid, gid, title: String::from_utf8_lossy(title).into_owned() })
        })
        .collect()
}

/// A child process of a server.
#[derive(Clone, Debug)]
pub struct Child {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// First word of its command line, which programs change to a title.
    pub title: String,
}

fn parent(pid: i32) -> Option<i32> {
    stat(pid, 4)?.parse().ok()
}

/// A field behind the name of the program, by its number in proc_pid_stat(5).
fn stat(pid: i32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may have spaces.
    stat.rsplit_once(')')?.1.split_whitespace().nth(number.checked_sub(3)?).map(str::to_owned)
}

/// Time at which a process began, to a hundredth of a second.
pub(crate) fn started(pid: i32) -> Option<SystemTime> {
    // In ticks since the start of the system.
    let ticks: u64 = stat(pid, 22)?.parse().ok()?;
    let begun = Duration::from_millis(ticks.checked_mul(1000)? / TICKS_PER_SECOND);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(now.tv_sec.try_into().ok()?, now.tv_nsec.try_into().ok()?);
    SystemTime::now().checked_sub(now.checked_sub(begun)?)
}

impl Master {
    /// Sends a signal; none only asks whether the process is there.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&self, signal: Option<Signal>) -> io::Result<()> {
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

    /// True if the process has a handler for a signal. A server that starts just now has none yet,
    /// and many signals end a process without a handler (signal(7)). The mask is in hexadecimal
    /// (proc_pid_status(5), SigCgt).
    pub fn heeds(&self, signal: Signal) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let mask = status
            .lines()
            .find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
    }

    /// Values of an option, as in `-f FILE`.
    pub fn values(&self, option: &str) -> Vec<&str> {
        values(&self.arguments, option).collect()
    }

    /// A path in the arguments.
    pub fn path(&self, text: &str) -> PathBuf {
        self.directory.join(Path::new(text))
    }
}

/// Values of an option among the arguments of a program, as in `-f FILE`.
pub(crate) fn values<'a>(arguments: &'a [String], option: &str) -> impl Iterator<Item = &'a str> {
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    pairs.filter(move |(one, _)| *one == option).map(|(_, value)| value.as_str())
}

/// Variables of the environment that a process was started with (proc_pid_environ(5)). Variables
/// that are no text are left out.
pub fn environment(pid: i32) -> Vec<(String, String)> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter_map(|word| str::from_utf8(word).ok());
    words.filter_map(|word| word.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

/// True if a process holds a socket of TCP that takes connections (proc_pid_net(5), state 0A).
pub(crate) fn takes_connections(pid: i32) -> bool {
    let mut listening = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            if let (Some(&"0A"), Some(inode)) = (words.get(3), words.get(9)) {
                listening.insert(format!("socket:[{inode}]"));
            }
        }
    }
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.into_iter().any(|link| link.to_str().is_some_and(|link| listening.contains(link)))
}

/// True if a process has loaded our provider.
pub(crate) fn has_provider(pid: i32) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    loaded_provider(&maps).is_some()
}

/// The file of our provider among the files that a process has mapped (proc_pid_maps(5)).
pub(crate) fn loaded_provider(maps: &str) -> Option<&str> {
    let mut files = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..]));
    files.find(|file| {
        let name = file.rsplit('/').next().unwrap_or_default();
        name.contains("keyward") && name.contains(".so")
    })
}

/// USER_HZ of Linux on every architecture but Alpha (time(7)).
const TICKS_PER_SECOND: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_until_it_is_closed() {
        let own = std::process::id().cast_signed();
        // Other tests of this process may listen, too: in a process of its own there is none.
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.unwrap();
        let age = started(child.id().cast_signed()).unwrap().elapsed().unwrap();
        assert!(age < Duration::from_secs(30), "{age:?}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(takes_connections(own));
        assert!(!takes_connections(child.id().cast_signed()));
        drop(listener);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_provider_is_found_among_mapped_files() {
        let maps = "7f00-7f01 r--p 00000000 fe:00 1  /usr/lib/libcrypto.so.3\n7f01-7f02 rw-p 00000000 00:00 0\n\
                    7f02-7f03 r-xp 00000000 fe:00 2  /usr/lib/ossl-modules/keyward.so\n";
        assert_eq!(loaded_provider(maps), Some("/usr/lib/ossl-modules/keyward.so"));
        assert_eq!(loaded_provider("7f00-7f01 r--p 0 fe:00 1  /home/keyward/server\n"), None);
    }
}
