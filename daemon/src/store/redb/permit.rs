//! The permit of an administrator to bring a store of the format before to the present format.
//!
//! The blobs of such a store are wrapped when the store is unlocked, and for a unit with owners
//! that is after the start. So `serve --migrate-store` leaves a file, and the daemon removes the
//! file when the store has the present format.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::ground::replace::replace;
use crate::store::StoreError;

/// Permits the migration of a store: of the file that has its name now, and of no other one.
///
/// # Errors
/// [`StoreError`] if the permit cannot be written.
pub(crate) fn give(store: &Path) -> Result<(), StoreError> {
    let path = store.with_extension(PERMIT);
    let file = name_of(store).map_err(|reason| StoreError::Io(store.to_owned(), reason))?;
    replace(&path, file.as_bytes(), 0o600).map_err(|reason| StoreError::Io(path, reason))
}

/// True if an administrator has permitted the migration of the file of a store.
pub(crate) fn is_given(store: &Path) -> bool {
    let permitted = fs::read_to_string(store.with_extension(PERMIT));
    permitted.is_ok_and(|permitted| name_of(store).is_ok_and(|file| file == permitted))
}

/// Name by which a file is told from another one at the same path.
fn name_of(store: &Path) -> io::Result<String> {
    let found = store.metadata()?;
    Ok(format!("{} {}\n", found.dev(), found.ino()))
}

/// Ends the permit, if there is one.
///
/// # Errors
/// [`StoreError`] if the file cannot be removed.
pub(crate) fn end(store: &Path) -> Result<(), StoreError> {
    let path = store.with_extension(PERMIT);
    match fs::remove_file(&path) {
        Ok(()) => sync(store).map_err(|reason| StoreError::Io(path, reason)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::Io(path, error)),
    }
}

fn sync(store: &Path) -> io::Result<()> {
    store.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

const PERMIT: &str = "redb.migrate";
