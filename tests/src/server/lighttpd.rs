//! lighttpd.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::{Page, Server, Site};
use crate::tool::{Process, wait_for};
use crate::{Daemon, free_port, is_root};

/// lighttpd, as www-data if the tests run as root.
#[derive(Debug)]
pub struct Lighttpd {
    process: Process,
    log: PathBuf,
}

impl Lighttpd {
    /// Starts lighttpd, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, "")
    }

    /// Starts lighttpd with TLS 1.2 only, as the page says; see [`Lighttpd::start`].
    pub fn start_with_tls12_alone(daemon: &Daemon, sites: &[Site]) -> Self {
        let options = "ssl.openssl.ssl-conf-cmd = ( \"MaxProtocol\" => \"TLSv1.2\" )\n";
        Self::start_with(daemon, sites, options)
    }

    fn start_with(daemon: &Daemon, sites: &[Site], options: &str) -> Self {
        let directory = super::directory(daemon, "lighttpd", sites);
        let page = Page::read("lighttpd");
        let log = directory.join("error.log");
        fs::write(&log, "").expect("a log file");
        // After a reload, another user opens the file again.
        fs::set_permissions(&log, Permissions::from_mode(0o666)).expect("chmod");
        let user =
            if is_root() { "server.username = \"www-data\"\nserver.groupname = \"www-data\"\n" } else { "" };
        let sockets: String = sites.iter().map(|site| page.site("$SERVER", ":443", site)).collect();
        let privkey = "    ssl.privkey";
        let sockets = sockets.replace(privkey, &format!("{options}{privkey}"));
        let text = format!(
            "server.modules = ( \"mod_indexfile\", \"mod_staticfile\" )\nserver.document-root = \"{www}\"\n\
             index-file.names = ( \"index.html\" )\nserver.errorlog = \"{log}\"\n\
             server.bind = \"127.0.0.1\"\nserver.port = {port}\n{user}{modules}{sockets}",
            www = directory.join("www").display(),
            log = log.display(),
            port = free_port(),
            modules = page.block("server.modules"),
        );
        let path = directory.join("lighttpd.conf");
        fs::write(&path, text).expect("lighttpd.conf");
        let mut command = Command::new("lighttpd");
        command.arg("-D").arg("-f").arg(&path);
        page.set_environment(&mut command, &[("/etc/keyward/openssl.cnf", &daemon.openssl_conf().display())]);
        let process = Process::start(&mut command, &directory.join("output.log"));
        let lighttpd = Self { process, log };
        for site in sites {
            site.wait_until_open();
        }
        lighttpd.wait_for_starts(1);
        lighttpd
    }

    fn wait_for_starts(&self, count: usize) {
        wait_for("lighttpd to be ready", || (self.logged("server started") >= count).then_some(()));
    }
}

impl Server for Lighttpd {
    fn page(&self) -> Page {
        Page::read("lighttpd")
    }

    fn log(&self) -> String {
        super::read_log(&self.log)
    }

    fn reload(&self) {
        let starts = self.logged("server started");
        self.process.signal(Signal::USR1);
        self.wait_for_starts(starts + 1);
    }
}
