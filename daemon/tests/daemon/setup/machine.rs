//! A machine for a setup: its own /etc/systemd/system and /run, its TPM, and a daemon that starts
//! as systemd would start it.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use keyward_proto::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use crate::fixture::{Daemon, PROGRAM, certificate_verify, failure_of, leave_out};

/// A machine without Keyward.
pub(super) struct Machine {
    pub(super) daemon: Daemon,
    /// False for a machine with another init system.
    has_systemd: bool,
    /// The TPM. The systemd programs find no TPM without it.
    pub(super) tpm: Option<Tpm>,
}

impl Machine {
    pub(super) fn new(has_systemd: bool) -> Self {
        let daemon = Daemon::prepare("");
        fs::set_permissions(daemon.path(""), Permissions::from_mode(0o755)).unwrap();
        for name in ["away", "bin", "etc", "systemd"] {
            fs::create_dir(daemon.path(name)).unwrap();
        }
        let machine = Self { daemon, has_systemd, tpm: None };
        let log = machine.path("programs.log");
        // As on a machine without a TPM, even if this one has a TPM.
        machine.program("systemd-creds", &format!(
            "echo \"$0 $*\" >>{log}; [ \"$1\" != has-tpm2 ] || {{ cat {}; exit 11; }}; exec /usr/bin/systemd-creds \"$@\"",
            machine.path("has-tpm2")
        ));
        machine.program("systemctl", &format!("echo \"$0 $*\" >>{log}"));
        machine.announce_tpm(false);
        machine
    }

    /// Replaces a program that the setup runs by a script.
    pub(super) fn program(&self, name: &str, script: &str) {
        let path = self.daemon.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    /// Says whether the kernel has a driver for a TPM.
    pub(super) fn announce_tpm(&self, has_driver: bool) {
        let driver = if has_driver { "+driver" } else { "-driver" };
        fs::write(self.path("has-tpm2"), format!("partial\n-firmware\n{driver}\n+system\n")).unwrap();
    }

    /// A path as text.
    pub(super) fn path(&self, name: &str) -> String {
        self.daemon.path(name).to_str().unwrap().to_owned()
    }

    /// The calls of the programs of the system.
    pub(super) fn calls(&self) -> String {
        fs::read_to_string(self.path("programs.log")).unwrap_or_default()
    }

    /// The command `keyward setup` on this machine.
    pub(super) fn setup(&self, words: &[&str]) -> Command {
        let mut command = self.inside(&[PROGRAM, "setup"]);
        command.arg("--dir").arg(self.daemon.path("etc"));
        command.arg("--state-dir").arg(self.daemon.path("state"));
        command.arg("--runtime-dir").arg(self.daemon.path("run")).args(words);
        command
    }

    /// A command that sees the /etc/systemd/system and the /run of this machine.
    pub(super) fn inside(&self, words: &[&str]) -> Command {
        let systemd = if self.has_systemd { "mkdir -p /run/systemd/system" } else { "true" };
        let script = format!(
            "mount --bind \"$0\" /etc/systemd/system && mount -t tmpfs none /run && {systemd} && exec \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(self.daemon.path("systemd"));
        command.args(words).stdin(Stdio::null());
        self.at(&mut command);
        command
    }

    /// Gives a command the programs, the TPM and the host key of this machine.
    pub(super) fn at<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let program = Path::new(PROGRAM).parent().unwrap();
        let path = format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path("bin"), program.display());
        let tpm = self.tpm.as_ref().map_or(self.daemon.path("none"), Tpm::socket);
        command.env("PATH", path).env("SYSTEMD_CREDENTIAL_SECRET", self.path("host.secret"));
        command.env("SYSTEMD_TPM2_DEVICE", format!("swtpm:path={}", tpm.display()));
        command.env_remove("CREDENTIALS_DIRECTORY")
    }

    /// Sets up, without a start. Returns the report.
    pub(super) fn set_up(&self, words: &[&str]) -> Value {
        let output = self.setup(&[words, &["--no-start", "--json"]].concat()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a setup on a terminal, with answers. Returns true for success, and the text on the
    /// terminal.
    pub(super) fn on_terminal(&self, answers: &str, words: &[&str]) -> (bool, String) {
        let setup = self.setup(&[&["--no-start"], words].concat());
        let words = [setup.get_program()].into_iter().chain(setup.get_args());
        let words: Vec<_> = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut script = Command::new("script");
        script.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        self.at(&mut script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    /// A setup that is refused, and makes nothing. Returns the status and the line of the error.
    pub(super) fn refused(&self, words: &[&str]) -> (i32, String) {
        let before = self.files();
        let failed = failure_of(&self.setup(&[words, &["--no-start"]].concat()).output().unwrap());
        assert_eq!(self.files(), before, "{words:?} made something: {}", failed.1);
        failed
    }

    /// The files of the installation, with their contents.
    pub(super) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut directories = ["away", "etc", "systemd"].map(|name| self.daemon.path(name)).to_vec();
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => directories.push(path),
                    false => found.push((path.clone(), fs::read(&path).unwrap())),
                }
            }
        }
        found.sort();
        found
    }

    pub(super) fn drop_in(&self) -> String {
        let text = fs::read_to_string(self.path("systemd/keyward.service.d/unseal.conf")).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
    }

