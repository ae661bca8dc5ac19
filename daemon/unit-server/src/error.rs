//! Errors of the server, with their exit statuses.

use core::net::SocketAddr;
use std::io;
use std::path::PathBuf;

use keyward_ground::causes::causes;
use keyward_ground::exit;
use keyward_ground::ownership::OwnershipError;
use keyward_ground::text::quoted;
use keyward_ground::tls_files::TlsFileError;
use thiserror::Error;
use tokio::task::JoinError;

/// Reason why the server did not start, or ended.
#[derive(Debug, Error)]
pub enum UnitServerError {
    /// The server ended without an instruction to stop.
    #[error("the server ended: {0}")]
    Ended(String),
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// The server cannot listen on the address.
    #[error("cannot listen on {}: {}", .0, .1)]
    Listen(SocketAddr, #[source] io::Error),
    /// Another user can change a file.
    #[error("refused a file: {0}")]
    NotOurs(OwnershipError),
    /// Other users can read the private key.
    #[error("refused the private key in {}: others can read it; run: chmod o= {}", .0.display(), quoted(.0))]
    Open(PathBuf),
    /// Plaintext is allowed on loopback only.
    #[error(
        "refused --plaintext on {0}: keys and signatures would cross the network in the clear; listen on 127.0.0.1 or [::1], or use --tls-cert and --tls-key"
    )]
    PlaintextOutside(SocketAddr),
    /// A file cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    /// The reflection service cannot start.
    #[error("cannot start the reflection service: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The system refused threads or signal handlers.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The certificate, its key and the client CA cannot be used together.
    #[error(
        "cannot use the certificate, its key or the client CA: {0}; each must be a PEM file, and the key must belong to the certificate"
    )]
    Tls(String),
    /// The file of tokens cannot be used.
    #[error("{0}")]
    Tokens(String),
}

impl UnitServerError {
    /// Error for a server that ended without an instruction to stop.
    pub(crate) fn ended(ended: Result<Result<(), tonic::transport::Error>, JoinError>) -> Self {
        Self::Ended(match ended {
            Ok(Ok(())) => "the listener ended".into(),
            Ok(Err(error)) => causes(&error),
            Err(error) => error.to_string(),
        })
    }

    /// Exit status of the process, from sysexits(3).
    pub fn status(&self) -> u8 {
        match self {
            Self::Listen(_, reason) => match reason.kind() {
                io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
                _ => exit::UNAVAILABLE,
            },
            Self::NotOurs(_) => exit::CONFIG,
            Self::File(_) | Self::Open(_) | Self::Tls(_) | Self::Tokens(_) => exit::CONFIG,
            Self::PlaintextOutside(_) => exit::USAGE,
            Self::Read(..) => exit::NO_INPUT,
            Self::Ended(_) | Self::Reflection(_) => exit::SOFTWARE,
            Self::Runtime(_) => exit::OS,
        }
    }
}
