//! stunnel.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::{Page, Server, Site};
use crate::tool::{Process, wait_for};
use crate::{Daemon, free_port, is_root};

/// stunnel in front of a plain web server, with its own user if the tests run as root.
#[derive(Debug)]
pub struct Stunnel {
    process: Process,
    _plain: Process,
    log: PathBuf,
    services: usize,
}

impl Stunnel {
    /// Starts both, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, "")
    }

    /// Starts stunnel with TLS 1.2 only, as the page says; see [`Stunnel::start`].
    pub fn start_with_tls12_alone(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, "sslVersionMax = TLSv1.2\n")
    }

    fn start_with(daemon: &Daemon, sites: &[Site], options: &str) -> Self {
        let directory = super::directory(daemon, "stunnel", sites);
        let port = free_port();
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string(), "--directory"]);
        let plain = Process::start(command.arg(directory.join("www")), &directory.join("plain.log"));

        let page = Page::read("stunnel");
        let all = page.block("foreground").lines().filter(|line| is_root() || !line.starts_with("set"));
        let mut text = format!("syslog = no\ndebug = info\n{}\n", all.collect::<Vec<_>>().join("\n"));
        for (number, site) in sites.iter().enumerate() {
            let service = page.site("[shop]", "443", site);
            let service = service.replace("[shop]", &format!("[shop{number}]"));
            text.push_str(&service.replace("127.0.0.1:80\n", &format!("127.0.0.1:{port}\n")));
            text.push_str(options);
        }
        let path = directory.join("stunnel.conf");
        fs::write(&path, text).expect("stunnel.conf");
        let mut command = Command::new("stunnel4");
        command.arg(&path);
        page.set_environment(&mut command, &[("/etc/keyward/openssl.cnf", &daemon.openssl_conf().display())]);
        let log = directory.join("stunnel.log");
        let process = Process::start(&mut command, &log);
        wait_for("a plain web server", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        let stunnel = Self { process, _plain: plain, log, services: sites.len() };
        stunnel.wait_for_bindings(stunnel.services);
        stunnel
    }

    /// stunnel closes its ports when it reloads, and then opens them one by one.
    fn wait_for_bindings(&self, count: usize) {
        wait_for("stunnel to be ready", || (self.logged(BOUND) >= count).then_some(()));
    }
}

impl Server for Stunnel {
    fn page(&self) -> Page {
        Page::read("stunnel")
    }

    fn log(&self) -> String {
        super::read_log(&self.log)
    }

    fn reload(&self) {
        let bindings = self.logged(BOUND);
        self.process.signal(Signal::HUP);
        self.wait_for_bindings(bindings + self.services);
    }
}

/// The line that stunnel logs for each open service.
const BOUND: &str = " bound to ";