    /// The command that starts the daemon as the drop-in says. `None` if a credential cannot be
    /// decrypted.
    pub(super) fn service(&self) -> Option<Command> {
        // As in /run/credentials.
        let credentials = self.daemon.path("credentials/keyward.service");
        let _ = fs::remove_dir_all(&credentials);
        fs::create_dir_all(&credentials).unwrap();
        let mut serve = self.serve();
        for line in self.drop_in().lines() {
            if let Some((name, value)) = line.strip_prefix("Environment=").and_then(|set| set.split_once('='))
            {
                serve.env(name, value);
                continue;
            }
            let Some((setting, (name, file))) =
                line.split_once('=').and_then(|(setting, value)| Some((setting, value.split_once(':')?)))
            else {
                continue;
            };
            let credential = credentials.join(name);
            match setting {
                "LoadCredential" => drop(fs::copy(file, &credential).unwrap()),
                "LoadCredentialEncrypted" => {
                    let mut creds = Command::new(CREDS);
                    creds.arg("decrypt").arg(format!("--name={name}")).arg(file).arg(&credential);
                    if !self.at(&mut creds).output().unwrap().status.success() {
                        return None;
                    }
                }
                other => panic!("{other}"),
            }
            fs::set_permissions(credential, Permissions::from_mode(0o400)).unwrap();
        }
        serve.env("CREDENTIALS_DIRECTORY", credentials);
        Some(serve)
    }

    /// The command that starts the daemon without credentials.
    pub(super) fn serve(&self) -> Command {
        let mut serve = Command::new(PROGRAM);
        serve.arg("serve").arg("--config").arg(self.daemon.path("etc/keyward.toml"));
        serve.arg("--state-dir").arg(self.daemon.path("state"));
        serve.arg("--runtime-dir").arg(self.daemon.path("run"));
        serve.env_remove("CREDENTIALS_DIRECTORY");
        serve
    }

    /// Starts the machine, or starts it again, with its service.
    pub(super) fn boot(&mut self) {
        self.daemon.end_if_running();
        // Without the resource manager of the kernel, only a start of the TPM ends the sessions of
        // programs.
        if let Some(tpm) = &mut self.tpm {
            tpm.stop();
            tpm.power_on();
        }
        let mut service = self.service().unwrap_or_else(|| panic!("the credential is not of this machine"));
        self.daemon.start_as(&mut service);
    }

    /// Allows the user of the test to use every key.
    pub(super) fn grant(&self) {
        let uid = rustix::process::getuid().as_raw();
        let grant = format!("[[grant]]\nuid = {uid}\nkeys = [\"*\"]\n");
        let file = self.path("etc/keyward.toml");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &grant).unwrap();
    }

    /// Makes a key in the running daemon, and checks that the key signs after a restart too.
    pub(super) fn assert_starts_alone(&mut self, mut restart: impl FnMut(&mut Self)) {
        self.daemon.succeed(&["key", "generate", "shop", "--type", "p256"]);
        assert_eq!(self.outcome(), Outcome::Done);
        self.daemon.end(Signal::TERM);
        restart(self);
        assert_eq!(self.outcome(), Outcome::Done);
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.daemon.outcome("shop", &certificate_verify())
    }

    /// Exit status and output of a command that looks at the daemon.
    pub(super) fn look(&self, command: &str) -> (i32, String) {
        let mut look = self.inside(&[PROGRAM, command]);
        let output = look.arg("--runtime-dir").arg(self.daemon.path("run")).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }

    /// The word of the daemon for the way in which its unit is opened.
    pub(super) fn opening(&self) -> String {
        let output = self.daemon.keyward(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        status["backends"][0]["opening"].as_str().unwrap().to_owned()
    }
}

/// A software TPM.
pub(super) struct Tpm {
    child: Option<Child>,
    state: PathBuf,
}

impl Tpm {
    /// Starts a TPM of its own. `None` if this machine has no program for that.
    #[track_caller]
    pub(super) fn start(machine: &Machine, name: &str) -> Option<Self> {
        if !Path::new(SWTPM).exists() || !Path::new(CREDS).exists() {
            leave_out("needs swtpm and systemd-creds, which are not installed");
            return None;
        }
        let state = machine.daemon.path(name);
        fs::create_dir(&state).unwrap();
        let mut tpm = Self { child: None, state };
        tpm.power_on();
        Some(tpm)
    }

    fn socket(&self) -> PathBuf {
        self.state.join("socket")
    }

    fn power_on(&mut self) {
        let socket = self.socket();
        let mut swtpm = Command::new(SWTPM);
        swtpm.args(["socket", "--tpm2", "--tpmstate"]).arg(format!("dir={}", self.state.display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}.ctrl", socket.display()));
        swtpm.args(["--flags", "not-need-init,startup-clear"]);
        let log = || File::options().append(true).create(true).open(self.state.join("log")).unwrap();
        self.child = Some(swtpm.stdout(log()).stderr(log()).stdin(Stdio::null()).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while !socket.exists() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(self.state.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.socket());
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// True if systemd can encrypt credentials. Otherwise reports the calling test as left out.
#[track_caller]
pub(super) fn has_systemd_creds() -> bool {
    let is_there = Path::new(CREDS).exists();
    if !is_there {
        leave_out("needs systemd-creds, which is not installed");
    }
    is_there
}

/// Output of a command that succeeds.
pub(super) fn text_of(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

const SWTPM: &str = "/usr/bin/swtpm";
const CREDS: &str = "/usr/bin/systemd-creds";
