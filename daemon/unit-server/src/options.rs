//! Options of the server.

use core::net::SocketAddr;
use std::path::PathBuf;

use super::simulator::Simulation;

/// Options of `keyward unit serve`.
#[derive(Debug)]
pub struct Options {
    /// Address to listen on; port 0 means a free port.
    pub listen: SocketAddr,
    /// TLS or plaintext.
    pub transport: Transport,
    /// File of the master key; `None` for a credential of systemd.exec(5).
    pub master_key: Option<PathBuf>,
    /// File of the next master key.
    pub next_master_key: Option<PathBuf>,
    /// Directory of the master key of `dev`.
    pub state_dir: PathBuf,
    /// True to make a master key for development.
    pub dev: bool,
    /// File of bearer tokens, one a line.
    pub tokens: Option<PathBuf>,
    /// True to offer the reflection service of gRPC.
    pub reflection: bool,
    /// Simulated faults.
    pub simulation: Simulation,
}

/// Transport of the connections.
#[derive(Debug)]
pub enum Transport {
    /// HTTP/2 without TLS, on loopback only.
    Plaintext,
    /// TLS; mutual TLS with a file of client CAs. All files are PEM files.
    Tls {
        /// Certificate chain of the server, its own certificate first.
        certificate: PathBuf,
        /// Private key of the certificate.
        key: PathBuf,
        /// Certificate authorities of the clients.
        client_ca: Option<PathBuf>,
    },
}
