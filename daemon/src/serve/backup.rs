//! Copies of the key store that lie elsewhere: whether they are whole and belong to a master key,
//! and the way back.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyward_unit::Unit;
use serde::Serialize;
use thiserror::Error;

use crate::config::{Config, EMBEDDED};
use crate::ground::ownership;
use crate::ground::text::quoted;
use crate::keys::{self, Key, KeyStore, Look, StoreError};
use crate::serve::embedded_unit;
use crate::serve::migration::{self, MASTER_KEY, STORE_KEY};
use crate::serve::store_key;
use crate::serve::{Options, ServeError};

/// A copy that is whole.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// How many keys it has.
    pub(crate) keys: u64,
    /// Versions of keys of the embedded unit, each of which the master key unwraps to the private
    /// half of its public key.
    pub(crate) unwrapped: u64,
    /// Keys at remote backends, by backend: their blobs are in the copy, and only units can use
    /// them.
    pub(crate) remote: BTreeMap<String, u64>,
    /// The master key of the embedded unit, by name.
    pub(crate) master_key: Option<String>,
    /// When the store was made, in seconds since 1970.
    pub(crate) made: Option<u64>,
}

/// Opens a copy with the master key that the daemon would start with, and looks at every key.
///
/// # Errors
/// [`BackupError`] says which of the two is wrong.
pub(crate) fn check(copy: &Path, options: &Options, mut config: Config) -> Result<Checked, BackupError> {
    // A store is opened for writing; the copy stays as it is.
    let scratch = tempfile::tempdir().map_err(|reason| BackupError::Scratch(std::env::temp_dir(), reason))?;
    let path = scratch.path().join(KeyStore::FILE);
    copy_file(copy, &path).map_err(|reason| BackupError::Read(copy.to_owned(), reason))?;
    let wrong = |error: StoreError| BackupError::Copy(copy.to_owned(), named(&error, &path, copy));
    if keys::look(scratch.path()) == Look::New {
        return Err(BackupError::Empty(copy.to_owned()));
    }
    let store = KeyStore::open(scratch.path()).map_err(wrong)?;
    let dev = store.is_dev().map_err(wrong)? == Some(true) && config.embedded.master_key.is_none();
    let options = Options { dev, ..options.clone() };
    let passed = |configured: Option<PathBuf>, file: &str| {
        configured.or_else(|| Some(file.into()).filter(|file: &PathBuf| file.exists()))
    };
    // As systemd would pass them to the daemon.
    config.embedded.master_key = passed(config.embedded.master_key, MASTER_KEY.1);
    config.store_key = passed(config.store_key, STORE_KEY.1);
    let unit = match embedded_unit::open(&options, &config, &store)? {
        Some(Err(unusable)) => return Err(BackupError::MasterKey(copy.to_owned(), unusable.to_string())),
        Some(Ok(unit)) => Some(unit),
        None => None,
    };
    let file_key = store_key(&options, &config, false).map_err(ServeError::from)?;
    // A store whose key the master key wraps needs no file.
    let file_key = file_key.filter(|_| unit.is_none());
    store_key::unlock(&store, unit.as_ref(), file_key)
        .map_err(|error| BackupError::MasterKey(copy.to_owned(), error.to_string()))?;
    if let Some((problem, _)) = store.check().map_err(wrong)?.problem() {
        return Err(BackupError::Copy(copy.to_owned(), problem));
    }
    let mut checked = Checked {
        keys: 0,
        unwrapped: 0,
        remote: BTreeMap::new(),
        master_key: store.wkid(EMBEDDED).map_err(wrong)?.map(|wkid| wkid.to_string()),
        made: store.created().map_err(wrong)?,
    };
    let mut after: Option<String> = None;
    loop {
        let page = store.list(after.as_deref(), PAGE).map_err(wrong)?;
        let Some(last) = page.last() else { return Ok(checked) };
        after = Some(last.label().to_string());
        for listed in page {
            let key = listed.key().map_err(wrong)?;
            checked.keys += 1;
            match &unit {
                Some(unit) if key.backend == EMBEDDED => checked.unwrapped += unwrapped(&key, unit, copy)?,
                _ => *checked.remote.entry(key.backend).or_default() += 1,
            }
        }
    }
}

