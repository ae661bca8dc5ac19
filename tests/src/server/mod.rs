//! The real servers, started with a certificate and a reference for each port.

pub mod haproxy;
pub mod nginx;
pub mod s_server;

pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use s_server::SServer;

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use crate::tool::wait_for;
use crate::{free_port, is_root};

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
