//! A server on rustls.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Page, Server, Site};
use crate::tool::{Process, as_user};
use crate::{Daemon, built, is_root};

/// `rustls-server`.
#[derive(Debug)]
pub struct Rustls {
    process: Process,
    log: PathBuf,
}

impl Rustls {
    /// Starts it with two workers, as www-data where the tests run as root, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        let command = command(daemon, sites, 2);
        Self::start_command(daemon, sites, if is_root() { as_user("www-data", &command) } else { command })
    }

    /// As [`Rustls::start`], with one worker, as the user of the tests, who can read plain keys.
    pub fn start_single(daemon: &Daemon, site: &Site) -> Self {
        let sites = std::slice::from_ref(site);
        Self::start_command(daemon, sites, command(daemon, sites, 1))
    }

    fn start_command(daemon: &Daemon, sites: &[Site], mut command: Command) -> Self {
        let log = super::directory(daemon, "rustls", sites).join("output.log");
        let process = Process::start(&mut command, &log);
        for site in sites {
            site.wait_until_open();
        }
        Self { process, log }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Server for Rustls {
    fn page(&self) -> Page {
        Page::read("rustls")
    }

    /// rustls knows the schemes of these in TLS 1.3 alone.
    fn can_use(&self, key_type: &str, version: &str) -> bool {
        version == "1.3" || !(key_type.starts_with("rsa-pss") || key_type.starts_with("ml-dsa"))
    }

    fn log(&self) -> String {
        super::read_log(&self.log)
    }
}

fn command(daemon: &Daemon, sites: &[Site], workers: usize) -> Command {
    // Copied, so that its user can reach it wherever the build lies.
    let program = daemon.path("rustls-server");
    if !program.exists() {
        fs::copy(built("rustls-server"), &program).expect("the program");
    }
    let mut command = Command::new(program);
    command.arg(workers.to_string()).env("KEYWARD_SOCKET", daemon.socket());
    for site in sites {
        command.arg(site.address.to_string()).arg(&site.certificate).arg(&site.key);
        command.arg(site.client_ca.clone().unwrap_or_else(|| "-".into()));
    }
    command
}
