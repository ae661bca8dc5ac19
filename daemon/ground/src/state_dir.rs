//! State directory: holds the keys and secrets of a server. No other user can enter it.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::ownership::{self, Owners, OwnershipError};

/// Name of the key store in the state directory of a daemon.
pub const KEY_STORE: &str = "keys.redb";

/// Makes a state directory that only its owner can enter, unless it exists.
///
/// # Errors
/// [`StateDirError`] if the directory cannot be made, or another user can change it.
pub fn make(path: &Path) -> Result<(), StateDirError> {
    let failed = |reason| StateDirError(path.to_owned(), reason);
    // Only the directory itself is private: others may need the directories above it.
    ownership::make_private_directory(path).map_err(failed)?;
    check(path)?;
    ownership::check_writable(path, 0o700).map_err(failed)
}

/// Refuses a state directory that another user can change.
///
/// # Errors
/// [`StateDirError`] names the user or the mode.
pub fn check(path: &Path) -> Result<(), StateDirError> {
    ownership::check_directory(path, Owners::Own).map_err(|reason| StateDirError(path.to_owned(), reason))
}

/// Error: the state directory cannot be used.
#[derive(Debug, Error)]
#[error("cannot use the state directory {}: {}", .0.display(), .1)]
pub struct StateDirError(PathBuf, #[source] OwnershipError);
