//! Migration of a store of the old format, which had no MACs. The next start wraps the blobs, for
//! which the migration leaves a permit.
//!
//! Migration authenticates the store as it is, even a forged store. So an administrator asks for
//! the migration, and the daemon never migrates on its own. The file is copied first. All changes
//! are one transaction, so a migration that is interrupted at any point can be started again.
//!
//! The copy gets its name after that transaction. A file of that name means that the store was
//! migrated before, and an old store in its place is refused. This rule prevents accidents only:
//! anyone who can write to the directory can remove the copy, too.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use redb::{Database, ReadableDatabase, ReadableTable};
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::file::{self, FILE, Failure};
use super::tables::{KEYS, META, Writing};
use crate::store::error::{StoreError, fault};
use crate::store::index::{self, List, Root};
use crate::store::metadata::{
    BARE_FORMAT, DEV, FORMAT, OLD_FORMAT, STORE_KEY, STORE_KEY_NAME, THIS_FORMAT, WKID, YES,
};
use crate::store::store_key::{Seals, StoreKey};

/// A store of the old format.
pub(crate) struct OldStore {
    path: PathBuf,
    database: Database,
}

/// The format of a store.
pub(crate) enum Format {
    /// The first format, without MACs.
    First(OldStore),
    /// The second format, in which no secret wraps the blobs.
    Second,
    /// The format of this version.
    Present,
}

/// Result of a migration.
pub(crate) struct Migrated<K> {
    /// The keys, whose records are authenticated now: the value that was read from each record.
    pub(crate) keys: Vec<K>,
    /// Copy of the file as it was before.
    pub(crate) copy: PathBuf,
}

impl OldStore {
    /// Finds the format of the store of a state directory.
    ///
    /// # Errors
    /// [`StoreError`] if there is no store, or the store has an unknown format.
    pub(crate) fn open(state_dir: &Path) -> Result<Format, StoreError> {
        let path = state_dir.join(FILE);
        let database = file::open_existing(&path)?;
        let store = Self { path, database };
        match store.fact(FORMAT)?.as_deref() {
            Some(OLD_FORMAT) => Ok(Format::First(store)),
            Some(BARE_FORMAT) => Ok(Format::Second),
            Some(THIS_FORMAT) => Ok(Format::Present),
            Some(other) => Err(StoreError::Format(store.path, other.to_owned())),
            None => Err(StoreError::Damaged(store.path)),
        }
    }

    /// Path of the file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True if the store belongs to a daemon that runs with `--dev`.
    pub(crate) fn is_dev(&self) -> Result<Option<bool>, StoreError> {
        Ok(self.fact(DEV)?.map(|dev| dev == YES))
    }

    /// Name of the master key of the embedded unit, if the unit has keys.
    pub(crate) fn wkid(&self) -> Result<Option<String>, StoreError> {
        self.fact(WKID)
    }

    /// Copies the file, then authenticates every record with a store key. `wrapped` is the store
    /// key as the embedded unit wraps it. `read` gives the result for a record; `None` if the
    /// record is damaged.
    ///
    /// # Errors
    /// [`MigrationError`] says what prevents the migration. The store is unchanged then.
    pub(crate) fn migrate<K>(
        &self,
        key: &StoreKey,
        wrapped: Option<&[u8]>,
        read: impl Fn(Label, &[u8]) -> Option<K>,
    ) -> Result<Migrated<K>, MigrationError> {
        let copy = self.path.with_extension(COPY);
        if was_migrated(&self.path) {
            return Err(MigrationError::Again { store: self.path.clone(), copy });
        }
        let part = self.path.with_extension(PART);
        let failed = |reason| MigrationError::Copy { copy: part.clone(), reason };
        self.copy_to(&part).map_err(failed)?;
        if !self.is_copy(&part) {
            return Err(failed(io::Error::other("the copy differs from the store")));
        }
        self.sync_directory().map_err(failed)?;
        let keys = self.authenticate(key, wrapped, read)?;
        // The store is migrated. If this fails, the next start gives the copy its name.
        let copy = if finish(&self.path).is_ok() { copy } else { part };
        Ok(Migrated { keys, copy })
    }

    /// Copies the file. Nobody writes meanwhile, because the database is open here alone.
    fn copy_to(&self, part: &Path) -> io::Result<()> {
        // The remains of an earlier attempt.
        match fs::remove_file(part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        let mut file = options.open(part)?;
        io::copy(&mut File::open(&self.path)?, &mut file)?;
        file.sync_all()
    }

    fn sync_directory(&self) -> io::Result<()> {
        sync_directory_of(&self.path)
    }

    /// True if a file is a store with the same rows.
    fn is_copy(&self, path: &Path) -> bool {
        let same = || -> Result<bool, redb::Error> {
            let Ok(other) = file::open_existing(path) else { return Ok(false) };
            let (mine, other) = (self.database.begin_read()?, other.begin_read()?);
            Ok(same_rows(&mine.open_table(META)?, &other.open_table(META)?)?
                && same_rows(&mine.open_table(KEYS)?, &other.open_table(KEYS)?)?)
        };
        same().unwrap_or(false)
    }

    fn authenticate<K>(
        &self,
        key: &StoreKey,
        wrapped: Option<&[u8]>,
        read: impl Fn(Label, &[u8]) -> Option<K>,
    ) -> Result<Vec<K>, MigrationError> {
        let seals = Seals::derive(key);
        let work = || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            let keys = self.authenticate_rows(Writing::open(&transaction)?, &seals, wrapped, read)?;
            transaction.commit()?;
            Ok(keys)
        };
        work().map_err(|failure| match failure {
            Failure::Database(error) => self.fault(error).into(),
            Failure::Refused(reason) => reason,
        })
    }

