//! A daemon with directories of its own.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use keyward_client::{Address, Client, Error, Input, Signature};
use keyward_proto::message::{Request, Response};
use keyward_proto::{Label, Outcome, Scheme, frame};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) struct Daemon {
    directory: TempDir,
    child: Option<Child>,
    notify: UnixDatagram,
}

impl Daemon {
    /// A daemon that is not started.
    pub(crate) fn prepare(configuration: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        // The first start with a store of an older format takes its time with many keys.
        notify.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let daemon = Self { directory, child: None, notify };
        daemon.configure(configuration);
        daemon
    }

    /// A daemon that runs with `--dev`.
    pub(crate) fn dev(configuration: &str) -> Self {
        let mut daemon = Self::prepare(configuration);
        daemon.start(&["--dev"]);
        daemon
    }

    /// A daemon with a master key, and grants for the user who runs the test. That user is manager
    /// and purger.
    pub(crate) fn production(grants: &[(&str, &str)]) -> Self {
        let mut daemon = Self::prepare("");
        daemon.new_master_key();
        let uid = rustix::process::getuid().as_raw();
        let role = format!("[[role]]\nrole = \"purger\"\nuid = {uid}\n");
        daemon.configure(&(daemon.production_configuration(grants) + &role));
        daemon.start(&[]);
        daemon
    }

    pub(crate) fn production_configuration(&self, grants: &[(&str, &str)]) -> String {
        let uid = rustix::process::getuid().as_raw();
        let mut text = format!("[embedded]\nmaster-key = {:?}\n", self.path("master.key"));
        for (keys, uses) in grants {
            text += &format!("[[grant]]\nuid = {uid}\nkeys = [{keys:?}]\nuses = [{uses:?}]\n");
        }
        text
    }

    pub(crate) fn new_master_key(&self) {
        self.new_key("master.key");
    }

