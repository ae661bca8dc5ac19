//! A server on rustls.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Page, Server, Site};
use crate::tool::{Process, as_user};
use crate::{Daemon, built, is_root};

/// `rustls-server` with two workers, as www-data where the tests run as root.
#[derive(Debug)]
pub struct Rustls {
    process: Process,
    log: PathBuf,
}

impl Rustls {
    /// Starts it, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, 2)
    }

    /// As [`Rustls::start`], with a number of workers.
    pub fn start_with(daemon: &Daemon, sites: &[Site], workers: usize) -> Self {
        // Copied, so that its user can reach it wherever the build lies.
        let program = daemon.path("rustls-server");
        if !program.exists() {
            fs::copy(built("rustls-server"), &program).expect("the program");
        }
        let mut command = Command::new(program);
        command.arg(workers.to_string());
        for site in sites {
            command.arg(site.address.to_string()).arg(&site.certificate).arg(&site.key);
            command.arg(site.client_ca.clone().unwrap_or_else(|| "-".into()));
        }
        command.env("KEYWARD_SOCKET", daemon.socket());
        let mut command = if is_root() { as_user("www-data", &command) } else { command };
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
