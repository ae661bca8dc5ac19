//! Reasons why the daemon did not start, and the status that the process ends with.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::sockets::SocketError;
use super::store_key::StoreKeyError;
use crate::backend::SetupError;
use crate::config::ConfigError;
use crate::ground::exit;
use crate::ground::master_key::MasterKeyError;
use crate::ground::state_dir::StateDirError;
use crate::keys::StoreError;

/// Why the daemon did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory was made the other way.
    #[error("{}", dev_mismatch(.0, *.1))]
    Dev(PathBuf, bool),
    /// A backend cannot be used as configured.
    #[error(transparent)]
    Backend(#[from] SetupError),
    /// The kernel refused to close the process off.
    #[error("cannot switch off core dumps and debugging: {0}")]
    Hardening(#[source] io::Error),
    /// There is no master key.
    #[error("{0}")]
    MasterKey(String),
    /// There is no key store to migrate.
    #[error(
        "there is no key store in {}: name the state directory of the daemon with --state-dir", .0.display()
    )]
    NoStore(PathBuf),
    /// The key store is to be migrated first, or is an old one in the place of a migrated one.
    #[error("{0}")]
    OldFormat(String),
    /// The key store is not that of the user who asks.
    #[error("{0}")]
    OtherUser(String),
    /// Threads, signals or descriptors cannot be had.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The program that is to take the place of this one cannot be run.
    #[error("cannot run the program that is to go on: {0}")]
    Upgrade(#[source] io::Error),
    /// A socket cannot be had.
    #[error("{0}")]
    Socket(String),
    /// The state directory cannot be had.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The key store cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key store cannot be migrated.
    #[error("{0}")]
    Migration(String),
    /// There is no key for the key store, or another one.
    #[error("{0}")]
    StoreKey(String),
}

impl ServeError {
    /// The status that the process ends with, from sysexits(3).
    pub fn status(&self) -> u8 {
        match self {
            Self::Backend(_) | Self::Config(_) | Self::Dev(..) => exit::CONFIG,
            Self::MasterKey(_) | Self::OldFormat(_) | Self::StoreKey(_) => exit::CONFIG,
            Self::Migration(_) => exit::DATA,
            Self::NoStore(_) => exit::NO_INPUT,
            Self::Hardening(_) | Self::Runtime(_) | Self::Upgrade(_) => exit::OS,
            Self::OtherUser(_) | Self::Store(StoreError::Refused(_)) => exit::NO_PERMISSION,
            Self::Socket(_) => exit::UNAVAILABLE,
            Self::StateDir(..) => exit::CANNOT_CREATE,
            Self::Store(StoreError::OtherStoreKey(_)) => exit::CONFIG,
            Self::Store(StoreError::AlteredStore(_) | StoreError::Damaged(_) | StoreError::Format(..)) => {
                exit::DATA
            }
            Self::Store(StoreError::InUse(_)) => exit::UNAVAILABLE,
            // Nobody gets access by asking again, as it may be with other faults.
            Self::Store(StoreError::Io(_, reason)) if reason.kind() == io::ErrorKind::PermissionDenied => {
                exit::NO_PERMISSION
            }
            Self::Store(_) => exit::IO,
        }
    }
}

impl From<MasterKeyError> for ServeError {
    fn from(error: MasterKeyError) -> Self {
        Self::MasterKey(error.to_string())
    }
}

impl From<StoreKeyError> for ServeError {
    fn from(error: StoreKeyError) -> Self {
        match error {
            StoreKeyError::Store(error) => error.into(),
            error => Self::StoreKey(error.to_string()),
        }
    }
}

impl From<SocketError> for ServeError {
    fn from(error: SocketError) -> Self {
        Self::Socket(error.to_string())
    }
}

fn dev_mismatch(state_dir: &Path, made_with_dev: bool) -> String {
    let state_dir = state_dir.display();
    match made_with_dev {
        true => format!(
            "the state directory {state_dir} was made with --dev, its keys are not for production; name another one with --state-dir"
        ),
        false => format!(
            "refused --dev: the state directory {state_dir} was made without it and may hold keys of production; name another one with --state-dir"
        ),
    }
}
