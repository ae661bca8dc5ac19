//! A real daemon.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::SingleCertAndKey;
use tempfile::TempDir;

use crate::pki::plain_key;
use crate::server::Site;
use crate::tool::{self, Process};
use crate::{Backend, OpenSsl, UnitServer, Units, built, scratch};

/// A daemon with its own state, runtime directory and configuration.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    /// The remote unit that was started for this daemon.
    unit: Option<UnitServer>,
    /// The peers' socket, if the test holds it instead of the daemon.
    socket: Option<UnixListener>,
    backend: Backend,
    /// The section of the backend, if there is one. Every configuration contains it.
    section: String,
    /// More variables of the environment.
    environment: Vec<(String, PathBuf)>,
    /// True for `--dev`.
    is_dev: bool,
    /// The program that runs the daemon, with its arguments. Empty if the daemon runs by itself.
    runner: Vec<String>,
    /// The socket between the daemon and this process in the place of a starter, with both ends.
    link: Option<(UnixStream, UnixStream)>,
    directory: TempDir,
}

impl Daemon {
    /// Starts a daemon whose grants let the users of servers use every key as TLS servers.
    pub fn start() -> Self {
        Self::start_on(Backend::Embedded)
    }

    /// Starts a daemon with more lines at the end of the configuration; see [`Daemon::start`].
    pub fn start_with(configuration: &str) -> Self {
        let mut daemon = Self::prepare(configuration);
        daemon.resume();
        daemon
    }

    /// Starts a daemon on a backend; see [`Daemon::start`]. A remote unit is started too, and ends
    /// with this value.
    pub fn start_on(backend: Backend) -> Self {
        let mut daemon = Self::prepare_on(backend, "");
        daemon.resume();
        daemon
    }

    /// Prepares a daemon that does not run yet.
    pub fn prepare(configuration: &str) -> Self {
        Self::prepare_on(Backend::Embedded, configuration)
    }

    /// Prepares a daemon whose unit waits for its owners; see [`Daemon::prepare`].
    pub fn prepare_for_owners(configuration: &str) -> Self {
        Self { is_dev: false, ..Self::prepare(configuration) }
    }

    /// Starts a daemon whose unit has its master key from the file `master.key`; see
    /// [`Daemon::start`].
    pub fn start_with_master_key() -> Self {
        let mut daemon = Self { is_dev: false, ..Self::prepare("") };
        let file = daemon.path("master.key");
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        let key = tool::succeed(Command::new("openssl").args(["rand", "-hex", "32"]));
        made.and_then(|mut made| made.write_all(key.as_bytes())).expect("the master key");
        daemon.configure_more(&format!("[embedded]\nmaster-key = {file:?}\n"));
        daemon.resume();
        daemon
    }

    /// Prepares a daemon on a backend whose remote unit already runs; see [`Daemon::prepare`].
    pub fn prepare_on(backend: Backend, configuration: &str) -> Self {
        let directory = scratch();
        let (unit, section) = match backend {
            Backend::Embedded => (None, String::new()),
            Backend::Grep11 => {
                let units = Units::new(&directory.path().join("units"));
                let unit = units.start("unit", &[]);
                let section = units.section(&[unit.address()], "");
                (Some(unit), section)
            }
        };
        Self::assemble(directory, backend, unit, section, configuration)
    }

    /// Starts a daemon whose unit takes this time for each call.
    pub fn start_slow(latency: &str) -> Self {
        let mut daemon = Self::prepare_slow(latency);
        daemon.resume();
        daemon
    }

    /// Prepares the daemon of [`Daemon::start_slow`].
    pub fn prepare_slow(latency: &str) -> Self {
        Self::prepare_slow_with(latency, "in-flight = 256\n")
    }

