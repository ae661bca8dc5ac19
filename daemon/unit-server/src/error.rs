//! Reasons why the server did not start, and the status that the process ends with.

use core::net::SocketAddr;
use std::io;
use std::path::PathBuf;

use keyward_ground::causes::causes;
use keyward_ground::exit;
use keyward_ground::master_key::MasterKeyError;
use keyward_ground::ownership::OwnershipError;
use keyward_ground::state_dir::StateDirError;
use keyward_ground::text::quoted;
use keyward_ground::tls_files::TlsFileError;
use thiserror::Error;
use tokio::task::JoinError;

/// Reasons why the server did not start, or ended.
#[derive(Debug, Error)]
pub enum UnitServerError {
    /// The server ended, and not because it was told to.
    #[error("the server ended: {0}")]
    Ended(String),
    /// The kernel refused to close the process off.
    #[error("cannot switch off core dumps and debugging: {0}")]
    Hardening(#[source] io::Error),
    /// The bytes of the master key follow a pattern.
    #[error(
        "{0}; if keys were wrapped by it already, name the new one with --next-master-key as well, and have the keys rewrapped"
    )]
    Guessable(MasterKeyError),
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    File(#[from] TlsFileError),
    /// The address cannot be had.
    #[error("cannot listen on {}: {}", .0, .1)]
    Listen(SocketAddr, #[source] io::Error),
    /// There is no master key.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// Another user can change a file.
    #[error("refused a file: {0}")]
    NotOurs(OwnershipError),
    /// Other users can read the private key.
    #[error("refused the private key in {}: others can read it; run: chmod o= {}", .0.display(), quoted(.0))]
    Open(PathBuf),
    /// Plaintext beyond loopback.
    #[error(
        "refused --plaintext on {0}: keys and signatures would cross the network in the clear; listen on 127.0.0.1 or [::1], or use --tls-cert and --tls-key"
    )]
    PlaintextOutside(SocketAddr),
    /// A file cannot be read.
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    /// The description of the service cannot be offered.
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Threads or signals cannot be had.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The state directory cannot be had.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Certificate, key and client CA do not fit together.
    #[error(
        "cannot use the certificate, its key or the client CA: {0}; each must be a PEM file, and the key that of the certificate"
    )]
    Tls(String),
    /// The file of tokens cannot be used.
    #[error("{0}")]
    Tokens(String),
}

impl UnitServerError {
    /// The server ended, and not because it was asked to.
    pub(crate) fn ended(ended: Result<Result<(), tonic::transport::Error>, JoinError>) -> Self {
        Self::Ended(match ended {
            Ok(Ok(())) => "it accepts no more connections".into(),
            Ok(Err(error)) => causes(&error),
            Err(error) => error.to_string(),
        })
    }

    /// The status that the process ends with, from sysexits(3).
    pub fn status(&self) -> u8 {
        match self {
            Self::Listen(_, reason) => match reason.kind() {
                io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
                _ => exit::UNAVAILABLE,
            },
            Self::Guessable(_) | Self::MasterKey(_) | Self::NotOurs(_) => exit::CONFIG,
            Self::File(_) | Self::Open(_) | Self::Tls(_) | Self::Tokens(_) => exit::CONFIG,
            Self::PlaintextOutside(_) => exit::USAGE,
            Self::Read(..) => exit::NO_INPUT,
            Self::Ended(_) | Self::Reflection(_) => exit::SOFTWARE,
            Self::Hardening(_) | Self::Runtime(_) => exit::OS,
            Self::StateDir(_) => exit::CANNOT_CREATE,
        }
    }
}
