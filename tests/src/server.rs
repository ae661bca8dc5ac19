//! The real servers, started with a certificate and a reference for each port.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::tool::{Process, wait_for};
use crate::{Daemon, free_port, is_root};

/// One server name's worth of TLS: where to listen and what to present.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where to listen, on loopback.
    pub address: SocketAddr,
    /// Certificate chain in PEM.
    pub certificate: PathBuf,
    /// Reference or key file in PEM.
    pub key: PathBuf,
    /// Who must have certified the clients, where clients need a certificate.
    pub client_ca: Option<PathBuf>,
}

impl Site {
    /// A site on a free port of loopback.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], free_port())), certificate, key, client_ca: None }
    }

    fn wait_until_open(&self) {
        wait_for(&format!("a server on {}", self.address), || TcpStream::connect(self.address).ok());
    }
}

/// The user ids under which the servers of the tests sign.
pub fn users() -> Vec<u32> {
    let own = rustix::process::getuid().as_raw();
    let service = |name| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    let mut users = vec![own];
    if is_root() {
        users.extend([service("www-data"), service("haproxy")].into_iter().flatten());
    }
    users
}

/// nginx with two workers, as www-data where the tests run as root.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    directory: PathBuf,
}

impl Nginx {
    /// Starts it, and waits until every site is open.
    pub fn start(daemon: &Daemon, sites: &[Site]) -> Self {
        Self::start_with(daemon, sites, 2)
    }

    /// As [`Nginx::start`], with a number of workers.
    pub fn start_with(daemon: &Daemon, sites: &[Site], workers: usize) -> Self {
        let directory = configure_nginx(daemon, sites, workers);
        let process = Process::start(&mut nginx(daemon, &directory), &directory.join("output.log"));
        let nginx = Self { process, directory };
        for site in sites {
            site.wait_until_open();
        }
        nginx
    }

    /// Loads the configuration anew, and waits until the old workers are gone.
    pub fn reload(&self) {
        let before = self.workers();
        self.process.signal(Signal::HUP);
        wait_for("new workers of nginx", || {
            let now = self.workers();
            (!now.is_empty() && now.iter().all(|worker| !before.contains(worker))).then_some(())
        });
    }

    /// The process ids of the workers.
    pub fn workers(&self) -> Vec<u32> {
        crate::tool::children(self.process.id())
    }

    /// The process id of the master.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The error log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("error.log")).unwrap_or_default()
    }

    /// Waits for a line of the error log that has `words` in it: nginx writes it after the client has its
    /// alert.
    pub fn wait_for_log(&self, words: &str) -> String {
        wait_for(&format!("{words:?} in the log of nginx"), || {
            self.log().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }
}

/// Writes a configuration and returns its directory.
pub fn configure_nginx(daemon: &Daemon, sites: &[Site], workers: usize) -> PathBuf {
    let directory = daemon.path(&format!("nginx-{}", sites[0].address.port()));
    fs::create_dir_all(directory.join("temp")).expect("a directory for nginx");
    let user = if is_root() { "user www-data;" } else { "" };
    let servers: String = sites
        .iter()
        .map(|site| {
            let clients = site.client_ca.as_ref().map_or_else(String::new, |ca| {
                format!("ssl_verify_client on; ssl_client_certificate {};", ca.display())
            });
            format!(
                "server {{ listen {} ssl backlog=1024; ssl_certificate {}; ssl_certificate_key {}; {clients} \
                 location / {{ return 200 \"served\\n\"; }} }}\n",
                site.address,
                site.certificate.display(),
                site.key.display(),
            )
        })
        .collect();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}/temp/{name};\n", directory.display()))
        .collect();
    let text = format!(
        "{user} daemon off; worker_processes {workers}; pid {pid};\n\
         error_log {log};\n\
         env OPENSSL_CONF;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; {temp}\n\
         ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off; ssl_session_tickets off;\n\
         ssl_ecdh_curve X25519:prime256v1:secp384r1:secp521r1;\n\
         {servers} }}\n",
        pid = directory.join("nginx.pid").display(),
        log = directory.join("error.log").display(),
    );
    fs::write(directory.join("nginx.conf"), text).expect("nginx.conf");
    directory
}

/// The nginx program on a configuration of [`configure_nginx`].
pub fn nginx(daemon: &Daemon, directory: &Path) -> Command {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(directory).arg("-c").arg(directory.join("nginx.conf"));
    command.arg("-e").arg(directory.join("error.log")).env("OPENSSL_CONF", daemon.openssl_conf());
    command
}

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

/// `openssl s_server`, which answers every request with a page about the connection.
#[derive(Debug)]
pub struct SServer {
    _process: Process,
}

impl SServer {
    /// Starts it for one site, and waits until that is open.
    pub fn start(daemon: &Daemon, site: &Site) -> Self {
        let mut command = daemon.openssl(&["s_server", "-www", "-quiet", "-num_tickets", "0"]);
        command.arg("-accept").arg(site.address.to_string());
        command.arg("-cert").arg(&site.certificate).arg("-key").arg(&site.key);
        let process = Process::start(&mut command, &daemon.path("s_server.log"));
        site.wait_until_open();
        Self { _process: process }
    }
}
