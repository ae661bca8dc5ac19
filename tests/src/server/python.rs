//! Servers on Python's own ssl module.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{Page, Server, Site};
use crate::tool::{Process, as_user};
use crate::{Daemon, is_root};

/// The program of the page: a process for each site, as www-data if the tests run as root.
#[derive(Debug)]
pub struct Python {
    _processes: Vec<Process>,
    log: PathBuf,
}

impl Python {
    /// Starts the processes, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        let directory = super::directory(daemon, "python", sites);
        let page = Page::read("python");
        let log = directory.join("output.log");
        let openssl_conf = daemon.openssl_conf();
        let start = |site: &Site| {
            let listen = format!("(\"{}\", {})", site.address.ip(), site.address.port());
            let program = page.filled(
                "import ssl",
                &[
                    ("(\"\", 443)", &listen),
                    ("/etc/ssl/shop.crt", &site.certificate.display()),
                    ("/etc/keyward/shop.pem", &site.key.display()),
                ],
            );
            let path = directory.join(format!("{}.py", site.address.port()));
            fs::write(&path, program).expect("a program");
            // Debian's Python, which uses the OpenSSL of the system.
            let mut command = Command::new("/usr/bin/python3");
            command.arg(&path);
            page.set_environment(&mut command, &[("/etc/keyward/openssl.cnf", &openssl_conf.display())]);
            let mut command = if is_root() { as_user("www-data", &command) } else { command };
            Process::start(&mut command, &log)
        };
        let processes = sites.iter().map(start).collect();
        for site in sites {
            site.wait_until_open();
        }
        Self { _processes: processes, log }
    }
}

impl Server for Python {
    fn page(&self) -> Page {
        Page::read("python")
    }

    fn log(&self) -> String {
        super::read_log(&self.log)
    }
}
