//! The `attacker` program, run as a user of the test's choice. Only root can do that.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::{Daemon, has_root, own_build};

/// A running attacker, which is killed when this is dropped.
#[derive(Debug)]
pub struct Attacker {
    child: Child,
    /// Standard input of the attacker. Closing it ends the attacker.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Attacker {
    /// Starts an attacker in a mode, with the settings of its module doc. Waits until the attacker
    /// is at work.
    pub fn start(daemon: &Daemon, uid: u32, mode: &str, settings: &str) -> Self {
        let mut attacker = Self::spawn(daemon, uid, mode, settings);
        attacker.expect("ready");
        attacker
    }

    /// Starts an attacker that waits for [`Attacker::release`] before it goes to work.
    pub fn hold(daemon: &Daemon, uid: u32, mode: &str, settings: &str) -> Self {
        let mut attacker = Self::spawn(daemon, uid, mode, &format!("hold=yes {settings}"));
        attacker.expect("held");
        attacker
    }

    /// Lets a held attacker begin.
    pub fn release(&mut self) {
        self.input.as_mut().and_then(|input| input.write_all(b"\n").ok()).expect("its input");
        self.expect("ready");
    }

    fn spawn(daemon: &Daemon, uid: u32, mode: &str, settings: &str) -> Self {
        // The program of this build, even if the daemon is of another build.
        let mut command = Command::new(own_build().join("attacker"));
        command.arg(mode).arg(format!("uid={uid}")).arg(format!("socket={}", daemon.socket().display()));
        command.args(settings.split_whitespace());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("an attacker");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, input, output }
    }

    fn expect(&mut self, expected: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output");
        assert_eq!(line.trim_end(), expected);
    }

    /// Ends the attacker, and returns its report.
    pub fn stop(mut self) -> Value {
        self.input = None;
        self.wait()
    }

    /// Waits until the attacker ends by itself, and returns its report.
    pub fn wait(mut self) -> Value {
        let mut text = String::new();
        self.output.read_to_string(&mut text).expect("its output");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("no report, {error}: {text}"))
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Turn of a test that measures: no other test of the same program runs meanwhile.
#[derive(Debug)]
pub struct Turn {
    /// Nice value of this session's autogroup before the turn.
    nice: Option<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Turn {
    /// Waits for the turn; `None` without root, because only root can act as other users.
    #[track_caller]
    pub fn take() -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        if !has_root() {
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // The text is like "/autogroup-27 nice 0" (sched(7)). Without the change, the test would
        // also measure other work on the machine.
        let before = fs::read_to_string(AUTOGROUP).unwrap_or_default();
        let nice = before.trim_end().rsplit(' ').next().map(str::to_owned);
        let _ = fs::write(AUTOGROUP, "-15");
        Some(Self { nice, _alone: alone })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(nice) = &self.nice {
            let _ = fs::write(AUTOGROUP, nice);
        }
    }
}

const AUTOGROUP: &str = "/proc/self/autogroup";

/// Number of answers with this outcome in a report.
pub fn outcomes(report: &Value, outcome: &str) -> u64 {
    report["outcomes"][outcome].as_u64().unwrap_or(0)
}

/// The user id of a user of this machine.
pub fn uid_of(user: &str) -> u32 {
    nix::unistd::User::from_name(user).expect("users").expect("a user").uid.as_raw()
}

/// True if the long forms of tests are to run: `make soak`.
pub fn is_soak() -> bool {
    std::env::var_os("KEYWARD_SOAK").is_some()
}
