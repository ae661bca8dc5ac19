//! Errors of the start, with their exit statuses.

use std::io;
use std::path::{Path, PathBuf};

use keyward_unit::administration::CustodyError;
use keyward_unit_server::UnitServerError;
use thiserror::Error;

use super::sockets::SocketError;
use crate::backend::SetupError;
use crate::config::ConfigError;
use crate::ground::exit;
use crate::ground::master_key::MasterKeyError;
use crate::ground::state_dir::StateDirError;
use crate::ground::unit_state::UnitStateError;
use crate::keys::{StoreError, StoreKeyError};

/// Reason why the daemon did not start, or could not upgrade.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state directory was made with the other value of `--dev`.
    #[error("{}", dev_mismatch(.0, *.1))]
    Dev(PathBuf, bool),
    /// A backend cannot be used as configured.
    #[error(transparent)]
    Backend(#[from] SetupError),
    /// The helper of the confined process does not start.
    #[error("cannot start the process that looks up names of users, groups and hosts: {0}")]
    Confinement(#[source] io::Error),
    /// The kernel refused the hardening of the process.
    #[error("cannot switch off core dumps and debugging: {0}")]
    Hardening(#[source] io::Error),
    /// The master key is missing or cannot be used.
    #[error("{0}")]
    MasterKey(String),
    /// There is no key store to migrate.
    #[error(
        "there is no key store in {}: pass the state directory of the daemon with --state-dir", .0.display()
    )]
    NoStore(PathBuf),
    /// The key store has an old format: it must be migrated, or is an old copy of a migrated store.
    #[error("{0}")]
    OldFormat(String),
    /// The key store belongs to the daemon of another user.
    #[error("{0}")]
    OtherUser(String),
    /// The process of the daemon cannot be started or followed.
    #[error("cannot start the process of the daemon: {0}")]
    Start(#[source] io::Error),
    /// The system refused threads, signals or descriptors.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The program of an upgrade cannot be executed.
    #[error("cannot execute the new program: {0}")]
    Upgrade(#[source] io::Error),
    /// The daemon cannot listen on a socket.
    #[error("{0}")]
    Socket(String),
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// The key store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key store cannot be migrated.
    #[error("{0}")]
    Migration(String),
    /// The store key is missing, or is the key of another store.
    #[error("{0}")]
    StoreKey(String),
    /// The state of the embedded unit is damaged, or cannot be written.
    #[error(transparent)]
    Unit(#[from] CustodyError),
    /// The GREP11 server of a unit did not start, or ended.
    #[error(transparent)]
    UnitServer(#[from] UnitServerError),
    /// The file with the state of the embedded unit cannot be used.
    #[error(transparent)]
    UnitState(#[from] UnitStateError),
}

impl ServeError {
    /// Exit status of the process, from sysexits(3).
    pub fn status(&self) -> u8 {
        match self {
            Self::Backend(_) | Self::Config(_) | Self::Dev(..) => exit::CONFIG,
            Self::MasterKey(_) | Self::OldFormat(_) | Self::StoreKey(_) => exit::CONFIG,
            Self::Migration(_) | Self::Unit(_) => exit::DATA,
            Self::UnitServer(error) => error.status(),
            Self::UnitState(_) => exit::NO_PERMISSION,
            Self::NoStore(_) => exit::NO_INPUT,
            Self::Confinement(_)
            | Self::Hardening(_)
            | Self::Runtime(_)
            | Self::Start(_)
            | Self::Upgrade(_) => exit::OS,
            Self::OtherUser(_) | Self::Store(StoreError::Refused(_)) => exit::NO_PERMISSION,
            Self::Socket(_) => exit::UNAVAILABLE,
            Self::StateDir(..) => exit::CANNOT_CREATE,
            Self::Store(StoreError::OtherStoreKey(_)) => exit::CONFIG,
            Self::Store(
                StoreError::AlteredStore(_)
                | StoreError::Damaged(_)
                | StoreError::Format(..)
                | StoreError::SecretGone { .. },
            ) => exit::DATA,
            Self::Store(StoreError::InUse(_)) => exit::UNAVAILABLE,
            // A restart does not help, as it may for other errors.
            Self::Store(StoreError::Io(_, reason) | StoreError::Secret(_, reason))
                if reason.kind() == io::ErrorKind::PermissionDenied =>
            {
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
            "the state directory {state_dir} was made with --dev, so its keys are not for production; pass another directory with --state-dir"
        ),
        false => format!(
            "refused --dev: the state directory {state_dir} was made without --dev and may hold production keys; pass another directory with --state-dir"
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::ground::exit;

    #[test]
    fn systemd_listens_to_the_child_of_the_starter() {
        let unit = include_str!("../../../conf/systemd/keyward-unit.service");
        for unit in [include_str!("../../../conf/systemd/keyward.service"), unit] {
            assert!(unit.contains("\nType=notify\n") && unit.contains("\nNotifyAccess=all\n"), "{unit}");
        }
    }

    #[test]
    fn the_service_is_not_restarted_after_errors_that_a_restart_does_not_mend() {
        let unit = include_str!("../../../conf/systemd/keyward.service");
        let statuses = unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus="));
        assert_eq!(statuses.unwrap(), format!("{} {} {}", exit::DATA, exit::NO_PERMISSION, exit::CONFIG));
        // RestartPreventExitStatus applies to the main process only: systemd.service(5).
        assert!(!unit.lines().any(|line| line.starts_with("ExecStartPre")));
    }
}
