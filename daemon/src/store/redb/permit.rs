//! The permit of an administrator to bring a store of the format before to the present format.
//!
//! The blobs of such a store are wrapped when the store is unlocked, and for a unit with owners
//! that is after the start. So `serve --migrate-store` leaves a file, and the daemon removes the
//! file when the store has the present format.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::ground::ownership;
use crate::store::StoreError;
use crate::store::error::refused;

/// Permits the migration of a store.
///
/// # Errors
/// [`StoreError`] if the file cannot be made.
pub(crate) fn give(store: &Path) -> Result<(), StoreError> {
    let path = store.with_extension(PERMIT);
    ownership::make_file(&path).map_err(|error| refused(&path, error))?;
    sync(store).map_err(|reason| StoreError::Io(path, reason))
}

/// True if an administrator has permitted the migration of a store.
pub(crate) fn is_given(store: &Path) -> bool {
    store.with_extension(PERMIT).symlink_metadata().is_ok()
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
