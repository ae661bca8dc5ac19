//! The secrets that the setup makes, and the copy of one for another place.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use keyward_unit::MasterKey;
use zeroize::Zeroizing;

use super::choice::Way;
use super::files;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::ground::exit;
use crate::ground::master_key::{self, Patterns};
use crate::ground::ownership::{self, Name};
use crate::ground::passphrase;
use crate::ground::text::quoted;

/// Makes an unseal key: 32 random bytes in hexadecimal digits.
///
/// # Errors
/// [`Failure`] if the system gives no random numbers.
pub(super) fn unseal_key() -> Result<Zeroizing<String>, Failure> {
    MasterKey::generate().map(|key| key.to_hex()).map_err(no_randomness)
}

/// Makes a passphrase of [`GROUPS`] groups of letters and digits: 140 random bits.
///
/// # Errors
/// See [`unseal_key`].
pub(super) fn new_passphrase() -> Result<Zeroizing<String>, Failure> {
    let mut random = Zeroizing::new([0; GROUPS * GROUP]);
    aws_lc_rs::rand::fill(&mut *random).map_err(no_randomness)?;
    // The full capacity at once: a text that grows leaves copies of itself in memory.
    let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
    for (index, byte) in random.iter().enumerate() {
        if index > 0 && index % GROUP == 0 {
            text.push('-');
        }
        let character = ALPHABET.get(usize::from(byte % 32)).copied().unwrap_or_default();
        text.push(char::from(character));
    }
    Ok(text)
}

/// A line with a secret, for a file.
pub(super) fn line(secret: &str) -> Zeroizing<Vec<u8>> {
    let mut line = Zeroizing::new(Vec::with_capacity(secret.len() + 1));
    line.extend_from_slice(secret.as_bytes());
    line.push(b'\n');
    line
}

/// Checks that the copy of the secret does not come to a place with the data that it opens. Returns
/// the path without links.
///
/// # Errors
/// [`Failure`] if the file would be in one of these directories, or if its directory is missing.
pub(super) fn check_place(copy: &Path, apart_from: &[&Path]) -> Result<PathBuf, Failure> {
    let directory = files::directory_of(copy);
    let found = directory.canonicalize().map_err(|reason| {
        let attempt = format_args!("cannot make the recovery copy {}: {reason}", copy.display());
        Failure::new(exit::CANNOT_CREATE, attempt)
    })?;
    let inside = apart_from
        .iter()
        .find(|other| found.starts_with(other.canonicalize().unwrap_or_else(|_| other.to_path_buf())));
    match (inside, copy.file_name()) {
        (Some(inside), _) => Err(Failure::new(
            exit::USAGE,
            format_args!(
                "refused to make the recovery copy {}: it would be in {}, whose copies it must not be in; name a file on another medium",
                copy.display(),
                inside.display()
            ),
        )),
        (None, Some(name)) => Ok(found.join(name)),
        (None, None) => {
            Err(Failure::new(exit::USAGE, format_args!("{} is not the name of a file", copy.display())))
        }
    }
}

/// Writes the copy of a secret. A copy that is there already stays. Returns true if a file was
/// made.
///
/// # Errors
/// [`Failure`] if the file has something else, or cannot be made.
pub(super) fn write_copy(copy: &Path, secret: &str) -> Result<bool, Failure> {
    if copy.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return files::make_in_place(copy, &line(secret)).map(|()| true);
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_COPY));
    let read = File::open(copy).and_then(|file| file.take(MAX_COPY as u64).read_to_string(&mut text));
    read.map_err(|reason| Failure::reading(copy, &reason))?;
    match text.trim() == secret {
        true => Ok(false),
        false => Err(Failure::new(
            exit::CANNOT_CREATE,
            format_args!(
                "cannot make the recovery copy {}: the file exists, and does not have this secret; name another file",
                copy.display()
            ),
        )),
    }
}

