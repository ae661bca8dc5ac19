//! A store of the format before this one, which had no MACs.
//!
//! Migration vouches for the store as it is, also for a forged one: so an administrator asks for
//! it, and the daemon never does it in passing. The file is copied first. All changes are one
//! transaction, so a migration that is broken off at any point can be begun again. The copy gets
//! its name after that transaction: where a file of that name is, the store was migrated before,
//! and an old store is none to migrate. That is for accidents. Somebody who can write to the
//! directory can remove the copy as well.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{Label, Use};
use redb::{Database, ReadableDatabase, ReadableTable};
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;
use thiserror::Error;

use super::{Key, State, Store, StoreError, StoreKey, record};
use crate::store::error;
use crate::store::index::{self, List, Root};
use crate::store::metadata::{DEV, FORMAT, OLD_FORMAT, STORE_KEY, STORE_KEY_NAME, THIS_FORMAT, WKID, YES};
use crate::store::redb::file;
use crate::store::redb::tables::{KEYS, META, Writing};
use crate::store::store_key::Seals;

/// A store of the format before this one.
pub(crate) struct OldStore {
    path: PathBuf,
    database: Database,
}

/// A migration that was done.
pub(crate) struct Migrated {
    /// The keys: their records are vouched for from now on.
    pub(crate) keys: Vec<MigratedKey>,
    /// The file as it was.
    pub(crate) copy: PathBuf,
}

/// A key of a store that was migrated.
pub(crate) struct MigratedKey {
    pub(crate) label: Label,
    pub(crate) state: State,
    pub(crate) uses: Vec<Use>,
}

