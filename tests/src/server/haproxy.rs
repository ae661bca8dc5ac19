//! HAProxy.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::Site;
use crate::tool::Process;
use crate::{Daemon, is_root};

/// HAProxy, as its own user where the tests run as root.
#[derive(Debug)]
pub struct Haproxy {
    _process: Process,
}

impl Haproxy {
    /// Starts it with certificate and reference of each site in one file, and waits until all are open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, "", &daemon.socket())
    }

    /// As [`Haproxy::start`], from within a directory in which the daemon has a socket of this name.
    pub fn start_in_chroot(daemon: &Daemon, sites: &[Site], root: &Path, socket: &str) -> Self {
        Self::start_with(daemon, sites, &format!("chroot {}\n", root.display()), &Path::new("/").join(socket))
    }

    fn start_with(daemon: &Daemon, sites: &[Site], global: &str, socket: &Path) -> Self {
        let directory = daemon.path("haproxy");
        fs::create_dir_all(&directory).expect("a directory for HAProxy");
        let user = if is_root() { "user haproxy\ngroup haproxy\n" } else { "" };
        let mut text = format!(
            "global\n{user}{global}\ndefaults\nmode http\ntimeout client 10s\ntimeout server 10s\ntimeout connect 1s\n"
        );
        for (number, site) in sites.iter().enumerate() {
            let combined = directory.join(format!("{number}.pem"));
            let parts = [&site.certificate, &site.key].map(|path| fs::read_to_string(path).expect("PEM"));
            fs::write(&combined, parts.concat()).expect("combined PEM");
            text.push_str(&format!(
                "frontend site{number}\nbind {} ssl crt {} ssl-min-ver TLSv1.2\n\
                 http-request return status 200 content-type text/plain string served\n",
                site.address,
                combined.display(),
            ));
        }
        let path = directory.join("haproxy.cfg");
        fs::write(&path, text).expect("haproxy.cfg");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path).env("OPENSSL_CONF", daemon.openssl_conf());
        command.env("KEYWARD_SOCKET", socket);
        let process = Process::start(&mut command, &directory.join("output.log"));
        for site in sites {
            site.wait_until_open();
        }
        Self { _process: process }
    }
}
