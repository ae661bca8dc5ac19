//! nginx.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::{Page, Server, Site};
use crate::tool::{Process, wait_for};
use crate::{Daemon, is_root};

/// nginx with two workers, as www-data if the tests run as root.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    directory: PathBuf,
}

impl Nginx {
    /// Starts nginx, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, 2)
    }

    /// Starts nginx with a number of workers; see [`Nginx::start`].
    pub fn start_with(daemon: &Daemon, sites: &[Site], workers: usize) -> Self {
        Self::start_in(daemon, sites, configure(daemon, sites, workers), workers)
    }

    /// Starts nginx with more directives for each server; see [`Nginx::start`].
    pub fn start_with_directives(daemon: &Daemon, sites: &[Site], directives: &str) -> Self {
        Self::start_in(daemon, sites, configure_with(daemon, sites, 2, directives), 2)
    }

    fn start_in(daemon: &Daemon, sites: &[Site], directory: PathBuf, workers: usize) -> Self {
        let process = Process::start(&mut command(daemon, &directory), &directory.join("output.log"));
        let nginx = Self { process, directory };
        for site in sites {
            site.wait_until_open();
        }
        // The master opens the sites before it makes the workers.
        wait_for("workers of nginx", || (nginx.workers().len() == workers).then_some(()));
        nginx
    }

    /// The process ids of the workers.
    pub fn workers(&self) -> Vec<u32> {
        crate::tool::children(self.process.id())
    }

    /// The process id of the master.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line of the error log that contains `words`. nginx writes the line after it has
    /// sent the alert to the client.
    pub fn wait_for_log(&self, words: &str) -> String {
        wait_for(&format!("{words:?} in the log of nginx"), || {
            self.log().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }
}

impl Server for Nginx {
    fn page(&self) -> Page {
        Page::read("nginx")
    }

    fn log(&self) -> String {
        super::read_log(&self.directory.join("error.log"))
    }

    /// Reloads, and waits until the old workers are gone.
    fn reload(&self) {
        let before = self.workers();
        self.process.signal(Signal::HUP);
        wait_for("new workers of nginx", || {
            let now = self.workers();
            (!now.is_empty() && now.iter().all(|worker| !before.contains(worker))).then_some(())
        });
    }
}

/// Writes a configuration and returns its directory.
pub fn configure(daemon: &Daemon, sites: &[Site], workers: usize) -> PathBuf {
    configure_with(daemon, sites, workers, "")
}

/// Writes a configuration with more directives for each server; see [`configure`].
fn configure_with(daemon: &Daemon, sites: &[Site], workers: usize, directives: &str) -> PathBuf {
    let directory = daemon.path(&format!("nginx-{}", sites[0].address.port()));
    fs::create_dir_all(directory.join("temp")).expect("a directory for nginx");
    let user = if is_root() { "user www-data;" } else { "" };
    let page = Page::read("nginx");
    let servers: String = sites
        .iter()
        .map(|site| {
            let clients = site.client_ca.as_ref().map_or_else(String::new, |ca| {
                format!("ssl_verify_client on; ssl_client_certificate {};", ca.display())
            });
            let server = page.site("ssl_certificate_key", "443", site).replace(" ssl;", " ssl backlog=1024;");
            let open = server.trim_end().strip_suffix('}').expect("the end of the block");
            format!("{open} {clients} {directives} location / {{ return 200 \"served\\n\"; }} }}\n")
        })
        .collect();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}/temp/{name};\n", directory.display()))
        .collect();
    let text = format!(
        "{user} daemon off; worker_processes {workers}; pid {pid};\n\
         error_log {log};\n\
         {environment}\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; {temp}\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off;\n\
         ssl_ecdh_curve X25519:prime256v1:secp384r1:secp521r1;\n\
         {servers} }}\n",
        pid = directory.join("nginx.pid").display(),
        log = directory.join("error.log").display(),
        environment = page.block("env OPENSSL_CONF"),
    );
    fs::write(directory.join("nginx.conf"), text).expect("nginx.conf");
    directory
}

/// The nginx program on a configuration of [`configure`], called by its absolute path, as in
/// Debian's service.
pub fn command(daemon: &Daemon, directory: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf"));
    command.arg("-e").arg(directory.join("error.log"));
    let conf = daemon.openssl_conf();
    Page::read("nginx").set_environment(&mut command, &[("/etc/keyward/openssl.cnf", &conf.display())]);
    command
}
