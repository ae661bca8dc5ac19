//! Processes of servers on this host, as /proc has them (proc(5)).

use std::fs;
use std::path::{Path, PathBuf};

/// A process of a server that has no parent of the same program: the one that takes signals.
#[derive(Clone, Debug)]
pub(crate) struct Master {
    pub(crate) pid: i32,
    /// Path of its program.
    pub(crate) program: PathBuf,
    /// Arguments, without the name of the program.
    pub(crate) arguments: Vec<String>,
    /// Working directory, for paths in the arguments.
    pub(crate) directory: PathBuf,
}

/// Processes whose program has this file name, and whose parent is another program. Processes in
/// containers of their own are left out: their paths are not those of this host.
pub(crate) fn masters(program: &str) -> Vec<Master> {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_program = |pid: i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        // A program that was replaced by a package has another file now.
        let name = exe.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
        (name == program).then(|| exe.with_file_name(&name))
    };
    pids.filter_map(|pid| {
        let exe = is_program(pid)?;
        let parent = parent(pid)?;
        if is_program(parent).is_some() || fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() != own {
            return None;
        }
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words: Vec<_> = arguments
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        Some(Master {
            pid,
            program: exe,
            arguments: words,
            directory: fs::read_link(format!("/proc/{pid}/cwd")).ok()?,
        })
    })
    .collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in brackets, may have spaces.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

impl Master {
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