/// Checks the file of a secret that the daemon reads. `reader` is the user of the daemon, if that
/// is another one than the user who runs this.
///
/// # Errors
/// [`Failure`] if the daemon would not accept the file.
pub(super) fn check(way: Way, file: &Path, reader: Option<u32>) -> Result<(), Failure> {
    let found = fs::metadata(file).map_err(|reason| Failure::reading(file, &reason))?;
    let name = match way {
        Way::Passphrase => "passphrase",
        Way::MasterKey => "master key",
        _ => "unseal key",
    };
    match reader {
        Some(reader) if found.uid() != reader => Err(Failure::new(
            exit::NO_PERMISSION,
            format_args!(
                "cannot use {}: it belongs to {}, and the daemon runs as {}; run: chown {reader} {}",
                file.display(),
                Name(found.uid()),
                Name(reader),
                quoted(file)
            ),
        )),
        Some(_) if found.mode() & 0o077 != 0 => {
            let error = master_key::MasterKeyError::Open(file.to_owned());
            Err(Failure::new(exit::CONFIG, error.to_string().replace("master key", name)))
        }
        Some(_) => Ok(()),
        None => {
            let loaded = match way {
                Way::Passphrase => master_key::load_unseal_passphrase(Some(file)).map(drop),
                Way::MasterKey => master_key::load(Some(file), Patterns::Accepted).map(drop),
                _ => master_key::load_unseal_key(Some(file)).map(drop),
            };
            loaded.map_err(|error| Failure::new(exit::CONFIG, error))
        }
    }
}

/// Warns of a passphrase that guesses may find.
pub(super) fn warn_of_short(file: &Path) {
    let text = File::open(file).and_then(ownership::read_all);
    if text.is_ok_and(|text| passphrase::is_short(&text)) {
        output::warn(format_args!("the passphrase in {} is short; {}", file.display(), passphrase::ADVICE));
    }
}

fn no_randomness<E>(_: E) -> Failure {
    Failure::new(exit::OS, "cannot make a secret: the system gives no random numbers")
}

/// Base 32 of Crockford, without letters that look like digits:
/// <https://www.crockford.com/base32.html>.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Number of groups in a passphrase.
const GROUPS: usize = 7;
/// Characters in a group.
const GROUP: usize = 4;
/// Maximum length of a copy that is compared, in bytes.
const MAX_COPY: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrases_are_groups_of_random_characters() {
        let (one, two) = (new_passphrase().unwrap(), new_passphrase().unwrap());
        assert_ne!(*one, *two);
        let groups: Vec<_> = one.split('-').collect();
        assert_eq!(groups.len(), GROUPS);
        let of_alphabet = |group: &&str| group.len() == GROUP && group.bytes().all(|c| ALPHABET.contains(&c));
        assert!(groups.iter().all(of_alphabet), "{groups:?}");
    }

    #[test]
    fn a_copy_comes_to_another_place_and_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let [etc, away] = ["etc", "away"].map(|name| dir.path().join(name));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&away).unwrap();
        std::os::unix::fs::symlink(&etc, dir.path().join("link")).unwrap();
        for inside in ["etc/copy", "etc/../etc/copy", "link/copy"] {
            let reason = check_place(&dir.path().join(inside), &[&etc]).unwrap_err().into_reason();
            assert!(reason.contains("another medium"), "{reason}");
        }
        assert!(check_place(&dir.path().join("none/copy"), &[&etc]).is_err());
        let copy = check_place(&away.join("copy"), &[&etc]).unwrap();
        assert!(write_copy(&copy, "secret").unwrap());
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o600);
        assert!(!write_copy(&copy, "secret").unwrap(), "the same copy once more");
        let reason = write_copy(&copy, "another").unwrap_err().into_reason();
        assert!(reason.contains("name another file") && !reason.contains("another\""), "{reason}");
        assert_eq!(fs::read(&copy).unwrap(), b"secret\n");
    }
}
