//! Reads the master key of the embedded unit from a file or a credential.

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

/// Reads the master key from the configured file, or else from a credential of systemd.exec(5).
/// Accept patterns only for a store that was made with such a key.
///
/// # Errors
/// [`MasterKeyError`] says how to make a missing key.
pub fn load(configured: Option<&Path>, patterns: Patterns) -> Result<MasterKey, MasterKeyError> {
    load_named(configured, CREDENTIAL, patterns)?.ok_or(MasterKeyError::NotConfigured)
}

/// Reads the secret that unseals a unit with owners, from the configured file, or else from a
/// credential. `None` if there is neither.
///
/// # Errors
/// [`MasterKeyError`] says what is wrong with the file. The rules are those of a master key file.
pub fn load_unseal_key(configured: Option<&Path>) -> Result<Option<MasterKey>, MasterKeyError> {
    let key = load_named(configured, UNSEAL_CREDENTIAL, Patterns::Refused);
    key.map_err(|error| error.of_secret("unseal key"))
}

/// Reads the passphrase that unseals a unit, from the configured file, or else from a credential.
/// `None` if there is neither.
///
/// # Errors
/// [`MasterKeyError`] says what is wrong with the file. The rules are those of a master key file.
pub fn load_unseal_passphrase(
    configured: Option<&Path>,
) -> Result<Option<Zeroizing<Vec<u8>>>, MasterKeyError> {
    let read = |path: &Path, protection| match read_file(path, protection) {
        Ok(text) if text.trim_ascii().is_empty() => Err(MasterKeyError::Empty(path.to_owned())),
        read => read,
    };
    let text = match (configured, credential(PASSPHRASE_CREDENTIAL)) {
        (Some(path), _) => read(path, Protection::Mode).map(Some),
        (None, Some(path)) => read(&path, Protection::Systemd).map(Some),
        (None, None) => Ok(None),
    };
    text.map_err(|error| error.of_secret("unseal passphrase"))
}

/// Decision about a key whose bytes follow a pattern.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patterns {
    /// The key is accepted: blobs may exist that only this key unwraps.
    Accepted,
    /// The key is refused: this key has wrapped no blob yet.
    Refused,
}

/// Warning for a key whose bytes follow a pattern.
pub fn warning(key: &MasterKey) -> Option<&'static str> {
    key.follows_a_pattern().then_some(GUESSABLE)
}

/// Reads a key from a file, or else from the credential of this name. `None` if there is neither.
///
/// # Errors
/// [`MasterKeyError`] says what is wrong with the file.
pub fn load_named(
    configured: Option<&Path>,
    name: &str,
    patterns: Patterns,
) -> Result<Option<MasterKey>, MasterKeyError> {
    if let Some(path) = configured {
        return read(path, Protection::Mode, patterns).map(Some);
    }
    credential(name).map(|path| read(&path, Protection::Systemd, patterns)).transpose()
}

/// Path of a credential of systemd.exec(5), if the service has it.
pub(crate) fn credential(name: &str) -> Option<PathBuf> {
    let path = env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(name));
    path.filter(|path| path.exists())
}

/// Reads the master key of `--dev` in the state directory. Makes the key if `may_make` is true and
/// there is none.
///
/// # Errors
/// [`MasterKeyError`] if the file is missing or cannot be written.
pub fn load_dev(state_dir: &Path, may_make: bool) -> Result<MasterKey, MasterKeyError> {
    let path = state_dir.join(DEV_FILE);
    if may_make && !path.exists() {
        let master_key = MasterKey::generate()?;
        let failed = |reason| MasterKeyError::Write { path: path.clone(), reason };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let text = Zeroizing::new(format!("{}\n", &*master_key.to_hex()));
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    read(&path, Protection::Mode, Patterns::Refused)
}

/// Error: the master key cannot be read or made.
#[derive(Debug, Error)]
pub enum MasterKeyError {
    /// The file of a passphrase is empty.
    #[error("cannot use the master key in {}: the file is empty", .0.display())]
    Empty(PathBuf),
    /// The system gave no random numbers.
    #[error(transparent)]
    Generate(#[from] UnitError),
    /// The contents of the file are not a master key.
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
        "no master key: run keyward setup, which asks how the unit gets one, or start with --dev to try things out; docs/setup.md describes the choices"
    )]
    NotConfigured,
    /// The file of the master key does not exist, but the key store has keys.
    #[error(
        "cannot read the master key in {}: there is no such file, and the key store was made with that key; restore the file from a backup, or set master-key to the right file; a new master key cannot unwrap the keys", .0.display()
    )]
    Lost(PathBuf),
    /// The file of the master key does not exist.
    #[error(
        "cannot read the master key in {path}: there is no such file; if there are no keys yet, make the file with: (umask 077; set -C; openssl rand -hex 32 > {})", quoted(.0), path = .0.display()
    )]
    Missing(PathBuf),
    /// The key store was made with a master key, but no master key is configured.
    #[error(
        "no master key, and the key store was made with one: name its file as master-key in section [embedded] of the configuration, or the secret that keeps it as unseal-key or unseal-passphrase, or pass the credential"
    )]
    NotPassed,
    /// Users besides the owner can read the file.
    #[error(
        "refused the master key in {}: others than its owner can read it; run: chmod 600 {}; they may know it by now, and it opens every copy of the data that it protects; docs/key-store.md describes the change to a new key",
        .0.display(), quoted(.0)
    )]
    Open(PathBuf),
    /// A fault of a file that has another secret than a master key.
    #[error("{0}; if the master key has owners, they can bring their parts all the same")]
    OfSecret(String),
    /// The file cannot be read.
    #[error("cannot read the master key in {}: {reason}{}", path.display(), access_advice(path, reason))]
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
    /// Returns the error for a key that a store was made with. The new message does not advise to
    /// make another key.
    pub fn of_existing_store(self) -> Self {
        match self {
            Self::Missing(path) => Self::Lost(path),
            Self::NotConfigured => Self::NotPassed,
            other => other,
        }
    }

    /// Returns the error for a file with another secret. The rules are those of a master key file.
    fn of_secret(self, name: &str) -> Self {
        match self {
            Self::Missing(path) => {
                Self::OfSecret(format!("cannot read the {name} in {}: there is no such file", path.display()))
            }
            other => Self::OfSecret(other.to_string().replace("master key", name)),
        }
    }
}

