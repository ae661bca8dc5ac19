//! Options of the server.

use core::net::SocketAddr;
use std::path::PathBuf;

use super::simulator::Simulation;

/// Options of `keyward unit serve`.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address to listen on; port 0 means a free port.
    pub listen: SocketAddr,
    /// TLS or plaintext.
    pub transport: Transport,
    /// File of bearer tokens, one a line.
    pub tokens: Option<PathBuf>,
    /// True to offer the reflection service of gRPC.
    pub reflection: bool,
    /// Simulated faults.
    pub simulation: Simulation,
}

/// Transport of the connections.
#[derive(Clone, Debug)]
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
