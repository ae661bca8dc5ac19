use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use keyward_proto::Label;
use thiserror::Error;

use super::FILE;
use super::metadata::THIS_FORMAT;
use crate::ground::ownership::{self, Name, OwnershipError};
use crate::ground::text::quoted;

/// Reason why the store refused or failed an operation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The record is not the record that this daemon wrote last.
    #[error(
        "the record of key {0} in the key store was altered, is an old copy, or is gone; restore the store from a backup, or delete the key: keyward key delete {0}"
    )]
    Altered(Label),
    /// The metadata are not the metadata that this daemon wrote last.
    #[error("the key store {} was altered by a program other than keyward, or is in part an old copy; restore the store from a backup", .0.display())]
    AlteredStore(PathBuf),
    /// The key was changed since it was read.
    #[error("the key {0} was changed by someone else at the same time; try again")]
    Changed(Label),
    /// A copy of the store cannot be made.
    #[error("cannot copy the key store: {0}")]
    Copy(String),
    /// The file is not as this daemon wrote it.
    #[error("the key store {} is damaged; restore it from a backup", .0.display())]
    Damaged(PathBuf),
    /// A key with this label exists already.
    #[error(
        "there is a key {0} already; for a new version of the key, run: keyward key rotate {0}, or: keyward key import {0} --new-version --in FILE"
    )]
    Exists(Label),
    /// Another version of Keyward wrote the store.
    #[error("the key store {} has format {}, and this version of keyward reads format {THIS_FORMAT}", .0.display(), .1)]
    Format(PathBuf, String),
    /// The file has lost its name, or another file has the name.
    #[error(
        "the key store {} is gone, or another file is in its place: nothing is written, because changes would be lost; if the file or its directory was moved, move it back; otherwise copy the keys from the running daemon, which has them as long as it runs: keyward backup FILE, and keyward backup --recovery OTHER; then stop the daemon, and run: keyward restore FILE --recovery OTHER", .0.display()
    )]
    Gone(PathBuf),
    /// Another process has the file open.
    #[error("the key store {} is in use: another keyward daemon runs on this state directory", .0.display())]
    InUse(PathBuf),
    /// The disk is full, gone or broken.
    #[error("cannot read or write the key store {}: {}{}", .0.display(), .1, of_access(.0, .1))]
    Io(PathBuf, #[source] io::Error),
    /// The store was not unlocked yet.
    #[error(
        "the key store {} is locked, because the embedded unit is sealed, has another master key, or has none yet; the reason is in: keyward unit list; its owners, if it has any, bring their parts: keyward unit unseal FILE --unit-key FINGERPRINT; until then only keyward key disable and keyward key compromise act", .0.display()
    )]
    Locked(PathBuf),
    /// A key is disabled or deleted in memory only, because the change could not be written.
    #[error(
        "key {label} is {done} in the running daemon, and does not sign; but the change could not be written, and a restart undoes it: {reason}; the daemon tries to write the change every 10 seconds, and logs the success"
    )]
    NotDurable {
        /// Label of the key.
        label: Label,
        /// `disabled` or `deleted`.
        done: &'static str,
        /// Reason why the change could not be written.
        reason: Box<StoreError>,
    },
    /// The store has an older format, whose name is here too, and nobody has asked for a migration.
    #[error("the key store {} has format {} of an older version of keyward", .0.display(), .1)]
    OldFormat(PathBuf, &'static str),
    /// The store was made with another store key.
    #[error("the key store {} was made with another store key; configure that store key, or restore the store that belongs to the configured store key", .0.display())]
    OtherStoreKey(PathBuf),
    /// Another user can change the file, or replace the file.
    #[error("refused the key store: {0}")]
    Refused(String),
    /// A secret that wraps blobs of the store cannot be read, written or removed.
    #[error("cannot read or write the secret of the key store in {}: {}{}", .0.display(), .1, of_secret(.0, .1))]
    Secret(PathBuf, #[source] io::Error),
    /// A secret that wraps blobs of the store is missing, or its file is damaged.
    #[error(
        "the key store {} needs the secret {}, and the file {} is gone or damaged; put the secret back from the recovery file: keyward restore --recovery FILE --state-dir {}", store.display(), secret, file.display(), quoted(store.parent().unwrap_or(Path::new("."))))]
    SecretGone {
        /// The key store.
        store: PathBuf,
        /// Number and id of the secret.
        secret: String,
        /// The file of the secret.
        file: PathBuf,
    },
    /// A list of the index was altered, so blobs of its keys cannot be wrapped anew.
    #[error("a list of the key store {} was altered; restore the store from a backup, or rebuild the list: keyward key repair", .0.display())]
    UnlistedKeys(PathBuf),
    /// There is no such key.
    #[error("there is no key {0}")]
    Unknown(Label),
    /// The list of the index that vouches for the record is not the list that this daemon wrote
    /// last.
    #[error(
        "the list of the key store that vouches for key {0} was altered; restore the store from a backup, or rebuild the list: keyward key repair"
    )]
    Unlisted(Label),
}

impl StoreError {
    /// Copy of the error, for several changes that fail together: each one has its own.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::AlteredStore(path) => Self::AlteredStore(path.clone()),
            Self::Damaged(path) => Self::Damaged(path.clone()),
            Self::Gone(path) => Self::Gone(path.clone()),
            Self::Io(path, reason) => {
                Self::Io(path.clone(), io::Error::new(reason.kind(), reason.to_string()))
            }
            Self::Locked(path) => Self::Locked(path.clone()),
            Self::Secret(path, reason) => {
                Self::Secret(path.clone(), io::Error::new(reason.kind(), reason.to_string()))
            }
            other => Self::Io(PathBuf::from(FILE), io::Error::other(other.to_string())),
        }
    }
}

/// Advice for a file that belongs to another user, for example after root restored it with cp.
fn of_access(path: &Path, reason: &io::Error) -> String {
    if reason.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let owner = path.symlink_metadata().map(|found| format!(", and belongs to {}", Name(found.uid())));
    let (user, group) = ownership::own_names();
    let path = quoted(path);
    format!(
        "; it must belong to user {user}, who runs this program{}: as root, run: chown -h {user}:{group} {path}; chmod 600 {path}; a copy is restored, while the daemon is stopped, with: install -o {user} -g {group} -m 600 COPY {path}",
        owner.unwrap_or_default()
    )
}

/// Advice for secrets that belong to another user.
fn of_secret(file: &Path, reason: &io::Error) -> String {
    let directory = file.ancestors().find(|path| path.ends_with(SECRETS));
    match directory.filter(|_| reason.raw_os_error() == Some(rustix::io::Errno::ACCESS.raw_os_error())) {
        None => String::new(),
        Some(directory) => {
            let (user, group) = ownership::own_names();
            format!(
                "; its directory must belong to user {user}, who runs this program: as root, run: chown -hR {user}:{group} {}",
                quoted(directory)
            )
        }
    }
}

/// Name of the directory in the state directory that has the secrets.
pub(crate) const SECRETS: &str = "shred";

pub(crate) fn refused(path: &Path, error: OwnershipError) -> StoreError {
    match error.into_io() {
        Ok(reason) => StoreError::Io(path.to_owned(), reason),
        Err(error) => StoreError::Refused(error.to_string()),
    }
}

pub(crate) fn fault(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(reason) => StoreError::Io(path.to_owned(), reason),
        redb::Error::Corrupted(_) => StoreError::Damaged(path.to_owned()),
        other => StoreError::Io(path.to_owned(), io::Error::other(other.to_string())),
    }
}
