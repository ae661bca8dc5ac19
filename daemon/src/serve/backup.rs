//! Checks a backup copy of the key store, and restores the store from a copy.

use core::cmp::Ordering;
use core::fmt;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyward_unit::Unit;
use serde::Serialize;
use tempfile::TempDir;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::{Config, EMBEDDED};
use crate::ground::ownership::{self, Owners};
use crate::ground::text::quoted;
use crate::ground::unit_state::{UnitStateError, UnitStateFile};
use crate::keys::shred::{MAX_RECOVERY, Named, Recovery, RecoveryError, SecretFiles, ShredSecret};
use crate::keys::{self, Key, KeyStore, Look, StoreError, permit, unlock};
use crate::lifecycle;
use crate::serve::embedded_unit::{self, Opened};
use crate::serve::error::ServeError;
use crate::serve::migration::{self, MASTER_KEY, STORE_KEY};
use crate::serve::options::Options;
use crate::serve::store_key;

/// Result of the check of a valid copy.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// Number of keys in the copy.
    pub(crate) keys: u64,
    /// Number of versions of keys of the embedded unit. The master key unwraps the blob of each to
    /// the private key of its public key.
    pub(crate) unwrapped: u64,
    /// Number of keys at each remote backend. Only the units can check the blobs of such keys.
    pub(crate) remote: BTreeMap<String, u64>,
    /// Name of the master key of the embedded unit.
    pub(crate) master_key: Option<String>,
    /// Time at which the store was made, in seconds since 1970.
    pub(crate) made: Option<u64>,
    /// Directory with the state of the unit, if the state was needed, too.
    pub(crate) unit: Option<PathBuf>,
    /// Directory with the secrets of the copy, if they were read from the state directory.
    pub(crate) secrets: Option<PathBuf>,
}

/// Opens a copy with the master key with which the daemon would start, and checks every key. The
/// secrets that wrap its blobs come from the recovery file, or else from the state directory.
///
/// # Errors
/// [`BackupError`] says whether the copy, the recovery file or the master key is wrong.
pub(crate) fn check(
    copy: &Path,
    recovery: Option<&Path>,
    options: &Options,
    mut config: Config,
) -> Result<Checked, BackupError> {
    // A store is opened for writing, and the copy must not change.
    let (scratch, path) = to_scratch(copy, |reason| BackupError::Read(copy.to_owned(), reason))?;
    let wrong = |error: StoreError| BackupError::Copy(copy.to_owned(), with_path_of(&error, &path, copy));
    // A copy of the second format is brought to the present format in the scratch directory.
    permit::give(&path).map_err(wrong)?;
    if keys::look(scratch.path()) == Look::New {
        return Err(BackupError::Empty(copy.to_owned()));
    }
    let recovery = recovery.map(read_recovery).transpose()?;
    let needed = KeyStore::needed_secrets(scratch.path()).map_err(wrong)?;
    let secrets = Found::find(copy, needed, recovery, &options.state_dir)?;
    let of_host = (!secrets.in_place.is_empty())
        .then(|| SecretFiles::of(&options.state_dir, Owners::OwnOrService).directory().to_owned());
    let secrets = secrets.in_place.into_iter().chain(secrets.in_recovery).collect();
    let store = KeyStore::open_with(scratch.path(), secrets).map_err(wrong)?;
    let dev = store.is_dev().map_err(wrong)? == Some(true) && config.embedded.master_key.is_none();
    let options = Options { dev, ..options.clone() };
    let passed = |configured: Option<PathBuf>, file: &str| {
        configured.or_else(|| Some(file.into()).filter(|file: &PathBuf| file.exists()))
    };
    // The files that systemd passes to the daemon as credentials.
    config.embedded.master_key = passed(config.embedded.master_key, MASTER_KEY.1);
    config.store_key = passed(config.store_key, STORE_KEY.1);
    // A user who cannot read the state has the master key in a file.
    let file = UnitStateFile::of(&options.state_dir);
    let read = if file.exists() { file.read_of(Owners::OwnOrService) } else { Ok(None) };
    let (state, unread) = read.map_or_else(|error| (None, Some(error)), |state| (state, None));
    let needs_state = state.is_some() && needs_state(&options, &config, &store)?;
    let unit = match embedded_unit::look(&options, &config, &store, state.as_deref().map(String::as_str))? {
        Some(Opened { problem: Some(unusable), .. }) => {
            return Err(BackupError::MasterKey(copy.to_owned(), unusable.to_string()));
        }
        Some(Opened { unit, .. }) if unit.is_sealed() => {
            let copy = copy.to_owned();
            return Err(match unread {
                Some(error) => BackupError::State(copy, error),
                None => BackupError::Owners(copy),
            });
        }
        Some(Opened { unit, .. }) => Some(unit),
        None => None,
    };
    let file_key = store_key::load_for(&options, &config, false).map_err(ServeError::from)?;
    // If the master key wraps the store key, no file is needed.
    let file_key = file_key.filter(|_| unit.is_none());
    unlock::unlock(&store, unit.as_deref(), file_key)
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
        unit: file.path().parent().filter(|_| needs_state).map(Path::to_owned),
        secrets: of_host,
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

/// True if the files and secrets of this host do not open the store without the state of the unit.
fn needs_state(options: &Options, config: &Config, store: &KeyStore) -> Result<bool, ServeError> {
    let opened = embedded_unit::look(options, config, store, None)?;
    Ok(opened.is_none_or(|opened| opened.unit.is_sealed()))
}

/// Returns the number of versions of a key. Checks that the unit has the private key of each.
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
            Err(error) => return Err(wrong(format!("cannot be unwrapped: {error}"))),
        }
    }
    Ok(count)
}

