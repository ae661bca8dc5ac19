//! A pseudo-terminal on which a program asks a person.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

pub(crate) struct Terminal {
    master: File,
    child: Child,
    /// Everything that the screen has shown.
    screen: String,
    /// Length of the part of the screen that the person has read.
    read: usize,
}

impl Terminal {
    /// Runs the program on a terminal of 80 columns, in a shell whose controlling terminal this is.
    pub(crate) fn run(directory: &Path, words: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        tcsetwinsize(&slave, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let side = || Stdio::from(slave.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "sh", "-c", SHELL, "sh", crate::fixture::PROGRAM]);
        command.args(words).current_dir(directory);
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().unwrap();
        Self { master: master.into(), child, screen: String::new(), read: 0 }
    }

    /// Waits until the screen shows these words. Returns what the screen has shown before them,
    /// since the last words that were waited for.
    pub(crate) fn await_words(&mut self, words: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let new = &self.screen[self.read..];
            if let Some(at) = new.find(words) {
                let before = new[..at].to_owned();
                self.read += at + words.len();
                return before;
            }
            assert!(self.shows_more(deadline), "no {words:?} on the screen:\n{}", self.screen);
        }
    }

    /// Waits for a question, and types an answer. Returns what the screen has shown before.
    pub(crate) fn answer(&mut self, question: &str, answer: &str) -> String {
        let before = self.await_words(question);
        self.type_keys(&format!("{answer}\n"));
        before
    }

    pub(crate) fn type_keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end of the program. Returns its status, and what the screen has shown since
    /// the last words that were waited for.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.shows_more(deadline) {}
        assert!(Instant::now() < deadline, "does not end:\n{}", self.screen);
        let status = self.child.wait().unwrap();
        (status, self.screen[self.read..].to_owned())
    }

    /// True if the terminal shows what is typed.
    pub(crate) fn has_echo(&self) -> bool {
        tcgetattr(&self.master).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Everything that the screen has shown.
    pub(crate) fn screen(&self) -> &str {
        &self.screen
    }

    /// Reads what the program shows next. False if there is nothing until the deadline, or the
    /// program has ended.
    fn shows_more(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        if poll(&mut ready, Some(&left)).unwrap() == 0 {
            return false;
        }
        let mut bytes = [0; 4096];
        let length = match self.master.read(&mut bytes) {
            Ok(length) => length,
            // No process has the other side open.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return false,
            Err(error) => panic!("{error}:\n{}", self.screen),
        };
        self.screen += &String::from_utf8_lossy(&bytes[..length]).replace('\r', "");
        true
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The shell outlives Ctrl-C, and then says whether the terminal shows what is typed. A program
/// that was ended by Ctrl-C has the status 130.
const SHELL: &str = r#"trap : INT
"$@"
status=$?
case "$(stty -a)" in *" -echo "*) echo "echo is off";; *" echo "*) echo "echo is on";; esac
exit $status"#;
