//! Error of a socket.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::ground::ownership::{Name, OwnershipError};
use crate::ground::text::quoted;

/// Reason why the daemon cannot listen on a socket.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    #[error("cannot listen on {}: {reason}", path.display())]
    Bind { path: PathBuf, reason: io::Error },
    #[error(
        "cannot listen on {}: there is a socket of {}; if no daemon of that user runs, as root, run: rm {}",
        path.display(), Name(*uid), quoted(path)
    )]
    Foreign { path: PathBuf, uid: u32 },
    #[error("cannot listen on {}: another daemon answers there", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: {reason}", path.display())]
    Exposed { path: PathBuf, reason: OwnershipError },
    #[error("cannot listen on {}: there is a file that is not a socket; remove it", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot use a socket that was passed in LISTEN_FDS: {0}")]
    Passed(io::Error),
    #[error("cannot use the runtime directory {}: {reason}", path.display())]
    RuntimeDir { path: PathBuf, reason: OwnershipError },
}