/// Restores the key store of a state directory from a copy, and the secrets that the copy needs
/// from a recovery file. Returns the path of the store.
///
/// # Errors
/// [`BackupError`], such as for a directory that has a key store with keys already, or if a secret
/// is neither in the recovery file nor in the directory.
pub(crate) fn restore(
    copy: &Path,
    recovery: Option<&Path>,
    state_dir: &Path,
) -> Result<PathBuf, BackupError> {
    let file = state_dir.join(KeyStore::FILE);
    let failed = |reason| BackupError::Write(file.clone(), reason);
    if state_dir.exists() {
        check_state_dir(state_dir).map_err(failed)?;
    }
    let (scratch, path) = to_scratch(copy, |reason| BackupError::Read(copy.to_owned(), reason))?;
    let recovery = recovery.map(read_recovery).transpose()?;
    let secrets = match keys::look(scratch.path()) {
        Look::New => return Err(BackupError::Empty(copy.to_owned())),
        // At its start, the daemon says how to migrate such a store.
        Look::Old(_) => Found::default(),
        Look::Used(_) => {
            let needed = KeyStore::needed_secrets(scratch.path())
                .map_err(|error| BackupError::Copy(copy.to_owned(), with_path_of(&error, &path, copy)))?;
            Found::find(copy, needed, recovery, state_dir)?
        }
    };
    if let Look::Old(_) | Look::Used(_) = keys::look(state_dir) {
        return Err(BackupError::InTheWay(file));
    }
    let owner = prepare(state_dir).map_err(failed)?;
    // The secrets first: a store without them does not open.
    secrets.write(state_dir, owner)?;
    let part = state_dir.join("keys.redb.restored");
    let _ = fs::remove_file(&part);
    // From the scratch copy, which was checked: the copy itself may have changed meanwhile.
    let made = copy_file(&path, &part).inspect_err(|_| drop(fs::remove_file(&part))).map_err(failed)?;
    if let Some((uid, gid)) = owner {
        // By descriptor, not by name: the owner of the directory could exchange the file.
        std::os::unix::fs::fchown(&made, Some(uid), Some(gid)).map_err(failed)?;
    }
    // A permit was for the file that was here before.
    permit::end(&file).map_err(|error| failed(io::Error::other(error)))?;
    // In this hour, an administrator can keep keys that are deleted in the copy.
    lifecycle::hold_destructions(state_dir).map_err(failed)?;
    fs::rename(&part, &file).and_then(|()| File::open(state_dir)?.sync_all()).map_err(failed)?;
    Ok(file)
}

