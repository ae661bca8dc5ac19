//! Apache.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use super::{Page, Server, Site};
use crate::tool::{Process, children, wait_for};
use crate::{Daemon, is_root};

/// Apache with one of its multi-processing modules, as www-data if the tests run as root.
#[derive(Debug)]
pub struct Apache {
    process: Process,
    directory: PathBuf,
}

impl Apache {
    /// Starts Apache with `event` or `prefork`, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site], mpm: &str) -> Self {
        Self::start_with(daemon, sites, mpm, "")
    }

    /// Starts Apache with more lines at the end of its configuration; see [`Apache::start`].
    pub fn start_with(daemon: &Daemon, sites: &[Site], mpm: &str, more: &str) -> Self {
        let directory = super::directory(daemon, "apache", sites);
        let page = Page::read("apache");
        let user = if is_root() { "User www-data\nGroup www-data\n" } else { "" };
        let hosts: String = sites
            .iter()
            .map(|site| format!("Listen {}\n{}", site.address, page.site("SSLEngine on", "*:443", site)))
            .collect();
        // The libraries of Debian's package apache2-bin, which has no configuration and no service.
        let modules: String = [&format!("mpm_{mpm}"), "authz_core", "dir", "ssl"]
            .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
            .concat();
        let text = format!(
            "ServerRoot {directory}\nServerName localhost\nPidFile apache.pid\nErrorLog error.log\nMutex posixsem\n\
             {modules}{user}DocumentRoot {directory}/www\n{log_level}{hosts}{more}",
            directory = directory.display(),
            log_level = page.block("LogLevel"),
        );
        let path = directory.join("apache.conf");
        fs::write(&path, text).expect("apache.conf");
        // Apache signals its whole process group when it ends, so it needs its own group. Signals
        // to the group of the test, as by ctrl-C, do not reach Apache: it ends with the test that
        // started it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "apache2", "-DFOREGROUND", "-f"]).arg(&path).process_group(0);
        page.set_environment(&mut command, &[("/etc/keyward/openssl.cnf", &daemon.openssl_conf().display())]);
        let process = Process::start(&mut command, &directory.join("output.log"));
        let apache = Self { process, directory };
        apache.wait_for_starts(1);
        for site in sites {
            site.wait_until_open();
        }
        apache
    }

    /// The process id of the parent of the children.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The process ids of the children.
    pub fn children(&self) -> Vec<u32> {
        children(self.process.id())
    }

    fn starts(&self) -> usize {
        self.logged("resuming normal operations")
    }

    fn wait_for_starts(&self, count: usize) {
        wait_for("Apache to be ready", || (self.starts() >= count).then_some(()));
    }
}

impl Server for Apache {
    fn page(&self) -> Page {
        Page::read("apache")
    }

    fn log(&self) -> String {
        super::read_log(&self.directory.join("error.log"))
    }

    /// Reloads gracefully, and waits until the old children are gone.
    fn reload(&self) {
        let (starts, before) = (self.starts(), self.children());
        self.process.signal(Signal::USR1);
        self.wait_for_starts(starts + 1);
        wait_for("new children of Apache", || {
            let now = self.children();
            (!now.is_empty() && now.iter().all(|child| !before.contains(child))).then_some(())
        });
    }
}
