//! Confinement: the process gives up what the daemon does not need.
//!
//! Somebody who takes the process over, by a fault in its code, then still cannot read the files of
//! others, start programs, look into other processes or send data away. [`files`] restricts files
//! and the network by Landlock (landlock(7)), [`calls`] restricts system calls (seccomp(2)), and
//! [`memory`] keeps the memory out of the swap space. [`observed`] asks the kernel what is in
//! force, for people.
//!
//! The restrictions hold for the calling thread and for every thread that it starts later. An older
//! kernel can do less, which is no error.

mod calls;
mod files;
mod memory;
mod observed;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::thread::set_no_new_privs;

use crate::names;
pub use observed::{Measure, observe};

/// Needs of the process from now on.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Directories whose files the process makes, changes and removes.
    pub change: Vec<PathBuf>,
    /// Directories in which the process binds sockets.
    pub bind: Vec<PathBuf>,
    /// Files that the process may read again. Other files in their directories can be read too,
    /// because a program that changes a file puts a new one in its place.
    pub read: Vec<PathBuf>,
    /// Directories whose files the process reads.
    pub read_below: Vec<PathBuf>,
    /// Hosts whose addresses the process needs.
    pub hosts: Vec<String>,
    /// TCP ports to which the process connects. Without one, the process makes no network sockets.
    pub ports: BTreeSet<u16>,
    /// True if the process sends to abstract sockets (unix(7)).
    pub sends_to_abstract: bool,
}

/// Record of the confinement at the start.
#[derive(Debug)]
struct Confined {
    needs: Needs,
    files: files::Enforced,
    /// The reason why the memory is not locked.
    unlocked: Option<String>,
    /// The reason why system calls are not filtered.
    unfiltered: Option<String>,
}

static CONFINED: OnceLock<Confined> = OnceLock::new();

/// Confines the process. Call this while the process has one thread, before it reads its first
/// secret. Later threads are confined too.
///
/// # Errors
/// The helper that looks up names cannot be started. Restrictions that the kernel does not have are
/// no error.
pub fn confine(needs: Needs) -> io::Result<()> {
    // Before the restrictions: the helper reads what this process may not read.
    names::start_helper(&needs.hosts)?;
    let unlocked = memory::lock().err();
    // Landlock and seccomp need it, and a kernel without them has it too.
    let _ = set_no_new_privs(true);
    let files = files::restrict(&needs);
    let unfiltered = calls::filter(!needs.ports.is_empty()).err();
    // A second call has no effect on the report.
    let _ = CONFINED.set(Confined { needs, files, unlocked, unfiltered });
    names::start_reader()
}

/// The file, if this process may not read it, because the file is outside of the directories that
/// the configuration named when the process confined itself.
pub fn is_out_of_reach(file: &Path) -> bool {
    CONFINED
        .get()
        .is_some_and(|confined| confined.files.is_in_force() && !files::reaches(&confined.needs, file))
}

/// Advice for a directory that was made again after the start: the process cannot use it.
pub fn advice_for_new_directory() -> &'static str {
    match CONFINED.get().is_some_and(|confined| confined.files.is_in_force()) {
        true => {
            "; if a directory was made again, or is new, restart the daemon: its confinement holds for the directories that were there at its start"
        }
        false => "",
    }
}