    fn authenticate_rows<K>(
        &self,
        mut tables: Writing<'_>,
        seals: &Seals,
        wrapped: Option<&[u8]>,
        read: impl Fn(Label, &[u8]) -> Option<K>,
    ) -> Result<Vec<K>, Failure<MigrationError>> {
        let mut root = Root::new();
        let mut lists: BTreeMap<u32, List> = BTreeMap::new();
        let labels = tables.keys.iter()?.map(|row| Ok(row?.0.value().to_owned()));
        let labels = labels.collect::<Result<Vec<String>, redb::Error>>()?;
        let mut keys = Vec::new();
        for label in labels {
            let record = tables.keys.get(label.as_str())?.map(|row| row.value().to_vec());
            let record = record.unwrap_or_default();
            let Some(key) = label.parse().ok().and_then(|label| read(label, &record)) else {
                let store = self.path.clone();
                return Err(Failure::Refused(MigrationError::Record { store, label }));
            };
            keys.push(key);
            let (mac, row) = seals.seal_record(&label, &record);
            tables.keys.insert(label.as_str(), row.as_slice())?;
            lists.entry(index::list_of(&label)).or_default().insert(label, mac);
        }
        for (number, list) in &lists {
            tables.write_list(seals, &mut root, *number, list)?;
        }
        // The secret for implicit rejection is derived from the store key now.
        tables.meta.remove(OLD_REJECTION)?;
        tables.meta.insert(FORMAT, BARE_FORMAT)?;
        tables.meta.insert(STORE_KEY_NAME, seals.name())?;
        if let Some(wrapped) = wrapped {
            tables.meta.insert(STORE_KEY, STANDARD.encode(wrapped).as_str())?;
        }
        tables.seal(seals, &root)?;
        Ok(keys)
    }

    fn fact(&self, name: &str) -> Result<Option<String>, StoreError> {
        let read = || -> Result<Option<String>, redb::Error> {
            let table = self.database.begin_read()?.open_table(META)?;
            Ok(table.get(name)?.map(|value| value.value().to_owned()))
        };
        read().map_err(|error| self.fault(error))
    }

    fn fault(&self, error: redb::Error) -> StoreError {
        fault(&self.path, error)
    }
}

/// Path of the copy that a migration makes.
pub(crate) fn copy_of_migration(store: &Path) -> PathBuf {
    store.with_extension(COPY)
}

/// True if a file has the name that the copy of a migrated store gets.
pub(crate) fn was_migrated(store: &Path) -> bool {
    store.with_extension(COPY).symlink_metadata().is_ok()
}

/// Gives the copy its name after a migration that was interrupted at the very end. Does nothing if
/// there is no such copy.
pub(crate) fn finish(store: &Path) -> io::Result<()> {
    let (part, copy) = (store.with_extension(PART), store.with_extension(COPY));
    // Never replaces another file.
    match rustix::fs::renameat_with(CWD, &part, CWD, &copy, RenameFlags::NOREPLACE) {
        Ok(()) => sync_directory_of(store),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn same_rows<V: redb::Value + 'static>(
    one: &impl ReadableTable<&'static str, V>,
    other: &impl ReadableTable<&'static str, V>,
) -> Result<bool, redb::Error> {
    let (mut one, mut other) = (one.iter()?, other.iter()?);
    loop {
        let (Some(a), Some(b)) = (match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            rows => rows,
        }) else {
            return Ok(false);
        };
        let (a_value, b_value) = (a.1.value(), b.1.value());
        if a.0.value() != b.0.value() || V::as_bytes(&a_value).as_ref() != V::as_bytes(&b_value).as_ref() {
            return Ok(false);
        }
    }
}

/// Reason why a store was not migrated.
#[derive(Debug, Error)]
pub(crate) enum MigrationError {
    #[error("cannot migrate the key store: cannot copy it to {}: {reason}", copy.display())]
    Copy {
        copy: PathBuf,
        #[source]
        reason: io::Error,
    },
    #[error("{}", again(store, copy))]
    Again { store: PathBuf, copy: PathBuf },
    #[error("cannot migrate the key store {}: the record of key {label:?} is damaged; restore the store from a backup, or delete that key with the version of keyward that made it", store.display())]
    Record { store: PathBuf, label: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Message that refuses an old store in the place of a migrated one.
pub(crate) fn migrated_before(store: &Path) -> String {
    again(store, &store.with_extension(COPY))
}

fn again(store: &Path, copy: &Path) -> String {
    format!(
        "refused to migrate the key store {}: it was migrated before, as {} shows, and an old or forged store has replaced the migrated store; in the old store, keys that were disabled or deleted after the migration are enabled; restore a backup that was made after the migration, or, if the old store is the right store, move {} away and run this again",
        store.display(),
        copy.display(),
        copy.display()
    )
}

const COPY: &str = "redb.before-format-2";
const PART: &str = "redb.before-format-2.part";
/// Name of the metadata of the old format that held the secret for implicit rejection in the clear.
const OLD_REJECTION: &str = "rejection-secret";