/// How many versions of a key there are, if the unit has the private key of each.
fn unwrapped(key: &Key, unit: &Unit, copy: &Path) -> Result<u64, BackupError> {
    let mut count = 0;
    for version in &key.versions {
        let wrong = |why: String| {
            let which = format!("version {} of key {} {why}", version.number, key.label);
            BackupError::Copy(copy.to_owned(), which)
        };
        match unit.public_key(&version.blob) {
            Ok(public) if public == version.spki => count += 1,
            Ok(_) => return Err(wrong("has the private key of another public key".into())),
            Err(error) => return Err(wrong(format!("does not open: {error}"))),
        }
    }
    Ok(count)
}

/// Puts a copy in the place of the key store of a state directory that has none with keys.
///
/// # Errors
/// [`BackupError`] says what is in the way.
pub(crate) fn restore(copy: &Path, state_dir: &Path) -> Result<PathBuf, BackupError> {
    let file = state_dir.join(KeyStore::FILE);
    let failed = |reason| BackupError::Write(file.clone(), reason);
    let scratch = tempfile::tempdir().map_err(|reason| BackupError::Scratch(std::env::temp_dir(), reason))?;
    let path = scratch.path().join(KeyStore::FILE);
    copy_file(copy, &path).map_err(|reason| BackupError::Read(copy.to_owned(), reason))?;
    match keys::look(scratch.path()) {
        Look::New => return Err(BackupError::Empty(copy.to_owned())),
        // A daemon says how that is migrated.
        Look::Old => {}
        Look::Used(_) => drop(
            KeyStore::open(scratch.path())
                .map_err(|error| BackupError::Copy(copy.to_owned(), named(&error, &path, copy)))?,
        ),
    }
    if let Look::Old | Look::Used(_) = keys::look(state_dir) {
        return Err(BackupError::InTheWay(file));
    }
    ownership::make_private_directory(state_dir)
        .and_then(|()| ownership::check_directory(state_dir, ownership::Owners::OwnOrService))
        .map_err(|error| failed(io::Error::other(error)))?;
    let owner = fs::metadata(state_dir).map_err(failed)?;
    // Where root has just made it, it is for the user of the service.
    let uid = migration::other_owner(state_dir).unwrap_or(owner.uid());
    let part = state_dir.join("keys.redb.restored");
    let _ = fs::remove_file(&part);
    // What was looked at, whatever a second look at the copy would show.
    let made = copy_file(&path, &part).inspect_err(|_| drop(fs::remove_file(&part))).map_err(failed)?;
    if uid != rustix::process::geteuid().as_raw() {
        // By the file, not by its name, which the owner of the directory can give to another one.
        std::os::unix::fs::fchown(&made, Some(uid), Some(owner.gid())).map_err(failed)?;
    }
    fs::rename(&part, &file).and_then(|()| File::open(state_dir)?.sync_all()).map_err(failed)?;
    Ok(file)
}

/// Copies a file to one that is not there, for its owner alone.
fn copy_file(from: &Path, to: &Path) -> io::Result<File> {
    let mut from = File::open(from)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    Ok(to)
}

/// An error of the scratch copy, told of the copy that it was made from.
fn named(error: &StoreError, scratch: &Path, copy: &Path) -> String {
    let text = error.to_string().replace(&scratch.display().to_string(), &copy.display().to_string());
    text.replace("; restore it from a backup", "")
}

/// Why a copy was not checked or restored.
#[derive(Debug, Error)]
pub(crate) enum BackupError {
    #[error("the copy {} is not sound: {}; take another one", .0.display(), .1)]
    Copy(PathBuf, String),
    #[error("{} is no copy of a key store: it is empty", .0.display())]
    Empty(PathBuf),
    #[error(
        "there is a key store already: {}; if it is to go, stop the daemon and put it aside: mv {} {}.before", .0.display(), quoted(.0), quoted(.0)
    )]
    InTheWay(PathBuf),
    #[error("the master key and the copy {} do not belong together: {}", .0.display(), .1)]
    MasterKey(PathBuf, String),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot make a directory in {} to open the copy in: {}", .0.display(), .1)]
    Scratch(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("cannot write {}: {}", .0.display(), .1)]
    Write(PathBuf, #[source] io::Error),
}

/// Keys that are looked at in one transaction.
const PAGE: usize = 1000;
