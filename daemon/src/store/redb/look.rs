//! Reads the state of the key store without changing it, for commands that do not start the daemon.

use std::io;
use std::path::Path;

use redb::{ReadOnlyDatabase, ReadableDatabase, ReadableTable};

use super::file::FILE;
use super::permit;
use super::tables::META;
use crate::ground::panics;
use crate::store::metadata::{BARE_FORMAT, FORMAT, OLD_FORMAT, OLD_SECRET, OLD_UNUSED, SECRET, WKID};

/// State of the key store in a state directory, as far as the user who asks may read the file.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Look {
    /// No store, no permission to look for the store, or a store that was never used.
    New,
    /// A store of an older format whose migration nobody has permitted. The value is the format.
    Old(&'static str),
    /// Any other store, even a store that is in use or damaged. The value is the name of the master
    /// key that the store was made with, if that name can be read.
    Used(Option<String>),
}

/// Names of the secrets that the next start needs, as far as a look tells.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum NamedSecrets {
    /// No store, or a store that a daemon has open and sees to.
    None,
    /// The secret in force, and the one before if it may wrap blobs.
    Known { in_force: Option<String>, old: Option<String> },
    /// The store cannot be read without a change, such as after a daemon that was killed.
    Unknown,
}

/// Finds the secrets of the store in a state directory, and changes nothing.
pub(crate) fn secrets_of(state_dir: &Path) -> NamedSecrets {
    let path = state_dir.join(FILE);
    if path.metadata().map_or(true, |found| found.len() == 0) {
        return NamedSecrets::None;
    }
    let look = || -> Result<_, redb::Error> {
        let meta = ReadOnlyDatabase::open(&path)?.begin_read()?.open_table(META)?;
        let text =
            |name| -> Result<_, redb::Error> { Ok(meta.get(name)?.map(|text| text.value().to_owned())) };
        let old = if text(OLD_UNUSED)?.is_none() { text(OLD_SECRET)? } else { None };
        Ok(NamedSecrets::Known { in_force: text(SECRET)?, old })
    };
    match panics::caught(look) {
        Ok(Ok(known)) => known,
        // A file that was not closed needs a repair, which writes.
        Ok(Err(redb::Error::RepairAborted)) => NamedSecrets::Unknown,
        // A damaged file, or one of another user: the start says more.
        _ => NamedSecrets::None,
    }
}

/// Finds the state of the store in a state directory, and changes nothing.
pub(crate) fn look(state_dir: &Path) -> Look {
    let path = state_dir.join(FILE);
    match path.symlink_metadata() {
        Err(error) => return if is_hidden(&error) { Look::New } else { Look::Used(None) },
        Ok(found) if found.len() == 0 => return Look::New,
        Ok(found) if !found.is_file() => return Look::Used(None),
        Ok(_) => {}
    }
    let look = || -> Result<Look, redb::Error> {
        let meta = ReadOnlyDatabase::open(&path)?.begin_read()?.open_table(META)?;
        let text =
            |name| -> Result<_, redb::Error> { Ok(meta.get(name)?.map(|text| text.value().to_owned())) };
        let others = meta.iter()?.filter_map(Result::ok).any(|(name, _)| name.value() != FORMAT);
        Ok(match text(FORMAT)?.as_deref() {
            Some(OLD_FORMAT) => Look::Old(OLD_FORMAT),
            Some(BARE_FORMAT) if !permit::is_given(&path) => Look::Old(BARE_FORMAT),
            _ if !others => Look::New,
            _ => Look::Used(text(WKID)?),
        })
    };
    // redb panics on some kinds of damage.
    panics::caught(look).ok().and_then(Result::ok).unwrap_or(Look::Used(None))
}

fn is_hidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}
