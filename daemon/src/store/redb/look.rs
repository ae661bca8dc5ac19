//! Reads the state of the key store without changing it, for commands that do not start the daemon.

use std::io;
use std::path::Path;

use redb::{ReadOnlyDatabase, ReadableDatabase, ReadableTable};

use super::file::FILE;
use super::permit;
use super::tables::META;
use crate::ground::panics;
use crate::store::metadata::{BARE_FORMAT, FORMAT, OLD_FORMAT, SECRET, WKID};

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

/// Number and id of the secret that wraps the blobs of the store. `None` if there is none, or if
/// the store cannot be read, such as a store that is in use. Changes nothing.
pub(crate) fn secret_of(state_dir: &Path) -> Option<String> {
    let look = || -> Result<_, redb::Error> {
        let meta = ReadOnlyDatabase::open(state_dir.join(FILE))?.begin_read()?.open_table(META)?;
        Ok(meta.get(SECRET)?.map(|text| text.value().to_owned()))
    };
    panics::caught(look).ok().and_then(Result::ok).flatten()
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