/// Puts the secrets that the key store of a state directory needs back into the directory.
///
/// # Errors
/// [`BackupError`], such as for a recovery file that does not have these secrets.
pub(crate) fn restore_secrets(recovery: &Path, state_dir: &Path) -> Result<PathBuf, BackupError> {
    let file = state_dir.join(KeyStore::FILE);
    let failed = |reason| BackupError::Write(file.clone(), reason);
    let recovery = read_recovery(recovery)?;
    // The store may be of another user. To look into it can need a repair, which writes.
    let (scratch, path) = to_scratch(&file, |reason| BackupError::NoStore(file.clone(), reason))?;
    // A store of the second format needs no secret.
    let needed = permit::give(&path)
        .and_then(|()| KeyStore::needed_secrets(scratch.path()))
        .map_err(|error| BackupError::Copy(file.clone(), with_path_of(&error, &path, &file)))?;
    let secrets = Found::find(&file, needed, Some(recovery), state_dir)?;
    let owner = prepare(state_dir).map_err(failed)?;
    secrets.write(state_dir, owner)?;
    Ok(file)
}

/// Makes a state directory, or checks it. Returns the user and the group of its files, if they are
/// not those of this process.
fn prepare(state_dir: &Path) -> io::Result<Option<(u32, u32)>> {
    ownership::make_private_directory(state_dir).map_err(io::Error::other)?;
    check_state_dir(state_dir)?;
    let owner = fs::metadata(state_dir)?;
    // If root has just made the directory, the store is for the user of the service.
    let uid = migration::other_owner(state_dir).unwrap_or(owner.uid());
    Ok((uid != rustix::process::geteuid().as_raw()).then_some((uid, owner.gid())))
}

fn check_state_dir(state_dir: &Path) -> io::Result<()> {
    ownership::check_directory(state_dir, Owners::OwnOrService).map_err(io::Error::other)
}

/// Copies a store to a directory of its own, and returns the directory and the copy. `unreadable`
/// makes the error for a store that cannot be read.
fn to_scratch(
    store: &Path,
    unreadable: impl FnOnce(io::Error) -> BackupError,
) -> Result<(TempDir, PathBuf), BackupError> {
    let failed = |reason| BackupError::Scratch(std::env::temp_dir(), reason);
    let scratch = tempfile::tempdir().map_err(failed)?;
    let path = scratch.path().join(KeyStore::FILE);
    copy_file(store, &path).map_err(|reason| match reason.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed(reason),
        _ => unreadable(reason),
    })?;
    Ok((scratch, path))
}

/// Reads a recovery file.
///
/// # Errors
/// [`BackupError`] if the file cannot be read, or is none.
pub(crate) fn read_recovery(path: &Path) -> Result<Recovery, BackupError> {
    let failed = |reason| BackupError::Read(path.to_owned(), reason);
    // The full capacity at once: bytes that grow leave copies of themselves in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_RECOVERY + 1));
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_RECOVERY as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    Recovery::parse(&bytes).map_err(|reason| BackupError::Recovery(path.to_owned(), reason))
}

/// The secrets that a store needs.
#[derive(Default)]
struct Found {
    /// Secrets that are in the state directory.
    in_place: Vec<ShredSecret>,
    /// Secrets that are in the recovery file.
    in_recovery: Vec<ShredSecret>,
}

impl Found {
    fn find(
        store: &Path,
        needed: Vec<Named>,
        recovery: Option<Recovery>,
        state_dir: &Path,
    ) -> Result<Self, BackupError> {
        let has = recovery.as_ref().map(|recovery| recovery.in_force.0);
        let mut offered: Vec<_> = recovery.into_iter().flat_map(Recovery::into_secrets).collect();
        let files = SecretFiles::of(state_dir, Owners::OwnOrService);
        let mut found = Self::default();
        for needed in needed {
            if let Some(place) = offered.iter().position(|(named, _)| named.id == needed.id) {
                found.in_recovery.push(offered.swap_remove(place).1);
                continue;
            }
            // A recovery file that was named is enough, or is the wrong one.
            let in_place = if has.is_some() { Ok(None) } else { files.read(needed.id) };
            match in_place {
                Ok(Some(secret)) => found.in_place.push(secret),
                Ok(None) => {
                    let missing = MissingSecret { needed, has, files: files.directory().to_owned() };
                    return Err(BackupError::Secret(store.to_owned(), missing));
                }
                Err(reason) => return Err(BackupError::SecretFile(files.path(needed.id), reason)),
            }
        }
        Ok(found)
    }

