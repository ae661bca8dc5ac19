//! The file with the state of a software crypto unit, in a directory of its own in the state
//! directory.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use keyward_unit::administration::{MAX_STATE, Register, State, StateFile};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::ownership::{self, Owners, OwnershipError};
use crate::replace::replace;
use crate::text::quoted;

/// The file with the state of a unit.
#[derive(Debug)]
pub struct UnitStateFile(PathBuf);

impl UnitStateFile {
    /// The file of a state directory.
    pub fn of(state_dir: &Path) -> Self {
        Self(state_dir.join(DIRECTORY).join(FILE))
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// False if there is no file. A file that this user may not see is there.
    pub fn exists(&self) -> bool {
        !self.0.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Reads the file. `None` if there is none: makes the directory for it.
    ///
    /// # Errors
    /// [`UnitStateError`] if another user can change the file, or it cannot be read.
    pub fn read(&self) -> Result<Option<Zeroizing<String>>, UnitStateError> {
        self.read_of(Owners::Own)
    }

    /// [`Self::read`] for a file that may belong to one of `owners`.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn read_of(&self, owners: Owners) -> Result<Option<Zeroizing<String>>, UnitStateError> {
        let refused = |reason| UnitStateError::Refused(self.0.clone(), reason);
        let failed = |reason| UnitStateError::Read(self.0.clone(), reason);
        if !self.exists() {
            let directory = self.0.parent().unwrap_or(Path::new("/"));
            ownership::make_private_directory(directory).map_err(refused)?;
            return Ok(None);
        }
        let file = ownership::open_of(&self.0, owners).map_err(|error| match error.into_io() {
            Ok(reason) => failed(reason),
            Err(error) => refused(error),
        })?;
        // The full capacity at once: a text that grows leaves copies of itself in memory.
        let mut text = Zeroizing::new(String::with_capacity(MAX_FILE + 1));
        file.take(MAX_FILE as u64 + 1).read_to_string(&mut text).map_err(failed)?;
        Ok(Some(text))
    }
}

impl StateFile for UnitStateFile {
    fn replace(&self, text: &str) -> io::Result<()> {
        replace(&self.0, text.as_bytes(), 0o600).map_err(|reason| {
            io::Error::new(
                reason.kind(),
                format!("{}: {reason}{}", self.0.display(), advice(&self.0, &reason)),
            )
        })
    }

    fn read(&self) -> io::Result<Option<Zeroizing<String>>> {
        Self::read(self).map_err(io::Error::other)
    }

    fn set_aside(&self) -> io::Result<()> {
        let mut names = (1_u32..).map(|number| self.0.with_added_extension(format!("found-{number}")));
        let free = names.find(|path| path.symlink_metadata().is_err());
        fs::rename(&self.0, free.unwrap_or_else(|| self.0.with_added_extension("found")))
    }
}

/// A note beside the directory of the unit: the unit that belongs to the state directory. The note
/// tells a lost state from a new one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownUnit {
    /// Identity of the unit.
    pub unit: String,
    /// True if the unit has owners.
    pub owned: bool,
    /// True if the unit has a master key, which authenticates its state.
    pub has_key: bool,
}

impl KnownUnit {
    /// The note of a unit in this state.
    pub fn of(state: &State) -> Self {
        Self { unit: state.unit().to_string(), owned: !state.is_unowned(), has_key: has_key(state) }
    }

    /// Reads the note of a state directory. `None` if there is none.
    ///
    /// # Errors
    /// [`UnitStateError::Note`] if another user can change the note, or it is damaged.
    /// [`UnitStateError::Read`] if this user may not read it.
    pub fn read(state_dir: &Path) -> Result<Option<Self>, UnitStateError> {
        let path = Self::path(state_dir);
        if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let failed = |reason: io::Error| match reason.kind() {
            io::ErrorKind::PermissionDenied => UnitStateError::Read(path.clone(), reason),
            _ => UnitStateError::Note(path.clone(), reason.to_string()),
        };
        let file = ownership::open(&path).map_err(|error| match error.into_io() {
            Ok(reason) => failed(reason),
            Err(error) => UnitStateError::Note(path.clone(), error.to_string()),
        })?;
        let mut text = String::new();
        file.take(MAX_NOTE).read_to_string(&mut text).map_err(failed)?;
        match Self::parse(&text) {
            Some(note) => Ok(Some(note)),
            None => Err(UnitStateError::Note(path, "it is damaged".into())),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, words) = text.trim_end().split_once(' ')?;
        let (word, has_key) = words.strip_suffix(KEY).map_or((words, false), |word| (word, true));
        let owned = [OWNED, UNOWNED].into_iter().position(|one| one == word)? == 0;
        Some(Self { unit: unit.to_owned(), owned, has_key })
    }