/// Advice for a file that the daemon may not read: the user who must own the file.
fn access_advice(path: &Path, reason: &io::Error) -> String {
    if reason.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let owner = path.symlink_metadata().map(|found| format!("it belongs to {}, and ", Name(found.uid())));
    let (user, _) = ownership::own_names();
    format!(
        "; {}this program runs as {user}: if the daemon is to read the file as that user, run, as root: chown {user} {}; a daemon that systemd starts gets the file as a credential, and root stays its owner",
        owner.unwrap_or_default(),
        quoted(path)
    )
}

/// Protection against other readers of a file. In both cases, no other user may write to the file.
#[derive(PartialEq)]
enum Protection {
    /// The mode of the file, which is checked here.
    Mode,
    /// The access control list that systemd has set.
    Systemd,
}

fn read(path: &Path, protection: Protection, patterns: Patterns) -> Result<MasterKey, MasterKeyError> {
    let bytes = read_file(path, protection)?;
    let text = str::from_utf8(&bytes).unwrap_or_default().trim();
    let master_key = MasterKey::from_hex(text)
        .map_err(|reason| MasterKeyError::Invalid { path: path.to_owned(), reason })?;
    match patterns == Patterns::Refused && master_key.follows_a_pattern() {
        true => Err(MasterKeyError::Weak(path.to_owned())),
        false => Ok(master_key),
    }
}

/// Reads the first [`MAX_FILE`] bytes of a file that nobody else can read or change.
fn read_file(path: &Path, protection: Protection) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
    let failed = |reason: io::Error| match reason.kind() {
        io::ErrorKind::NotFound => MasterKeyError::Missing(path.to_owned()),
        _ => MasterKeyError::Read { path: path.to_owned(), reason },
    };
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => failed(reason),
        Err(error) => MasterKeyError::Refused(error),
    })?;
    let mode = file.metadata().map_err(failed)?.mode();
    if protection == Protection::Mode && mode & 0o077 != 0 {
        return Err(MasterKeyError::Open(path.to_owned()));
    }
    // With full capacity from the start: growing would leave unwiped copies in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    file.take(MAX_FILE as u64).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

const GUESSABLE: &str = "THE MASTER KEY CAN BE GUESSED: its bytes follow a pattern, and an attacker who has a copy of the blobs and guesses the master key has the keys; the daemon uses it because it wrapped the keys; make new keys with a random master key, have certificates issued for them, and revoke the old certificates";

const DEV_FILE: &str = "dev-master.key";
/// Credential with a master key (systemd.exec(5)).
pub const CREDENTIAL: &str = "master-key";
/// Credential with the secret that unseals a unit.
pub const UNSEAL_CREDENTIAL: &str = "unseal-key";
/// Credential with the passphrase that unseals a unit.
pub const PASSPHRASE_CREDENTIAL: &str = "unseal-passphrase";

/// Maximum length of a file, in bytes. A key has 64 digits and a line end; a passphrase may be
/// longer.
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
        let message = refused.to_string();
        let advice = format!("chmod 600 '{}'; they may know it by now", path.display());
        assert!(message.contains(&advice), "{message}");
        let message = MasterKeyError::Missing(path.clone()).to_string();
        assert!(message.ends_with(&format!("> '{}')", path.display())), "{message}");
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
    fn a_damaged_file_and_a_missing_file_are_different_errors() {
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
