//! The file of the key store as a database, which is opened again after a fault.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase};

use super::tables::{INDEX, KEYS, META};
use crate::ground::{ownership, panics};
use crate::store::error::{StoreError, fault, refused};

/// Reason why an operation on the database did not succeed.
pub(crate) enum Failure<E = StoreError> {
    /// The database met a fault, and may be unusable now.
    Database(redb::Error),
    /// The database works, and the operation is refused.
    Refused(E),
}

/// The file. A fault of the disk fails only the operation that met the fault.
pub(crate) struct StoreFile {
    path: PathBuf,
    /// Open file, even if its name is gone or belongs to another file.
    file: ArcSwap<File>,
    open: RwLock<Open>,
}

impl StoreFile {
    /// Opens the file. Makes a database in an empty file.
    ///
    /// # Errors
    /// [`StoreError`] says what is wrong with the file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let file = ownership::open_to_write(&path).map_err(|error| refused(&path, error))?;
        let database = open_database(&path, &file)?;
        let file = ArcSwap::from_pointee(file);
        Ok(Self { path, file, open: RwLock::new(Open { database: Some(database), times: 0 }) })
    }

    /// True if the file still has its name. If not, the next start finds another file or none.
    pub(crate) fn is_in_place(&self) -> bool {
        let same = |own: Metadata, found: Metadata| (own.dev(), own.ino()) == (found.dev(), found.ino());
        self.file.load().metadata().and_then(|own| Ok(same(own, fs::metadata(&self.path)?))).unwrap_or(false)
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs an operation on the database, which is opened again first if an earlier fault made the
    /// database unusable.
    pub(crate) fn with<T>(
        &self,
        mut f: impl FnMut(&Database) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        for last in [false, true] {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let times = open.times;
            let attempt = open.database.as_ref().map(|database| {
                // redb panics on some kinds of damage. A panic must not end the daemon.
                panics::caught(|| f(database)).unwrap_or_else(|_| Err(panicked().into()))
            });
            drop(open);
            match attempt {
                Some(Ok(done)) => return Ok(done),
                Some(Err(Failure::Refused(reason))) => return Err(reason),
                // The operation has not begun, so a second attempt repeats nothing.
                None
                | Some(Err(Failure::Database(redb::Error::PreviousIo | redb::Error::DatabaseClosed)))
                    if !last =>
                {
                    self.reopen(times)?;
                }
                Some(Err(Failure::Database(error))) => {
                    // If the file cannot be opened again now, the next operation tries to open it.
                    let _ = self.reopen(times);
                    return Err(fault(&self.path, error));
                }
                None => break,
            }
        }
        Err(StoreError::Io(
            self.path.clone(),
            io::Error::other("the file cannot be opened again after a fault"),
        ))
    }

    /// Closes the database, as a fault does after which the file cannot be opened again.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).database = None;
    }

    /// Opens the database again, unless another thread did so after `times` was read.
    fn reopen(&self, times: u64) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.times == times || open.database.is_none() {
            // The old database must first release its lock on the file.
            open.database = None;
            open.times += 1;
            open.database = Some(open_database(&self.path, &self.file.load())?);
        }
        Ok(())
    }

    /// Goes on with another file, which gets the name of this one. Operations in progress end
    /// before.
    pub(crate) fn exchange(&self, new: File, at: &Path) -> Result<(), StoreError> {
        let failed = |reason| StoreError::Io(self.path.clone(), reason);
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Another file may have the name meanwhile, such as one that somebody has restored.
        if !self.is_in_place() {
            return Err(StoreError::Gone(self.path.clone()));
        }
        let old = self.file.load_full();
        fs::rename(at, &self.path).map_err(failed)?;
        // From here on the new file is the store, whatever happens: who asks must not hear of the
        // old one.
        self.file.store(Arc::new(new));
        open.times += 1;
        open.database = None;
        open.database = Some(open_database(&self.path, &self.file.load())?);
        self.path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()).map_err(failed)?;
        if let Err(error) = overwrite(&old) {
            tracing::warn!(
                "cannot overwrite the file that was {} before, so its keys may remain in free parts of the disk: {error}",
                self.path.display()
            );
        }
        Ok(())
    }
}

/// Overwrites a file without a name with zeros, since freed parts of the disk keep its contents.
fn overwrite(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    // A hard link is a copy that somebody keeps.
    if found.nlink() > 0 {
        return Ok(());
    }
    let zeros = vec![0; ZEROS];
    let mut at = 0;
    while at < found.len() {
        let left = usize::try_from(found.len() - at).unwrap_or(ZEROS).min(ZEROS);
        at += file.write_at(&zeros[..left], at)? as u64;
    }
    file.sync_all()
}

/// Bytes that are overwritten at a time (1 MiB).
const ZEROS: usize = 1024 * 1024;

/// Treats every error of redb as a fault.
impl<X: Into<redb::Error>, E> From<X> for Failure<E> {
    fn from(error: X) -> Self {
        Self::Database(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(reason: StoreError) -> Self {
        Self::Refused(reason)
    }
}

struct Open {
    /// `None` if the database could not be opened again after a fault.
    database: Option<Database>,
    /// Number of times that the database was opened again.
    times: u64,
}

/// Name of the file in the state directory.
pub(crate) const FILE: &str = keyward_ground::state_dir::KEY_STORE;

/// Opens a file that exists.
pub(crate) fn open_existing(path: &Path) -> Result<Database, StoreError> {
    let file = ownership::open_to_write(path).map_err(|error| refused(path, error))?;
    open_by(path, file, |file| {
        // redb would make a database of an empty file.
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
    match panics::caught(|| open(file)).unwrap_or_else(|_| Err(panicked())) {
        Ok(database) => Ok(database),
        Err(redb::Error::DatabaseAlreadyOpen) => Err(StoreError::InUse(path.to_owned())),
        Err(redb::Error::Io(reason)) if reason.kind() != io::ErrorKind::InvalidData => {
            Err(StoreError::Io(path.to_owned(), reason))
        }
        // redb reports InvalidData for a file that is no database of redb.
        Err(_) => Err(StoreError::Damaged(path.to_owned())),
    }
}

/// Error for a panic of redb, which is a sign of damage.
fn panicked() -> redb::Error {
    redb::Error::Corrupted("redb panicked".into())
}

/// Memory for pages of the file, in bytes (32 MiB). The cache of keys is not part of this memory.
const CACHE: usize = 32 * 1024 * 1024;
