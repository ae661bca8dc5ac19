//! The file of the key store as a database, which is opened anew after a fault.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase};

use super::tables::{INDEX, KEYS, META};
use crate::ground::{ownership, panics};
use crate::store::error::{StoreError, fault, refused};

/// The outer error is a fault of the database, the inner one an answer.
pub(crate) type Attempt<T> = Result<Result<T, StoreError>, redb::Error>;

/// The file. A fault of the disk costs the operation that met it.
pub(crate) struct StoreFile {
    path: PathBuf,
    /// The same file, whatever becomes of its name.
    file: File,
    open: RwLock<Open>,
}

impl StoreFile {
    /// Opens the file, or makes a database of an empty one.
    ///
    /// # Errors
    /// [`StoreError`] says what is wrong with the file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = ownership::open_to_write(&path).map_err(|error| refused(&path, error))?;
        let database = open_database(&path, &file)?;
        Ok(Self { path, file, open: RwLock::new(Open { database: Some(database), times: 0 }) })
    }

    /// Whether the file has its name still: another one, or none, is what the next start finds.
    pub(crate) fn is_in_place(&self) -> bool {
        let same = |own: Metadata, found: Metadata| (own.dev(), own.ino()) == (found.dev(), found.ino());
        self.file.metadata().and_then(|own| Ok(same(own, fs::metadata(&self.path)?))).unwrap_or(false)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs an operation on the database; where an earlier fault made that unusable, on a fresh
    /// one.
    pub(crate) fn with<T>(&self, mut f: impl FnMut(&Database) -> Attempt<T>) -> Result<T, StoreError> {
        for last in [false, true] {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let times = open.times;
            let attempt = open.database.as_ref().map(|database| {
                // redb panics on some kinds of damage; that must not take the daemon along.
                panics::caught(|| f(database))
            });
            drop(open);
            match attempt {
                Some(Ok(Ok(done))) => return done,
                // Nothing was tried, so trying again repeats nothing.
                None | Some(Ok(Err(redb::Error::PreviousIo | redb::Error::DatabaseClosed))) if !last => {
                    self.reopen(times)?;
                }
                Some(Ok(Err(error))) => {
                    // Where it cannot be opened again now, the next operation will try.
                    let _ = self.reopen(times);
                    return Err(fault(&self.path, error));
                }
                Some(Err(_)) => {
                    let _ = self.reopen(times);
                    return Err(StoreError::Damaged(self.path.clone()));
                }
                None => break,
            }
        }
        Err(StoreError::Io(self.path.clone(), io::Error::other("it cannot be opened again")))
    }

    /// Leaves the database as a fault does from which it could not be opened again.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).database = None;
    }

    /// Opens the database anew, unless someone did since it had been opened `times` times.
    fn reopen(&self, times: u64) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.times == times || open.database.is_none() {
            // First the old one must give up its lock on the file.
            open.database = None;
            open.times += 1;
            open.database = Some(open_database(&self.path, &self.file)?);
        }
        Ok(())
    }
}

struct Open {
    /// `None` if it could not be opened again after a fault.
    database: Option<Database>,
    /// How often it was opened again.
    times: u64,
}

/// Name of the file in the state directory.
pub(crate) const FILE: &str = keyward_ground::state_dir::KEY_STORE;

/// Opens a file that is there.
pub(crate) fn open_existing(path: &Path) -> Result<Database, StoreError> {
    let file = ownership::open_to_write(path).map_err(|error| refused(path, error))?;
    open_by(path, file, |file| {
        // redb would make a database of it.
        if file.metadata()?.len() == 0 {
            return Err(redb::Error::Corrupted("empty".into()));
        }
        Ok(redb::Builder::new().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?)
    })
}

fn open_database(path: &Path, file: &File) -> Result<Database, StoreError> {
    let file = file.try_clone().map_err(|reason| StoreError::Io(path.to_owned(), reason))?;
    open_by(path, file, |file| -> Result<Database, redb::Error> {
        let database =
            redb::Builder::new().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?;
        if database.begin_read()?.open_table(META).is_err() {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.open_table(KEYS)?;
            transaction.open_table(META)?;
            transaction.open_table(INDEX)?;
            transaction.commit()?;
        }
        Ok(database)
    })
}

fn open_by(
    path: &Path,
    file: File,
    open: impl FnOnce(File) -> Result<Database, redb::Error>,
) -> Result<Database, StoreError> {
    match panics::caught(|| open(file)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(StoreError::InUse(path.to_owned())),
        Ok(Err(redb::Error::Io(reason))) if reason.kind() != io::ErrorKind::InvalidData => {
            Err(StoreError::Io(path.to_owned(), reason))
        }
        // An InvalidData stands for a file that is no database of redb.
        Ok(Err(_)) | Err(_) => Err(StoreError::Damaged(path.to_owned())),
    }
}

/// Memory for pages of the file, in bytes (32 MiB). The keys in use are kept outside of it.
const CACHE: usize = 32 * 1024 * 1024;
