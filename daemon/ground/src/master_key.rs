//! Where the master key of the embedded unit comes from.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use keyward_unit::{InvalidMasterKey, MasterKey, UnitError};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ownership::{self, Name, OwnershipError};
use crate::text::quoted;

/// Reads the master key from the file of the configuration, or else from a credential of
/// systemd.exec(5). One that follows a pattern is only for a store that was made with it, for which
/// `patterns` says so.
///
/// # Errors
/// [`MasterKeyError`] says what is missing and how to make it.
pub fn load(configured: Option<&Path>, patterns: Patterns) -> Result<MasterKey, MasterKeyError> {
    load_named(configured, CREDENTIAL, patterns)?.ok_or(MasterKeyError::NotConfigured)
}

/// Reads the master key that is to come: from the file of the configuration, or else from a
/// credential, if there is one.
///
/// # Errors
/// [`MasterKeyError`] says what is wrong with the file.
pub fn load_next(configured: Option<&Path>) -> Result<Option<MasterKey>, MasterKeyError> {
    load_named(configured, NEXT_CREDENTIAL, Patterns::Refused).map_err(|error| match error {
        MasterKeyError::Missing(path) => MasterKeyError::NextMissing(path),
        other => other,
    })
}

/// Whether a key is taken whose bytes follow a pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patterns {
    /// It is: keys were wrapped by it before it was looked at, and nothing else unwraps them.
    Accepted,
    /// The key is refused: nothing was wrapped by it yet.
    Refused,
}

/// What a person must know who goes on with such a key.
pub fn warning(key: &MasterKey) -> Option<&'static str> {
    key.follows_a_pattern().then_some(GUESSABLE)
}

/// Reads a key from a file, or else from a credential of this name, if there is one.
///
/// # Errors
/// [`MasterKeyError`] says what is wrong with the file.
pub fn load_named(
    configured: Option<&Path>,
    credential: &str,
    patterns: Patterns,
) -> Result<Option<MasterKey>, MasterKeyError> {
    if let Some(path) = configured {
        return read(path, Guard::Mode, patterns).map(Some);
    }
    let credential = env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(credential));
    // systemd opens credentials to the service by an access control list, which shows as a group's
    // mode.
    credential.filter(|path| path.exists()).map(|path| read(&path, Guard::Systemd, patterns)).transpose()
}

/// Reads the master key of a unit that runs alone, from the file of its command line, or else as [`load`].
///
/// # Errors
/// [`MasterKeyError`] says what is missing and how to make it.
pub fn load_for_unit(file: Option<&Path>, patterns: Patterns) -> Result<MasterKey, MasterKeyError> {
    load(file, patterns).map_err(|error| match error {
        MasterKeyError::NotConfigured => MasterKeyError::NotNamed,
        other => other,
    })
}

/// Reads the master key that `--dev` keeps in the state directory; makes it if `fresh`.
///
/// # Errors
/// [`MasterKeyError`] says what is missing.
pub fn load_dev(state_dir: &Path, fresh: bool) -> Result<MasterKey, MasterKeyError> {
    let path = state_dir.join(DEV_FILE);
    if fresh && !path.exists() {
        let master_key = MasterKey::generate()?;
        let failed = |reason| MasterKeyError::Write { path: path.clone(), reason };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let text = Zeroizing::new(format!("{}\n", &*master_key.to_hex()));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    read(&path, Guard::Mode, Patterns::Refused)
}

/// Why there is no master key.
#[derive(Debug, Error)]
pub enum MasterKeyError {
    /// The system has no random numbers.
    #[error(transparent)]
    Generate(#[from] UnitError),
    /// The file holds something else than a master key.
    #[error("cannot use the master key in {}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The fault of its contents.
        #[source]
        reason: InvalidMasterKey,
    },
    /// The configuration of the daemon names no master key.
    #[error(
        "no master key: set master-key in section [embedded] of the configuration to a file made with (umask 077; set -C; openssl rand -hex 32 > FILE), or start with --dev to try things out"
    )]
    NotConfigured,
    /// The file of the next master key does not exist.
    #[error(
        "cannot read the next master key in {}: there is no such file; name the place where it is, or take next-master-key out of the configuration if the keys have it, or are not to have it", .0.display()
    )]
    NextMissing(PathBuf),
    /// The command line of a unit names no master key.
    #[error(
        "no master key: name a file made with (umask 077; set -C; openssl rand -hex 32 > FILE) by --master-key, or start with --dev to try things out"
    )]
    NotNamed,
    /// The file of a master key that keys were wrapped by does not exist.
    #[error(
        "cannot read the master key in {}: there is no such file, and the key store was made with it; restore the file from a backup, or name the place where it is: a new one opens nothing", .0.display()
    )]
    Lost(PathBuf),
    /// The file of the master key does not exist.
    #[error(
        "cannot read the master key in {path}: there is no such file; if there are no keys yet that need it, make it with: (umask 077; set -C; openssl rand -hex 32 > {})", quoted(.0), path = .0.display()
    )]
    Missing(PathBuf),
    /// The key store was made with a master key, and none is configured.
    #[error(
        "no master key, and the key store was made with one: set master-key in section [embedded] of the configuration to the file of that, or pass it as the credential master-key"
    )]
    NotPassed,
    /// Users besides the owner can read the file.
    #[error(
        "refused the master key in {}: others than its owner can read it; run: chmod 600 {}; they may know it by now, and it opens each copy of what it protects: docs/key-store.md says how to go on with another one",
        .0.display(), quoted(.0)
    )]
    Open(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the master key in {}: {reason}{}", path.display(), of_access(path, reason))]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        reason: io::Error,
    },
    /// Another user can change the file.
    #[error("refused the master key: {0}")]
    Refused(OwnershipError),
    /// The bytes of the key follow a pattern.
    #[error(
        "refused the master key in {}: its bytes follow a pattern, so it can be guessed; make one with: (umask 077; set -C; openssl rand -hex 32 > FILE)",
        .0.display()
    )]
    Weak(PathBuf),
    /// The file cannot be written.
    #[error("cannot write the master key to {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        reason: io::Error,
    },
}

