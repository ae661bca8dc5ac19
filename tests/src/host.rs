//! `tests/host/host.c`: a program that uses OpenSSL like a server, in unusual situations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::Daemon;
use crate::openssl::OpenSsl;
use crate::tool::succeed;

/// The program in one of its modes, on a key.
#[derive(Debug)]
pub struct Host {
    /// Command that runs the program.
    pub command: Command,
}

/// Output of the program: numbers by name.
pub type Results = BTreeMap<String, f64>;

impl Host {
    /// The program on an OpenSSL, linked with the system's OpenSSL if that has the same major
    /// version, and with the provider for a daemon.
    pub fn new(daemon: &Daemon, openssl: OpenSsl) -> Self {
        let mut words = vec!["-lssl".to_owned(), "-lcrypto".to_owned()];
        let name = match (openssl.major(), openssl.home()) {
            (4, Some(home)) => {
                words.push(format!("-I{}", home.join("include").display()));
                words.push(format!("-L{}", home.join("lib").display()));
                "host-4"
            }
            _ => "host",
        };
        let mut command = Command::new(program(name, &words));
        command.env("OPENSSL_CONF", daemon.openssl_conf_of(openssl));
        openssl.load_into(&mut command);
        Self { command }
    }

    /// The program with its own OpenSSL inside; the provider loads the system's OpenSSL.
    pub fn with_static_openssl(daemon: &Daemon) -> Self {
        let words = ["-l:libssl.a", "-l:libcrypto.a", "-ldl"].map(str::to_owned);
        let mut command = Command::new(program("static-host", &words));
        command.env("OPENSSL_CONF", daemon.openssl_conf());
        Self { command }
    }

    /// Sets the mode, the certificate, the key and the number of rounds.
    #[must_use]
    pub fn mode(mut self, mode: &str, certificate: &Path, key: &Path, number: u32) -> Self {
        self.command.arg(mode).arg(certificate).arg(key).arg(number.to_string());
        self
    }

    /// Makes handshakes use TLS 1.2 and one of these ciphers.
    #[must_use]
    pub fn tls12(mut self, ciphers: &str) -> Self {
        self.command.env("TLS12_CIPHERS", ciphers);
        self
    }

    /// Runs the program under another program, which gets the command, for example a debugger.
    pub fn run_by(&mut self, runner: &[String]) {
        let host = std::mem::replace(&mut self.command, Command::new(&runner[0]));
        self.command.args(&runner[1..]).arg(host.get_program()).args(host.get_args());
        self.command.envs(host.get_envs().filter_map(|(name, value)| Some((name, value?))));
    }

    /// Runs the program, which must succeed.
    pub fn run(&mut self) -> Results {
        results(&succeed(&mut self.command))
    }
}

/// Reads results in the form `name=number ...`.
pub fn results(text: &str) -> Results {
    let pair = |word: &str| {
        let (name, number) = word.split_once('=')?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    text.split_whitespace().filter_map(pair).collect()
}

/// Compiles the program, once in each test process.
fn program(name: &'static str, words: &[String]) -> PathBuf {
    static DIRECTORY: OnceLock<TempDir> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(crate::scratch);
    static BUILT: std::sync::Mutex<BTreeMap<&str, PathBuf>> = std::sync::Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = built.entry(name).or_insert_with(|| {
        let path = directory.path().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("host/host.c");
        let mut compile = Command::new("cc");
        compile.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-pthread", "-o"]);
        succeed(compile.arg(&path).arg(source).args(words));
        path
    });
    path.clone()
}