    /// 32 random bytes in a file for its owner alone.
    pub(crate) fn new_key(&self, name: &str) {
        let path = self.path(name);
        let _ = fs::remove_file(&path);
        let mut random = [0; 32];
        File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).unwrap();
        writeln!(file, "{hex}").unwrap();
    }

    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("keyward.toml"), text).unwrap();
    }

    /// Command that starts the daemon.
    pub(crate) fn serve(&self, more: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--config").arg(self.path("keyward.toml"));
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.path("run"));
        command.args(more);
        command
    }

    /// Command that starts the daemon with `--dev`, and with a directory on a disk of some size.
    /// Only the daemon sees the disk, which is gone when the daemon ends.
    pub(crate) fn serve_on_disk(&self, directory: &str, size: &str) -> Command {
        self.on_disk(&self.serve(&["--dev"]), directory, size)
    }

    /// Command that runs `serve` with a directory on a disk of some size, as
    /// [`Self::serve_on_disk`] does.
    pub(crate) fn on_disk(&self, serve: &Command, directory: &str, size: &str) -> Command {
        let mut shell = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size={size},mode=700 none \"$0\" && exec \"$@\"");
        shell.args(["--mount", "sh", "-c", &script]).arg(self.path(directory));
        shell.arg(serve.get_program()).args(serve.get_args());
        shell
    }

    /// Starts the daemon and waits until it is ready.
    pub(crate) fn start(&mut self, more: &[&str]) {
        self.start_as(&mut self.serve(more));
    }

    pub(crate) fn start_as(&mut self, command: &mut Command) {
        self.start_with_input(command, Stdio::null());
    }

    pub(crate) fn start_with_input(&mut self, command: &mut Command, input: Stdio) {
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        command.env("NOTIFY_SOCKET", self.path("notify")).stderr(log).stdin(input);
        self.child = Some(command.spawn().unwrap());
        self.await_ready();
    }

    /// Waits until the daemon reports that it is ready.
    pub(crate) fn await_ready(&self) {
        let mut message = [0; 1024];
        loop {
            let length = match self.notify.recv(&mut message) {
                Ok(length) => length,
                // A machine that stops and continues its processes interrupts the call, too
                // (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("not ready, {error}:\n{}", self.log()),
            };
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return;
            }
        }
    }

    /// Waits until the log of the daemon has these words.
    pub(crate) fn await_log(&self, words: &str) {
        self.await_log_times(words, 1);
    }

    /// Waits until the log of the daemon has these words `times` times.
    pub(crate) fn await_log_times(&self, words: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.log().matches(words).count() < times {
            assert!(Instant::now() < deadline, "no {words:?} in: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal, as a supervisor does. SIGKILL is a crash of the daemon itself.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = if signal == Signal::KILL { self.daemon_pid() } else { self.pid() };
        kill_process(pid, signal).unwrap();
    }

    /// Process that was started: the starter of the daemon.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Process of the daemon itself: the oldest child of the starter.
    pub(crate) fn daemon_pid(&self) -> Pid {
        *children(self.pid()).first().unwrap()
    }

    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.child.take().unwrap().wait().unwrap()
    }

    /// Waits for the end of a daemon that was sent SIGKILL.
    pub(crate) fn end_of_killed(&mut self) -> ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    pub(crate) fn end_if_running(&mut self) {
        if self.child.is_some() {
            self.end(Signal::TERM);
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Runs a command of the command line.
    pub(crate) fn keyward(&self, words: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(words).arg("--runtime-dir").arg(self.path("run")).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Runs a command that succeeds. Returns the output.
    pub(crate) fn succeed(&self, words: &[&str]) -> String {
        let output = self.keyward(words);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let [stdout, stderr] = [text(&output.stdout), text(&output.stderr)];
        assert!(output.status.success(), "{words:?}: {stderr}{stdout}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Deletes a key, and destroys it at once.
    pub(crate) fn destroy(&self, label: &str) {
        self.succeed(&["key", "delete", label, "--yes", "--force"]);
        self.succeed(&["key", "purge", label, "--yes"]);
    }

    /// Runs a command that fails. Returns the status and the line of the error.
    pub(crate) fn fail(&self, words: &[&str]) -> (i32, String) {
        failure_of(&self.keyward(words))
    }

    /// Sends a request to the administrators' socket. Returns the status and the body.
    pub(crate) fn http(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.path("run/admin.sock"))?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        // The daemon refuses a body that is too long before all of it is sent. Then writing fails,
        // or reading after the answer.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        if answer.is_empty() {
            read?;
        }
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(ErrorKind::UnexpectedEof)?;
        Ok((status, answer.split_once("\r\n\r\n").unwrap_or_default().1.to_owned()))
    }

    pub(crate) fn client(&self) -> Client {
        let address = Address::try_from(self.path("run/keyward.sock").as_path()).unwrap();
        Client::new(address, Duration::from_secs(10))
    }

    /// Signs a message with a P-256 key.
    pub(crate) fn sign(&self, label: &str, message: &[u8]) -> Result<Signature, Error> {
        self.client().sign(&label_of(label), Scheme::EcdsaSecp256r1Sha256, Input::Message(message))
    }

    /// The outcome of signing a message with a P-256 key.
    pub(crate) fn outcome(&self, label: &str, message: &[u8]) -> Outcome {
        outcome(self.sign(label, message))
    }

    /// Number of times that the thread of a processor has waited for work.
    pub(crate) fn switches(&self, processor: u32) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.daemon_pid().as_raw_nonzero())).unwrap();
        let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
        let name = format!("Name:\tpeers-{processor}\n");
        let status = status.filter(|status| status.starts_with(&name)).last().unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:\t"));
        count.unwrap().parse().unwrap()
    }

    /// A connection for frames.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path("run/keyward.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Children of a process, from the oldest.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_keyward");

/// Library of the Debian package faketime. The command of the package is of no use here: its name
/// for shared memory has the process id alone, a killed program leaves the memory behind, and the
/// command fails when an id comes again.
pub(crate) const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Status and error line of a program that failed.
pub(crate) fn failure_of(output: &Output) -> (i32, String) {
    assert!(!output.status.success());
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    (output.status.code().unwrap(), line)
}

pub(crate) fn outcome<T>(result: Result<T, Error>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(Error::Refused(outcome)) => outcome,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn label_of(text: &str) -> Label {
    text.parse().unwrap()
}

/// Message that a server signs in TLS 1.3.
pub(crate) fn certificate_verify() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[7; 32]].concat()
}

pub(crate) fn send(stream: &mut UnixStream, request: &Request) {
    stream.write_all(&frame::encode(request).unwrap()).unwrap();
}

pub(crate) fn receive(stream: &mut UnixStream) -> Response {
    let mut header = [0; frame::HEADER];
    stream.read_exact(&mut header).unwrap();
    let mut body = vec![0; frame::body_length(header).unwrap()];
    stream.read_exact(&mut body).unwrap();
    frame::decode(&body).unwrap()
}

/// True if the daemon has closed a connection without another answer.
pub(crate) fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// True if the tests run as root, and so can act as other users. Otherwise notes the calling test
/// in `target/left-out`, which `make test` prints at its end.
#[track_caller]
pub(crate) fn has_root() -> bool {
    let has_root = rustix::process::geteuid().is_root();
    if !has_root {
        leave_out("needs root");
    }
    has_root
}

/// Notes the calling test, which cannot do its work here, in `target/left-out`.
#[track_caller]
pub(crate) fn leave_out(reason: &str) {
    let (thread, place) = (std::thread::current(), std::panic::Location::caller());
    let line = format!("{} ({place}): {reason}\n", thread.name().unwrap_or("test"));
    eprint!("left out: {line}");
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/left-out");
    let mut list = File::options().append(true).create(true).open(list).unwrap();
    list.write_all(line.as_bytes()).unwrap();
}
