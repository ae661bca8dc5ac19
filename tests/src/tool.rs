//! Programs that run to their end, and processes that end when their value is dropped.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Runs a program to its end and returns what it printed, whatever its status.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"))
}

/// Runs a program that must succeed and returns its standard output.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}{}", output.status, stderr(&output));
    text
}

/// Runs a program that must fail and returns its status and error output.
pub fn fail(command: &mut Command) -> (ExitStatus, String) {
    let output = run(command);
    assert!(!output.status.success(), "{command:?} succeeded:\n{}", String::from_utf8_lossy(&output.stdout));
    (output.status, stderr(&output))
}

/// Runs a command as another user, with only the first group of that user.
pub fn as_user(user: &str, command: &Command) -> Command {
    let mut other = Command::new("setpriv");
    other.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]);
    other.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Library of the Debian package faketime. The command of the package is of no use here: its name
/// for shared memory has the process id alone, a killed program leaves the memory behind, and the
/// command fails when an id comes again.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Variables of a program whose clock is as far from the right time as a file says.
pub fn of_clock(file: &Path) -> [(&'static str, PathBuf); 4] {
    assert!(Path::new(FAKETIME).exists(), "the package faketime is missing");
    [
        ("LD_PRELOAD", FAKETIME.into()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_owned()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ]
}

/// Sets the clock of a command this far from the right time: seconds, or a number with a unit, as
/// in `-60` and `+30d`.
pub fn set_clock(command: &mut Command, distance: &str) {
    assert!(Path::new(FAKETIME).exists(), "the package faketime is missing");
    command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", distance);
}

/// The error output as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Repeats a question until there is an answer.
///
/// # Panics
/// After thirty seconds, naming the missing answer. A server in valgrind takes ten to start on a
/// busy machine.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running program, ended when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program with its output in `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        Self::start_with(command, Stdio::null(), log)
    }

    /// Starts a program with input; see [`Process::start`].
    pub fn start_with(command: &mut Command, input: Stdio, log: &Path) -> Self {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let child = command.stdin(input).stdout(log).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child, name: format!("{command:?}") }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Process id of the daemon that this process has started: its oldest child. Otherwise of this
    /// process, which is the daemon itself.
    pub fn daemon(&self) -> u32 {
        children(self.id()).first().copied().unwrap_or(self.id())
    }

    /// Kills the daemon that this process has started, and so this process.
    pub fn kill_daemon(&self) {
        let pid = Pid::from_raw(self.daemon().cast_signed()).expect("a process id");
        kill_process(pid, Signal::KILL).expect("kill");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for(&format!("the end of {}", self.name), || self.child.try_wait().expect("wait"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.signal(Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if self.is_running() {
                // A process that is killed like this cannot end its children.
                let children = children(self.id());
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                for child in children.into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                    let _ = kill_process(child, Signal::KILL);
                }
            }
        }
    }
}

/// The processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let list = format!("/proc/{parent}/task/{parent}/children");
    let mut text = String::new();
    if let Ok(mut file) = std::fs::File::open(list) {
        let _ = file.read_to_string(&mut text);
    }
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