impl OldStore {
    /// Opens the store of a state directory; `None` if it has the format of this version already.
    ///
    /// # Errors
    /// [`StoreError`] if there is none, or it has yet another format.
    pub(crate) fn open(state_dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = state_dir.join(Store::FILE);
        let database = file::open_existing(&path)?;
        let store = Self { path, database };
        match store.fact(FORMAT)?.as_deref() {
            Some(OLD_FORMAT) => Ok(Some(store)),
            Some(THIS_FORMAT) => Ok(None),
            Some(other) => Err(StoreError::Format(store.path, other.to_owned())),
            None => Err(StoreError::Damaged(store.path)),
        }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// True if the store belongs to a daemon that runs with `--dev`.
    pub(crate) fn is_dev(&self) -> Result<Option<bool>, StoreError> {
        Ok(self.fact(DEV)?.map(|dev| dev == YES))
    }

    /// The master key of the embedded unit, if it has keys there.
    pub(crate) fn wkid(&self) -> Result<Option<String>, StoreError> {
        self.fact(WKID)
    }

    /// Copies the file, then authenticates everything in it with a store key.
    ///
    /// # Errors
    /// [`MigrationError`] says what is in the way; the store is as it was then.
    pub(crate) fn migrate(&self, key: &StoreKey, wrapped: Option<&[u8]>) -> Result<Migrated, MigrationError> {
        let copy = self.path.with_extension(COPY);
        if was_migrated(&self.path) {
            return Err(MigrationError::Again { store: self.path.clone(), copy });
        }
        let part = self.path.with_extension(PART);
        let failed = |reason| MigrationError::Copy { copy: part.clone(), reason };
        self.copy_to(&part).map_err(failed)?;
        if !self.is_copy(&part) {
            return Err(failed(io::Error::other("what was written is not what was read")));
        }
        self.sync_directory().map_err(failed)?;
        let keys = self.authenticate(key, wrapped)?;
        // The store is migrated. Where this fails, the next one who opens the store will do it.
        let copy = if finish(&self.path).is_ok() { copy } else { part };
        Ok(Migrated { keys, copy })
    }

    /// Nobody writes meanwhile: the database is open here, and nowhere else.
    fn copy_to(&self, part: &Path) -> io::Result<()> {
        // The rest of an attempt before this one.
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

    fn authenticate(
        &self,
        key: &StoreKey,
        wrapped: Option<&[u8]>,
    ) -> Result<Vec<MigratedKey>, MigrationError> {
        let seals = Seals::derive(key);
        let work = || -> Result<Result<Vec<MigratedKey>, MigrationError>, redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            let keys = {
                let (mut tables, mut root) = (Writing::open(&transaction)?, Root::new());
                let mut lists: BTreeMap<u32, List> = BTreeMap::new();
                let labels = tables.keys.iter()?.map(|row| Ok(row?.0.value().to_owned()));
                let labels = labels.collect::<Result<Vec<String>, redb::Error>>()?;
                let mut keys = Vec::new();
                for label in &labels {
                    let row = tables.keys.get(label.as_str())?.map(|row| row.value().to_vec());
                    let row = row.unwrap_or_default();
                    let known = label.parse::<Label>().ok().and_then(|label| record::decode(label, &row));
                    let Some(Key { label: known, state, uses, .. }) = known else {
                        let (store, label) = (self.path.clone(), label.clone());
                        return Ok(Err(MigrationError::Record { store, label }));
                    };
                    keys.push(MigratedKey { label: known, state, uses });
                    let mac = seals.of_record(label, &row);
                    tables.keys.insert(label.as_str(), [&mac, &*row].concat().as_slice())?;
                    lists.entry(index::list_of(label)).or_default().insert(label.clone(), mac);
                }
                for (number, list) in &lists {
                    tables.write_list(&seals, &mut root, *number, list)?;
                }
                // The secret for implicit rejection is derived from the store key now.
                tables.meta.remove(OLD_REJECTION)?;
                tables.meta.insert(FORMAT, THIS_FORMAT)?;
                tables.meta.insert(STORE_KEY_NAME, seals.name())?;
                if let Some(wrapped) = wrapped {
                    tables.meta.insert(STORE_KEY, STANDARD.encode(wrapped).as_str())?;
                }
                tables.seal(&seals, &root)?;
                keys
            };
            transaction.commit()?;
            Ok(Ok(keys))
        };
        work().map_err(|error| self.fault(error))?
    }

    fn fact(&self, name: &str) -> Result<Option<String>, StoreError> {
        let read = || -> Result<Option<String>, redb::Error> {
            let table = self.database.begin_read()?.open_table(META)?;
            Ok(table.get(name)?.map(|value| value.value().to_owned()))
        };
        read().map_err(|error| self.fault(error))
    }

    fn fault(&self, error: redb::Error) -> StoreError {
        error::fault(&self.path, error)
    }
}

/// True if there is something under the name that the copy of a migrated store has.
pub(crate) fn was_migrated(store: &Path) -> bool {
    store.with_extension(COPY).symlink_metadata().is_ok()
}

/// Gives the copy its name, after a migration that was broken off when the store had this format
/// already. Does nothing where there is no such copy.
pub(crate) fn finish(store: &Path) -> io::Result<()> {
    let (part, copy) = (store.with_extension(PART), store.with_extension(COPY));
    // Never in the place of something else.
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

/// Why a store was not migrated.
#[derive(Debug, Error)]
pub(crate) enum MigrationError {
    #[error("cannot migrate the key store: no copy of it can be made at {}: {reason}", copy.display())]
    Copy { copy: PathBuf, reason: io::Error },
    #[error("{}", again(store, copy))]
    Again { store: PathBuf, copy: PathBuf },
    #[error("cannot migrate the key store {}: the record of key {label:?} is damaged; restore the store from a backup, or delete that key with the version of keyward that made it", store.display())]
    Record { store: PathBuf, label: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an old store is refused where one was migrated.
pub(crate) fn migrated_before(store: &Path) -> String {
    again(store, &store.with_extension(COPY))
}

fn again(store: &Path, copy: &Path) -> String {
    format!(
        "refused to migrate the key store {}: it was migrated before, as {} shows, and an old or a forged one was put in its place since; in that one, keys that were disabled or deleted after the migration are enabled; restore a backup that was made after the migration, or, if the old store is the right one, move {} away and run this again",
        store.display(),
        copy.display(),
        copy.display()
    )
}

const COPY: &str = "redb.before-format-2";
const PART: &str = "redb.before-format-2.part";
/// In clear.
const OLD_REJECTION: &str = "rejection-secret";

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    /// A store as the version before this one wrote it.
    fn old_store(dir: &Path, keys: &[Key]) {
        let database = Database::create(dir.join(Store::FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(KEYS).unwrap();
            for key in keys {
                table.insert(key.label.as_str(), record::encode(key).unwrap().as_slice()).unwrap();
            }
            let mut meta = transaction.open_table(META).unwrap();
            for (name, value) in
                [("format", "1"), ("dev", "no"), ("revision", "9"), ("rejection-secret", "x")]
            {
                meta.insert(name, value).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    fn store_key() -> StoreKey {
        StoreKey::from_bytes(&[7; 32]).unwrap()
    }

    fn migrate(dir: &Path) -> Result<Migrated, MigrationError> {
        OldStore::open(dir).unwrap().unwrap().migrate(&store_key(), Some(b"wrapped"))
    }

    #[test]
    fn every_key_is_the_same_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = Key { revision: 3, ..key("other") };
        other.versions[0].next_blob = Some(vec![8]);
        let keys = [Key { revision: 9, ..key("shop") }, other];
        old_store(dir.path(), &keys);
        assert!(matches!(Store::open(dir.path()), Err(StoreError::OldFormat(_))));
        let migrated = migrate(dir.path()).unwrap();
        let labels: Vec<_> = migrated.keys.iter().map(|key| key.label.as_str()).collect();
        assert_eq!(labels, ["other", "shop"]);
        assert!(OldStore::open(dir.path()).unwrap().is_none());

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.wrapped_key().unwrap().unwrap(), b"wrapped");
        store.unlock(&store_key(), None).unwrap();
        for key in &keys {
            let found = store.get(&key.label).unwrap().unwrap();
            assert_eq!(record::encode(&found), record::encode(key));
        }
        assert_eq!(store.is_dev().unwrap(), Some(false));
        assert_eq!(store.put(key("new")).unwrap().revision, 10);
        let copy = file::open_existing(&migrated.copy).unwrap();
        let meta = copy.begin_read().unwrap().open_table(META).unwrap();
        assert_eq!(meta.get("format").unwrap().unwrap().value(), "1");
    }

    #[test]
    fn what_was_broken_off_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        old_store(dir.path(), &[key("shop")]);
        let part = dir.path().join("keys.redb.before-format-2.part");
        fs::write(&part, "half of a copy").unwrap();
        let copy = migrate(dir.path()).unwrap().copy;
        assert!(!part.exists());
        // Broken off after the last change to the store, and before the copy had its name.
        fs::rename(&copy, &part).unwrap();
        let store = dir.path().join(Store::FILE);
        assert!(!was_migrated(&store));
        finish(&store).unwrap();
        finish(&store).unwrap();
        assert!(was_migrated(&store) && !part.exists());
    }

    #[test]
    fn the_copy_takes_the_place_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        old_store(dir.path(), &[key("shop")]);
        let copy = dir.path().join("keys.redb.before-format-2");
        fs::write(&copy, "something of mine").unwrap();
        let refused = migrate(dir.path()).err().unwrap();
        assert!(matches!(refused, MigrationError::Again { .. }));
        assert!(refused.to_string().contains("before-format-2"), "{refused}");
        assert_eq!(fs::read(&copy).unwrap(), b"something of mine");
    }

    #[test]
    fn an_old_store_in_the_place_of_a_migrated_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        old_store(dir.path(), &[key("shop")]);
        let copy = migrate(dir.path()).unwrap().copy;
        let store = dir.path().join(Store::FILE);
        // The very copy that the migration has made.
        fs::copy(&copy, &store).unwrap();
        assert!(matches!(migrate(dir.path()), Err(MigrationError::Again { .. })));
        fs::remove_file(&store).unwrap();
        old_store(dir.path(), &[key("forged")]);
        assert!(matches!(migrate(dir.path()), Err(MigrationError::Again { .. })));
        // An administrator who wants it all the same.
        fs::remove_file(&copy).unwrap();
        assert_eq!(migrate(dir.path()).unwrap().keys.len(), 1);
    }

    #[test]
    fn a_damaged_record_is_named_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        old_store(dir.path(), &[key("shop"), Key { current: 7, ..key("hurt") }]);
        let refused = migrate(dir.path()).err().unwrap();
        assert!(refused.to_string().contains("\"hurt\""), "{refused}");
        assert!(OldStore::open(dir.path()).unwrap().is_some());
    }
}
