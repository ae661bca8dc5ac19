//! The backends of the daemon: one test body runs on each backend.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::unit_server::{Python, master_key};
use crate::{Pki, UnitServer, built};

/// Place of the keys of a test's daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// The software crypto unit in the daemon itself.
    Embedded,
    /// A remote unit, over mutual TLS.
    Grep11,
}

impl Backend {
    /// Arguments of `key generate` and `key import` that choose this backend.
    pub fn words(self) -> &'static [&'static str] {
        match self {
            // No words are needed, because this is the only backend.
            Self::Embedded => &[],
            Self::Grep11 => &["--backend", Units::BACKEND],
        }
    }
}

/// Makes a test for each backend from functions that take a [`Backend`]: `embedded::NAME` and
/// `grep11::NAME`.
#[macro_export]
macro_rules! on_both_backends {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name($crate::Backend::Embedded);
            })+
        }

        mod grep11 {
            $(#[test]
            fn $name() {
                super::$name($crate::Backend::Grep11);
            })+
        }
    };
}

/// Remote units, with the same master key unless a test says otherwise, and the files to reach
/// them: mutual TLS with a separate authority.
#[derive(Debug)]
pub struct Units {
    directory: PathBuf,
    pki: Pki,
    /// Certificate and key of every unit.
    server: [PathBuf; 2],
    /// Client certificate and key of the daemon.
    client: [PathBuf; 2],
}

impl Units {
    /// Name of the backend in the configuration of the daemon.
    pub const BACKEND: &str = "hsm";

    /// Makes the common files in a new directory.
    pub fn new(directory: &Path) -> Self {
        fs::create_dir(directory).expect("a directory for units");
        let pki = Pki::new(directory);
        let [server, client] = ["server", "client"].map(|name| <[PathBuf; 2]>::from(pki.leaf(name)));
        Self { directory: directory.to_owned(), pki, server, client }
    }

    /// Starts a unit with more arguments, whose log has this name. Waits until the unit is ready.
    /// All units that are started so have the same master key.
    pub fn start(&self, name: &str, more: &[&str]) -> UnitServer {
        let common = self.directory.join("common.key");
        if !common.exists() {
            master_key(&common);
        }
        self.start_with_master_key(name, &common, more)
    }

    /// Starts a unit that waits for its owners.
    pub fn start_for_owners(&self, name: &str, more: &[&str]) -> UnitServer {
        UnitServer::start_command(self.command().args(more), &self.directory, name)
    }

    /// Starts a unit with the master key in a file; see [`Units::start`].
    pub fn start_with_master_key(&self, name: &str, master_key: &Path, more: &[&str]) -> UnitServer {
        let mut command = self.command();
        command.arg("--master-key").arg(master_key).args(more);
        UnitServer::start_command(&mut command, &self.directory, name)
    }

    /// Makes a new master key in a file.
    pub fn master_key(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        master_key(&path);
        path
    }

    /// The certificate of the units' authority.
    pub fn ca(&self) -> PathBuf {
        self.pki.ca()
    }

    /// Certificate and key of a server for `localhost`.
    pub fn server(&self) -> &[PathBuf; 2] {
        &self.server
    }

    fn command(&self) -> Command {
        let mut command = UnitServer::command("127.0.0.1:0");
        command.arg("--tls-cert").arg(&self.server[0]).arg("--tls-key").arg(&self.server[1]);
        command.arg("--client-ca").arg(self.pki.ca());
        command
    }

    /// The section of keyward.toml with these endpoints of the units, and more settings.
    pub fn section(&self, endpoints: &[String], more: &str) -> String {
        self.section_of(Self::BACKEND, endpoints, more)
    }

    /// The section for a backend of another name; see [`Units::section`].
    pub fn section_of(&self, backend: &str, endpoints: &[String], more: &str) -> String {
        let [certificate, key] = &self.client;
        format!(
            "[grep11.{backend}]\nendpoints = {endpoints:?}\nca = {:?}\ncertificate = {certificate:?}\nkey = {key:?}\n{more}",
            self.pki.ca(),
        )
    }

    /// Result of one call of a client in Python to a unit: see tests/grep11/probe.py.
    pub fn probe(&self, python: &Python, unit: &UnitServer, arguments: &[&str]) -> String {
        let [certificate, key] = &self.client;
        let files = [("--ca", &self.pki.ca()), ("--cert", certificate), ("--key", key)];
        let tls = files.iter().flat_map(|(option, file)| [*option, file.to_str().expect("a path in UTF-8")]);
        python.probe(unit, &arguments.iter().copied().chain(tls).collect::<Vec<_>>())
    }

    /// `keyward bench` of a unit, without a daemon.
    pub fn bench(&self, unit: &UnitServer) -> Command {
        let mut command = Command::new(built("keyward"));
        command.args(["bench", "--grep11", &unit.address()]).arg("--tls-ca").arg(self.pki.ca());
        command.arg("--tls-cert").arg(&self.client[0]).arg("--tls-key").arg(&self.client[1]);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Daemon, scratch};

    /// Every configuration has the lines of the backend once, and the lines name files that exist.
    #[test]
    fn a_configuration_always_has_its_backend() {
        let daemon = Daemon::prepare_on(Backend::Grep11, "[socket]\nconnections = 9\n");
        let text = || fs::read_to_string(daemon.path("keyward.toml")).unwrap();
        let section = text().split_once("[grep11.hsm]\n").expect("a section").1.to_owned();
        assert!(text().contains("[socket]\nconnections = 9\n[grep11.hsm]\n"), "{}", text());
        daemon.configure("log = \"info\"\n");
        assert_eq!(text(), format!("log = \"info\"\n[grep11.hsm]\n{section}"));
        daemon.configure_more("[socket]\nconnections = 7\n");
        assert!(text().ends_with("[socket]\nconnections = 7\n"), "{}", text());
        let settings: Vec<_> = section.lines().map(|line| line.split_once(" = ").unwrap()).collect();
        assert_eq!(settings[0], ("endpoints", &*format!("[{:?}]", daemon.unit().unwrap().address())));
        assert_eq!(
            settings[1..].iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["ca", "certificate", "key"]
        );
        assert!(
            settings[1..].iter().all(|(_, path)| Path::new(path.trim_matches('"')).is_file()),
            "{section}"
        );
    }

    #[test]
    fn units_of_one_master_key() {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let [first, second] = ["first", "second"].map(|name| units.start(name, &[]).wkid());
        assert_eq!(first, second);
        let other = units.start_with_master_key("other", &units.master_key("other.key"), &[]);
        assert_ne!(other.wkid(), first);
    }
}