    /// Prepares the daemon of [`Daemon::start_slow`] with more settings of the backend.
    pub fn prepare_slow_with(latency: &str, settings: &str) -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let unit = units.start("unit", &["--simulate-latency", latency]);
        let section = units.section(&[unit.address()], settings);
        Self::assemble(directory, Backend::Grep11, Some(unit), section, "")
    }

    /// Prepares a daemon with its keys in units that the test starts and stops; see
    /// [`Units::section`].
    pub fn prepare_for_units(section: String, configuration: &str) -> Self {
        Self::assemble(scratch(), Backend::Grep11, None, section, configuration)
    }

    fn assemble(
        directory: TempDir,
        backend: Backend,
        unit: Option<UnitServer>,
        section: String,
        configuration: &str,
    ) -> Self {
        let daemon = Self {
            process: None,
            unit,
            socket: None,
            backend,
            section,
            environment: Vec::new(),
            is_dev: true,
            runner: Vec::new(),
            link: None,
            directory,
        };
        let users: String = crate::server::users()
            .iter()
            .map(|uid| format!("[[grant]]\nuid = {uid}\nkeys = [\"*\"]\nuses = [\"tls-server\"]\n"))
            .collect();
        daemon.configure(&format!("log = \"debug\"\n{users}{configuration}"));
        daemon
    }

    /// Sets an environment variable of each daemon that is started from now on.
    pub fn set_variable(&mut self, name: &str, path: PathBuf) {
        self.environment.push((name.to_owned(), path));
    }

    /// Runs each daemon that is started from now on under another program, which gets the command,
    /// for example a debugger.
    pub fn run_by(&mut self, runner: Vec<String>) {
        self.runner = runner;
    }

    /// Runs each daemon that is started from now on as a child of this thread, without a starter,
    /// under a program that cannot follow a starter to the daemon: valgrind has no /proc/self/exe.
    pub fn run_without_starter_by(&mut self, runner: Vec<String>) {
        self.run_by(runner);
        self.link = Some(UnixStream::pair().expect("a pair of sockets"));
    }

    /// Writes a new configuration file. The section of the backend comes last.
    pub fn configure(&self, text: &str) {
        fs::write(self.path("keyward.toml"), format!("{text}{}", self.section)).expect("the configuration");
    }

    /// Adds lines to the configuration file.
    pub fn configure_more(&self, text: &str) {
        let file = OpenOptions::new().append(true).open(self.path("keyward.toml"));
        file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the configuration");
    }

    /// Holds the peers' socket, as systemd does, and passes it to each daemon that is started from
    /// now on.
    pub fn hold_socket(&mut self) {
        fs::create_dir_all(self.path("run")).expect("the runtime directory");
        let listener = UnixListener::bind(self.socket()).expect("the peers' socket");
        fs::set_permissions(self.socket(), Permissions::from_mode(0o666)).expect("chmod");
        self.socket = Some(listener);
    }

    /// Starts the daemon on its present state, and waits until the daemon is ready.
    pub fn resume(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let notify = self.path("notify.sock");
        let _ = fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).expect("a socket for the readiness message");
        ready.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let mut words: Vec<OsString> = self.runner.iter().map(OsString::from).collect();
        if self.socket.is_some() {
            // sd_listen_fds(3): descriptor 3, and the id of the process that owns it.
            let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
            words.extend(["sh", "-c", script, "sh"].map(OsString::from));
        }
        words.push(built("keyward").into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let mut input = self.socket.as_ref().map_or_else(Stdio::null, |socket| {
            OwnedFd::from(socket.try_clone().expect("a second handle")).into()
        });
        if let Some((_, link)) = &self.link {
            command.env("KEYWARD_STARTED", "1");
            input = OwnedFd::from(link.try_clone().expect("a second handle")).into();
        }
        command.args(["serve", "--config"]).arg(self.path("keyward.toml"));
        command.args(self.is_dev.then_some("--dev"));
        command.arg("--state-dir").arg(self.path("state")).arg("--runtime-dir").arg(self.path("run"));
        command.env("NOTIFY_SOCKET", &notify);
        command.envs(self.environment.iter().map(|(name, path)| (name, path)));
        let process = Process::start_with(&mut command, input, &self.path("daemon.log"));
        let mut message = [0; 4096];
        loop {
            let got = match ready.recv(&mut message) {
                Ok(got) => got,
                // As on a machine whose processes are stopped and continued (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("not ready, {error}:\n{}", self.log()),
            };
            if message[..got].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                break;
            }
        }
        self.process = Some(process);
    }

    /// Starts the daemon as an operator runs it: at info level, which logs nothing for each
    /// request.
    pub fn start_quiet(&mut self) {
        let path = self.path("keyward.toml");
        let text = fs::read_to_string(&path).expect("the configuration");
        fs::write(path, text.replacen("\"debug\"", "\"info\"", 1)).expect("the configuration");
        self.resume();
    }

    /// Kills the daemon, like a crash.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("a running daemon");
        process.kill_daemon();
        process.wait();
    }

    /// Ends the daemon as an operator does, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running daemon");
        process.signal(Signal::TERM);
        process.wait()
    }

    /// Makes the daemon read its configuration again, and waits until it has.
    pub fn reload(&self) {
        let reloaded = || self.logged(&["configuration reloaded"]);
        let before = reloaded();
        self.process.as_ref().expect("a running daemon").signal(Signal::HUP);
        tool::wait_for("a reload", || (reloaded() > before).then_some(()));
    }

    /// Makes the daemon replace itself by the program that is now at its path, and waits until it
    /// has.
    pub fn upgrade(&self) {
        let ready = || self.logged(&[" ready version="]);
        let before = ready();
        self.process.as_ref().expect("a running daemon").signal(Signal::USR2);
        tool::wait_for("an upgrade", || (ready() > before).then_some(()));
    }

    /// Asserts that there were this many requests over the peers' socket, and that each was the
    /// only signature of a handshake.
    pub fn assert_one_request_each(&self, handshakes: usize) {
        let signatures = self.logged(&["outcome=done", "purpose=tls1"]);
        assert_eq!(signatures, handshakes, "{}", self.log());
        assert_eq!(self.status()["requests"], handshakes, "requests of every kind");
    }

    /// Process id of the daemon itself, not of its starter.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("a running daemon").daemon()
    }

    /// The remote unit that was started for the daemon.
    pub fn unit(&self) -> Option<&UnitServer> {
        self.unit.as_ref()
    }

    /// A path in the daemon's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The daemon's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The socket for peers.
    pub fn socket(&self) -> PathBuf {
        self.path("run/keyward.sock")
    }

    /// Log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Number of lines of the log that contain all of `words`.
    pub fn logged(&self, words: &[&str]) -> usize {
        self.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// The command line, pointed at this daemon.
    pub fn keyward(&self, words: &[&str]) -> Command {
        let mut command = Command::new(built("keyward"));
        command.args(words).arg("--runtime-dir").arg(self.path("run"));
        command
    }

    /// A shell that runs a command line from an error message, unchanged.
    pub fn shell(&self, line: &str) -> Command {
        let program = built("keyward");
        let path = std::env::var("PATH").unwrap_or_default();
        let directory = program.parent().expect("a file has a directory").display();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", format!("{directory}:{path}"));
        command
    }

    /// The daemon's status, from the administrators' socket.
    pub fn status(&self) -> serde_json::Value {
        let (status, text) = self.get("/v1/status");
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The sum of a metric over all sets of labels that have each of `labels`, as in
    /// `phase="unit"`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, page) = self.get("/metrics");
        let values = page.lines().filter_map(|line| {
            let (those, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            let wanted = labels.iter().all(|label| those.split(',').any(|one| one == *label));
            wanted.then(|| value.parse::<f64>().expect("a number"))
        });
        values.sum()
    }

    /// Makes a GET request on the administrators' socket. Returns the status of HTTP and the body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let answer = tool::succeed(
            self.curl().args(["--write-out", "\n%{http_code}"]).arg(format!("http://localhost{path}")),
        );
        let (body, status) = answer.rsplit_once('\n').expect("a status behind the body");
        (status.parse().expect("a status"), body.to_owned())
    }

    /// curl, pointed at the administrators' socket.
    pub fn curl(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--unix-socket"]).arg(self.path("run/admin.sock"));
        command
    }

    /// The command line that makes a key on the backend: `key generate` or `key import` with more
    /// words.
    pub fn new_key(&self, words: &[&str]) -> Command {
        let mut command = self.keyward(&[&["key"], words].concat());
        command.args(self.backend.words());
        command
    }

    /// Generates a key for TLS servers.
    pub fn generate(&self, label: &str, key_type: &str) {
        tool::succeed(&mut self.new_key(&["generate", label, "--type", key_type]));
    }

    /// Deletes a key, and destroys it at once.
    pub fn destroy(&self, label: &str) {
        tool::succeed(&mut self.keyward(&["key", "delete", label, "--yes", "--force"]));
        tool::succeed(&mut self.keyward(&["key", "purge", label, "--yes"]));
    }

    /// Generates a key for one use.
    pub fn generate_for(&self, label: &str, key_type: &str, usage: &str) {
        tool::succeed(&mut self.new_key(&["generate", label, "--type", key_type, "--use", usage]));
    }

    /// Imports a plain key for TLS servers, and returns its file. Every import of a type has the
    /// same key.
    pub fn import(&self, label: &str, key_type: &str) -> PathBuf {
        self.import_with(label, key_type, &[])
    }

    /// Imports a plain key for one use; see [`Daemon::import`].
    pub fn import_for(&self, label: &str, key_type: &str, usage: &str) -> PathBuf {
        self.import_with(label, key_type, &["--use", usage])
    }

    fn import_with(&self, label: &str, key_type: &str, more: &[&str]) -> PathBuf {
        let path = self.path(&format!("{label}.key"));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(plain_key(key_type).as_bytes())).expect("a key file");
        let words = ["import", label, "--in", path.to_str().expect("a path in UTF-8")];
        tool::succeed(&mut self.new_key(&[&words, more].concat()));
        path
    }

    /// Writes the reference to a key into a file.
    pub fn reference(&self, label: &str) -> PathBuf {
        let pem = tool::succeed(&mut self.keyward(&["key", "reference", label]));
        let path = self.path(&format!("{label}.ref.pem"));
        fs::write(&path, pem).expect("the reference");
        path
    }

    /// A client of this daemon for programs on rustls.
    pub fn for_rustls(&self) -> keyward_rustls::Keyward {
        let socket = self.socket();
        keyward_rustls::Keyward::at(socket.to_str().expect("a path in UTF-8")).expect("a socket")
    }

    /// A key of this daemon with its certificates for programs on rustls, from the files of a site.
    pub fn key_for_rustls(&self, site: &Site) -> Arc<SingleCertAndKey> {
        let certificates = CertificateDer::pem_file_iter(&site.certificate).expect("certificates");
        let certificates = certificates.collect::<Result<_, _>>().expect("certificates");
        let key = self.for_rustls().key_from_pem_file(&site.key).expect("a reference");
        key.with_certificates(certificates).expect("certificates of the key")
    }

    /// The shipped openssl.cnf, with the provider for this daemon in the system's OpenSSL.
    pub fn openssl_conf(&self) -> PathBuf {
        self.openssl_conf_of(OpenSsl::System)
    }

    /// The openssl.cnf for an OpenSSL. Versions with the same major number share the file.
    pub fn openssl_conf_of(&self, openssl: OpenSsl) -> PathBuf {
        let path = self.path(&format!("openssl-{}.cnf", openssl.major()));
        // Written only once, because a running program may be reading the file.
        if !path.exists() {
            let shipped = include_str!("../../conf/openssl.cnf");
            let text = self.settings_of_provider(openssl).iter().fold(
                shipped.to_owned(),
                |text, [place, setting]| {
                    assert_eq!(text.matches(place).count(), 1, "{place:?} in conf/openssl.cnf");
                    text.replace(place, setting)
                },
            );
            fs::write(&path, text).expect("openssl.cnf");
        }
        path
    }

    /// The smallest openssl.cnf for an OpenSSL, without the settings of the system.
    pub fn least_openssl_conf(&self, openssl: OpenSsl) -> String {
        let [[_, module], [_, socket]] = self.settings_of_provider(openssl);
        format!(
            "openssl_conf = openssl_init\n\
             [openssl_init]\nproviders = providers\n\
             [providers]\ndefault = default_provider\nkeyward = keyward_provider\n\
             [default_provider]\nactivate = 1\n\
             [keyward_provider]\nactivate = 1\n{module}\n{socket}\n"
        )
    }

    /// The lines of the shipped openssl.cnf about module and socket, and the lines for this
    /// daemon.
    fn settings_of_provider(&self, openssl: OpenSsl) -> [[String; 2]; 2] {
        // A copy that the users of servers can reach, wherever the build directory is.
        let module = self.path(if openssl.major() == 3 { "keyward.so" } else { "keyward-4.so" });
        if !module.exists() {
            fs::copy(openssl.provider(), &module).expect("the provider");
        }
        [
            ["module = keyward.so".to_owned(), format!("module = {}", module.display())],
            [
                "# socket = /run/keyward/keyward.sock".to_owned(),
                format!("socket = {}", self.socket().display()),
            ],
        ]
    }

    /// The program of an OpenSSL with the provider.
    pub fn openssl_of(&self, openssl: OpenSsl, words: &[&str]) -> Command {
        let mut command = openssl.program(words);
        command.env("OPENSSL_CONF", self.openssl_conf_of(openssl));
        command
    }

    /// The openssl program of the system with the provider.
    pub fn openssl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.args(words).env("OPENSSL_CONF", self.openssl_conf());
        command
    }
}
