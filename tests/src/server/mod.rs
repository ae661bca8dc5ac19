//! The real servers, started with a certificate and a reference for each port, and configured as
//! their pages in docs/servers say.

pub mod apache;
pub mod haproxy;
pub mod lighttpd;
pub mod nginx;
pub mod page;
pub mod python;
pub mod rustls;
pub mod s_server;
pub mod stunnel;

pub use apache::Apache;
pub use haproxy::Haproxy;
pub use lighttpd::Lighttpd;
pub use nginx::Nginx;
pub use page::Page;
pub use python::Python;
pub use rustls::{Rustls, RustlsThread};
pub use s_server::SServer;
pub use stunnel::Stunnel;

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use crate::pki::openssl;
use crate::tool::{succeed, wait_for};
use crate::{Daemon, KEY_TYPES, Pki, free_port, is_root};

/// A TLS site for one server name: address, certificate and key.
#[derive(Clone, Debug)]
pub struct Site {
    /// Address to listen on, on loopback.
    pub address: SocketAddr,
    /// Certificate chain in PEM.
    pub certificate: PathBuf,
    /// Reference or key file in PEM.
    pub key: PathBuf,
    /// Authority of the clients' certificates, if clients need a certificate.
    pub client_ca: Option<PathBuf>,
}

impl Site {
    /// A site with a key in a file, whose clients need a certificate of the authority.
    pub fn for_certified_clients(daemon: &Daemon, pki: &Pki) -> Self {
        let key = daemon.path("server.key");
        succeed(openssl(&["genpkey", "-algorithm", "ED25519", "-out"]).arg(&key));
        let public = daemon.path("server.pub");
        succeed(openssl(&["pkey", "-pubout", "-in"]).arg(&key).arg("-out").arg(&public));
        let mut site = Self::new(pki.certify_public(&public), key);
        site.client_ca = Some(pki.ca());
        site
    }

    /// A site on a free port of loopback.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], free_port())), certificate, key, client_ca: None }
    }

    /// A site with a key of the daemon.
    pub fn with_key(daemon: &Daemon, pki: &Pki, label: &str) -> Self {
        let reference = daemon.reference(label);
        Self::new(pki.certify(daemon, &reference), reference)
    }

    /// A site for each key type. `make` makes the keys in the daemon, by label and type.
    pub fn of_each_key_type(daemon: &Daemon, pki: &Pki, make: impl Fn(&str, &str)) -> Vec<Self> {
        let site = |key_type: &&str| {
            make(key_type, key_type);
            Self::with_key(daemon, pki, key_type)
        };
        KEY_TYPES.iter().map(site).collect()
    }

    /// Waits until a server listens on the address.
    pub fn wait_until_open(&self) {
        wait_for(&format!("a server on {}", self.address), || TcpStream::connect(self.address).ok());
    }
}

/// A server that runs until it is dropped.
pub trait Server {
    /// The page for administrators about the server.
    fn page(&self) -> Page;

    /// Log so far.
    fn log(&self) -> String;

    /// True if the server can use keys of a type in a version of TLS, `1.2` or `1.3`.
    fn can_use(&self, _key_type: &str, _version: &str) -> bool {
        true
    }

    /// Makes the server load its configuration again, and waits until it has. Does nothing if the
    /// server does not support that.
    fn reload(&self) {}

    /// Number of lines of the log that contain `words`.
    fn logged(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }
}

/// The user ids under which the servers of the tests sign.
pub fn users() -> Vec<u32> {
    let own = rustix::process::getuid().as_raw();
    let service = |name| nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw());
    let mut users = vec![own];
    if is_root() {
        users.extend(["www-data", "haproxy", "stunnel4"].into_iter().filter_map(service));
    }
    users
}

/// A new directory for a server that listens at the sites, with a page to serve.
fn directory(daemon: &Daemon, name: &str, sites: &[Site]) -> PathBuf {
    let directory = daemon.path(&format!("{name}-{}", sites[0].address.port()));
    std::fs::create_dir_all(directory.join("www")).expect("a directory for a server");
    std::fs::write(directory.join("www/index.html"), "served\n").expect("a page to serve");
    directory
}

fn read_log(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
