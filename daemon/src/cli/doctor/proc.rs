//! Files of /proc about a process (proc(5)).

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Reads a file of /proc about a process.
pub(super) fn read(pid: u32, file: &str) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{file}"))?.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A variable of the environment that a process was started with.
pub(super) fn variable(pid: u32, name: &str) -> Option<String> {
    let environment = read(pid, "environ").ok()?;
    let environment = String::from_utf8_lossy(&environment);
    let mut variables = environment.split('\0').filter_map(|variable| variable.split_once('='));
    variables.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
}

/// Working directory of a process, for the paths in its arguments.
pub(super) fn directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// True if a process is in another network namespace than this process.
pub(super) fn has_other_network(pid: u32) -> bool {
    let namespace =
        |process: &str| fs::metadata(format!("/proc/{process}/ns/net")).map(|found| found.ino()).ok();
    let theirs = namespace(&pid.to_string());
    theirs.is_some() && theirs != namespace("self")
}

/// Credentials of a process, as the kernel would give them to the daemon.
pub(super) struct Credentials {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
}

impl Credentials {
    /// Effective ids and supplementary groups in the text of /proc/PID/status
    /// (proc_pid_status(5)).
    pub(super) fn of_status(status: &str) -> Option<Self> {
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect()
        };
        Some(Self {
            uid: *numbers("Uid")?.get(1)?,
            gid: *numbers("Gid")?.get(1)?,
            groups: numbers("Groups")?,
        })
    }
}

/// Maximum number of bytes that are read of a file (4 MiB).
const LONGEST: u64 = 4 * 1024 * 1024;