    /// Writes the secrets of the recovery file to the state directory.
    fn write(&self, state_dir: &Path, owner: Option<(u32, u32)>) -> Result<(), BackupError> {
        let files = SecretFiles::of(state_dir, Owners::OwnOrService);
        for secret in &self.in_recovery {
            let failed = |reason| BackupError::Write(files.path(secret.id()), reason);
            files.write(secret, owner).map_err(failed)?;
        }
        Ok(())
    }
}

/// A secret that a store needs, and that is neither in the recovery file nor in the state
/// directory.
#[derive(Debug)]
pub(crate) struct MissingSecret {
    needed: Named,
    /// The secret in the recovery file.
    has: Option<Named>,
    files: PathBuf,
}

impl fmt::Display for MissingSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, has, files } = self;
        write!(f, "it needs the secret {needed}, which is not in {}", files.display())?;
        let Some(has) = has else {
            return write!(f, "; name the recovery file of the same time: --recovery FILE");
        };
        let age = match has.number.cmp(&needed.number) {
            Ordering::Less => "older: it was made before a purge that the store has seen",
            Ordering::Equal => "of another store, or of a store that went on from another copy",
            Ordering::Greater => "newer: it was made after a later purge",
        };
        write!(
            f,
            "; the recovery file has the secret {has}, so it is {age}; use the recovery file of the same time"
        )
    }
}

/// Copies a file to a new file with mode 0600.
fn copy_file(from: &Path, to: &Path) -> io::Result<File> {
    let mut from = File::open(from)?;
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    Ok(to)
}

/// Returns the message of an error of the scratch copy, with the path of the original copy.
fn with_path_of(error: &StoreError, scratch: &Path, copy: &Path) -> String {
    let text = error.to_string().replace(&scratch.display().to_string(), &copy.display().to_string());
    text.replace("; restore it from a backup", "")
}

/// Reason why a copy was not checked or restored.
#[derive(Debug, Error)]
pub(crate) enum BackupError {
    #[error("the copy {} is not valid: {}; use another copy", .0.display(), .1)]
    Copy(PathBuf, String),
    #[error("{} is not a copy of a key store: it is empty", .0.display())]
    Empty(PathBuf),
    #[error("the copy {} cannot be checked here: the secret that opens its master key is the encrypted credential {}, which only systemd decrypts; run: systemd-run --pipe --wait --property=LoadCredentialEncrypted={}:{} keyward backup check {}", .0.display(), .2.display(), .1, .2.display(), quoted(.0))]
    Encrypted(PathBuf, String, PathBuf),
    #[error(
        "cannot restore: there is a key store with keys, {}; to replace it, make a recovery file of it (keyward backup --recovery FILE), without which it does not open after the next purge, then stop the daemon and move the store away: mv {} {}.before", .0.display(), quoted(.0), quoted(.0)
    )]
    InTheWay(PathBuf),
    #[error("the master key and the copy {} do not belong together: {}", .0.display(), .1)]
    MasterKey(PathBuf, String),
    #[error("the copy {} cannot be checked here: no file and no secret of this host opens its master key; if the master key has owners, restore the copy on another machine, and bring the parts", .0.display())]
    Owners(PathBuf),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot make a temporary directory in {} for the copy: {}; to use another directory: TMPDIR=DIR", .0.display(), .1)]
    Scratch(PathBuf, #[source] io::Error),
    #[error("cannot put secrets back, because there is no key store that needs them: cannot read {}: {}; with a copy, run: keyward restore COPY --recovery FILE", .0.display(), .1)]
    NoStore(PathBuf, #[source] io::Error),
    #[error("cannot use the recovery file {}: {}", .0.display(), .1)]
    Recovery(PathBuf, #[source] RecoveryError),
    #[error("the blobs in {} do not open: {}", .0.display(), .1)]
    Secret(PathBuf, MissingSecret),
    #[error("cannot read the secret of the key store in {}: {}", .0.display(), .1)]
    SecretFile(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the copy {} cannot be checked here: {}", .0.display(), .1)]
    State(PathBuf, #[source] UnitStateError),
    #[error("cannot write {}: {}", .0.display(), .1)]
    Write(PathBuf, #[source] io::Error),
}

/// Number of keys that are read in one transaction.
const PAGE: usize = 1000;