    /// True if the unit of the note had owners, and a unit with this state cannot be the one that
    /// they have now. Without a state there is none.
    pub fn is_lost(&self, state: Option<&State>) -> bool {
        // Owners can zeroize a unit, which gets another identity then. Without a master key,
        // nothing authenticates a state.
        let is_theirs = |state: &State| match state.is_unowned() {
            true => state.is_erased() && state.unit().to_string() != self.unit,
            false => has_key(state) || !self.has_key,
        };
        self.owned && !state.is_some_and(is_theirs)
    }

    /// Writes the note, unless it is there.
    ///
    /// # Errors
    /// The error of the system; the old note stays.
    pub fn keep(&self, state_dir: &Path) -> io::Result<()> {
        match Self::read(state_dir).is_ok_and(|known| known.as_ref() == Some(self)) {
            true => Ok(()),
            false => {
                let word = if self.owned { OWNED } else { UNOWNED };
                let key = if self.has_key { KEY } else { "" };
                replace(&Self::path(state_dir), format!("{} {word}{key}\n", self.unit).as_bytes(), 0o600)
            }
        }
    }

    /// Path of the note.
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(NOTE)
    }
}

fn has_key(state: &State) -> bool {
    [state.current(), state.new_register()].into_iter().any(|register| *register != Register::Empty)
}

/// No place: a unit that is only looked at keeps no state.
#[derive(Debug)]
pub struct Nowhere;

impl StateFile for Nowhere {
    fn replace(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn read(&self) -> io::Result<Option<Zeroizing<String>>> {
        Ok(None)
    }

    fn set_aside(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Error: the file with the state of a unit cannot be used.
#[derive(Debug, Error)]
pub enum UnitStateError {
    /// The note of the unit cannot be used.
    #[error(
        "cannot use {}, which notes whether the unit has owners: {}; mend the file, or restore it from a backup",
        .0.display(), .1
    )]
    Note(PathBuf, String),
    /// The system cannot read the file.
    #[error("cannot read the state of the unit in {}: {}{}", .0.display(), .1, advice(.0, .1))]
    Read(PathBuf, #[source] io::Error),
    /// Another user can change the file.
    #[error("cannot use the state of the unit in {}: {}", .0.display(), .1)]
    Refused(PathBuf, #[source] OwnershipError),
}

/// Advice for a file that the user of the daemon may not use.
fn advice(file: &Path, reason: &io::Error) -> String {
    if reason.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let (user, group) = ownership::own_names();
    let directory = file.parent().filter(|directory| directory.ends_with(DIRECTORY));
    let (what, place) = directory.map_or(("the file", file), |directory| ("its directory", directory));
    format!(
        "; {what} must belong to user {user}, who runs this program: as root, run: chown -hR {user}:{group} {}",
        quoted(place)
    )
}

const DIRECTORY: &str = "unit";
const NOTE: &str = "unit.known";
const OWNED: &str = "owned";
const UNOWNED: &str = "unowned";
/// Ends the note of a unit with a master key.
const KEY: &str = " key";
/// Longest note, in bytes. An identity has 32 digits.
const MAX_NOTE: u64 = 1024;
const FILE: &str = "state";
/// Longest file, in bytes: the state, and its MACs.
const MAX_FILE: usize = MAX_STATE + 256;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_state_is_replaced_as_a_whole_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = UnitStateFile::of(dir.path());
        assert!(!file.exists() && file.read().unwrap().is_none());
        file.replace("one").unwrap();
        assert_eq!(**file.read().unwrap().unwrap(), *"one");
        // The rest of a process that was killed, with another mode.
        let rest = file.path().with_added_extension("new");
        fs::write(&rest, "half of a longer state").unwrap();
        fs::set_permissions(&rest, Permissions::from_mode(0o644)).unwrap();
        file.replace("two").unwrap();
        assert_eq!(**file.read().unwrap().unwrap(), *"two");
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.path().parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(file.path(), Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(file.read(), Err(UnitStateError::Refused(..))));
    }
}