impl MasterKeyError {
    /// The same of a key that a store was made with: nobody is told to make another one.
    pub fn of_existing_store(self) -> Self {
        match self {
            Self::Missing(path) => Self::Lost(path),
            Self::NotConfigured => Self::NotPassed,
            other => other,
        }
    }
}

/// Who must own a file that the daemon may not read.
fn of_access(path: &Path, reason: &io::Error) -> String {
    if reason.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let owner = path.symlink_metadata().map(|found| format!("it belongs to {}, and ", Name(found.uid())));
    let (user, _) = ownership::own_names();
    format!(
        "; {}this runs as {user}: if the daemon is to read it as that user, run, as root: chown {user} {}; a daemon that systemd starts gets it as a credential, and the file stays root's",
        owner.unwrap_or_default(),
        quoted(path)
    )
}

/// Who sees to it that nobody else can read a file. Nobody else may write to it, either way.
#[derive(PartialEq)]
enum Guard {
    Mode,
    Systemd,
}

fn read(path: &Path, guard: Guard, patterns: Patterns) -> Result<MasterKey, MasterKeyError> {
    let failed = |reason: io::Error| match reason.kind() {
        io::ErrorKind::NotFound => MasterKeyError::Missing(path.to_owned()),
        _ => MasterKeyError::Read { path: path.to_owned(), reason },
    };
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => failed(reason),
        Err(error) => MasterKeyError::Refused(error),
    })?;
    let mode = file.metadata().map_err(failed)?.mode();
    if guard == Guard::Mode && mode & 0o077 != 0 {
        return Err(MasterKeyError::Open(path.to_owned()));
    }
    // As large as it can become, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    file.take(MAX_FILE as u64).read_to_end(&mut bytes).map_err(failed)?;
    let text = str::from_utf8(&bytes).unwrap_or_default().trim();
    let master_key = MasterKey::from_hex(text)
        .map_err(|reason| MasterKeyError::Invalid { path: path.to_owned(), reason })?;
    match patterns == Patterns::Refused && master_key.follows_a_pattern() {
        true => Err(MasterKeyError::Weak(path.to_owned())),
        false => Ok(master_key),
    }
}

const GUESSABLE: &str = "THE MASTER KEY CAN BE GUESSED: its bytes follow a pattern, and whoever has a copy of the blobs and guesses it has the keys; it is used since they were made with it: make new keys with a master key at random, have certificates issued for them, and revoke those of the old ones";

const DEV_FILE: &str = "dev-master.key";
const CREDENTIAL: &str = "master-key";
const NEXT_CREDENTIAL: &str = "next-master-key";

/// More than 64 digits and a line end, in bytes.
const MAX_FILE: usize = 256;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_dev_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load_dev(dir.path(), false), Err(MasterKeyError::Missing(_))));
        let first = load_dev(dir.path(), true).unwrap().to_hex();
        assert_eq!(*load_dev(dir.path(), true).unwrap().to_hex(), *first);
        assert_eq!(fs::metadata(dir.path().join(DEV_FILE)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        load_dev(dir.path(), true).unwrap();
        let path = dir.path().join("my key");
        fs::rename(dir.path().join(DEV_FILE), &path).unwrap();
        assert!(load(Some(&path), Patterns::Refused).is_ok());
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let refused = load(Some(&path), Patterns::Refused).err().unwrap();
        assert!(matches!(refused, MasterKeyError::Open(_)));
        let told = refused.to_string();
        assert!(told.contains(&format!("chmod 600 '{}'; they may know it by now", path.display())), "{told}");
        let told = MasterKeyError::Missing(path.clone()).to_string();
        assert!(told.ends_with(&format!("> '{}')", path.display())), "{told}");
    }

    #[test]
    fn a_file_with_a_pattern_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for digits in ["00".repeat(32), "0123456789abcdef".repeat(4)] {
            fs::write(&path, digits).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(load(Some(&path), Patterns::Refused), Err(MasterKeyError::Weak(_))));
            let accepted = load(Some(&path), Patterns::Accepted).unwrap();
            assert!(warning(&accepted).is_some());
        }
    }

    #[test]
    fn damage_is_told_from_absence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(load(Some(&path), Patterns::Refused), Err(MasterKeyError::Missing(_))));
        fs::write(&path, "0123").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = load(Some(&path), Patterns::Refused).err().unwrap();
        assert!(matches!(error, MasterKeyError::Invalid { .. }));
        assert!(!error.to_string().contains("0123"));
    }
}
