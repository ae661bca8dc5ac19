//! A software crypto unit as a GREP11 server, and clients in Python.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::process::Signal;

use crate::built;
use crate::tool::{Process, run, succeed, wait_for};

/// A server on a free port of loopback.
#[derive(Debug)]
pub struct UnitServer {
    process: Process,
    log: PathBuf,
    runtime_dir: PathBuf,
    port: u16,
}

impl UnitServer {
    /// Starts a server with these arguments. Its log is in a directory, under a name.
    pub fn start(directory: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::start_command(Self::command("127.0.0.1:0").args(arguments), directory, name)
    }

    /// Starts a server by a command that makes it listen on a free port of loopback.
    pub fn start_command(command: &mut Command, directory: &Path, name: &str) -> Self {
        let log = directory.join(format!("{name}.log"));
        if !command.get_args().any(|argument| argument == "--state-dir") {
            command.arg("--state-dir").arg(directory.join(format!("{name}.state")));
        }
        let runtime_dir = directory.join(format!("{name}.run"));
        command.arg("--runtime-dir").arg(&runtime_dir);
        // A server of this name may have run before.
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let process = Process::start(command, &log);
        let port = wait_for(&format!("{name} to be ready: {}", log.display()), || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let address = text.get(before..)?.split("listen=127.0.0.1:").nth(1)?;
            address.split_whitespace().next()?.parse().ok()
        });
        Self { process, log, runtime_dir, port }
    }

    /// The command that starts a unit, without transport and master key.
    pub fn command(listen: &str) -> Command {
        let mut command = Command::new(built("keyward"));
        command.args(["unit", "serve", "--listen", listen]);
        command
    }

    /// Address of the listener, with the name in its certificate.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Address of the listener, for a [`Proxy`](crate::Proxy) in between.
    pub fn socket_address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Directory of the administrators' socket.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Process id of the server itself, not of its starter.
    pub fn id(&self) -> u32 {
        self.process.daemon()
    }

    /// Name of the master key of the server.
    pub fn wkid(&self) -> String {
        let log = self.log();
        let wkid = log.split("wkid=").nth(1).and_then(|rest| rest.split_whitespace().next());
        wkid.expect("a line that names the master key").to_owned()
    }

    /// Log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    /// Makes the server read its tokens again, and waits for a new log line that contains `told`.
    pub fn reload(&self, told: &str) {
        let lines = || self.log().lines().filter(|line| line.contains(told)).count();
        let before = lines();
        self.process.signal(Signal::HUP);
        wait_for(&format!("the log to say {told}"), || (lines() > before).then_some(()));
    }

    /// Output of a command of an administrator, also if it fails.
    pub fn keyward(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(built("keyward"));
        let output = command.args(arguments).arg("--runtime-dir").arg(&self.runtime_dir).output();
        let output = output.expect("keyward");
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills the server, like a crash.
    pub fn kill(&mut self) {
        self.process.kill_daemon();
        self.process.wait();
    }

    /// Ends the server as an operator does, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }
}

/// Makes a master key for units, in a file that only its owner can read.
pub fn master_key(path: &Path) {
    succeed(Command::new("openssl").args(["rand", "-hex", "-out"]).arg(path).arg("32"));
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod");
}

/// Clients generated from the project's own .proto.
#[derive(Debug)]
pub struct Python {
    generated: PathBuf,
}

impl Python {
    /// Generates the clients into a directory.
    pub fn generate(directory: &Path) -> Self {
        let generated = directory.join("generated");
        fs::create_dir(&generated).expect("a directory");
        for file in ["proto/grep11/grep11.proto", "tests/grep11/status.proto"] {
            let file = root(file);
            let folder = file.parent().expect("a folder");
            succeed(
                Command::new("protoc").arg("-I").arg(folder).arg("--python_out").arg(&generated).arg(&file),
            );
        }
        Self { generated }
    }

    /// Debian's Python, which has the packages, with the clients on its path.
    pub fn command(&self) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        let paths = [self.generated.clone(), root("tests/grep11")];
        command.env("PYTHONPATH", std::env::join_paths(paths).expect("a path"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        // No HTTP proxy may come between a client and loopback.
        command.env("no_proxy", "*");
        command
    }

    /// Result of one call: see tests/grep11/probe.py.
    pub fn probe(&self, server: &UnitServer, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.arg(root("tests/grep11/probe.py")).arg(server.address()).args(arguments);
        let output = run(&mut command);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{command:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).canonicalize().expect("a file of the project")
}
