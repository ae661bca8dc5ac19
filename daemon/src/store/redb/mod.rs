//! The key store in one file of redb. Every change is durable before the call returns.
//!
//! A fault of the disk fails only the operation that met the fault. redb refuses all work after a
//! fault, so [`mod@file`] opens the file again.
//!
//! Three layers: [`mod@file`] keeps a database open, [`tables`] authenticates the rows of one
//! transaction, and [`RedbStore`] makes each operation one transaction. An old copy of the whole
//! file is the only forgery that the store accepts.

mod copy;
pub(crate) mod file;
pub(crate) mod look;
pub(crate) mod migrate;
pub(crate) mod permit;
mod repair;
pub(crate) mod tables;
mod upgrade;

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use crate::ground::ownership;
use crate::store::error::refused;
use crate::store::index::Root;
use crate::store::metadata::{
    BARE_FORMAT, CREATED, DESTROYED, FORMAT, OLD_FORMAT, REVISION, STORE_KEY, STORE_KEY_NAME, THIS_FORMAT,
    WKID, YES,
};
use crate::store::reserve::Reserve;
use crate::store::store_key::{self, Seals, StoreKey};
use crate::store::witness::Witness;
use crate::store::{
    Alterations, Entry, Page, Put, Rebuilt, Revise, Rewrite, Store, StoreError, Upgrade, revision_of,
};
pub(crate) use file::FILE;
use file::{Failure, StoreFile};
use tables::{Found, INDEX, META, Reading, Writing};

/// The store in one file.
pub(crate) struct RedbStore {
    file: StoreFile,
    seals: OnceLock<Seals>,
    /// Name of the store. Another store at the same path has another name.
    name: OnceLock<String>,
    /// Note beside the store, as it was last read or written.
    witness: Mutex<Option<Witness>>,
    reserve: Reserve,
}

impl RedbStore {
    /// Opens the store of a state directory, or makes an empty one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another daemon has the file open; otherwise what is wrong with the
    /// file.
    pub(crate) fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        ownership::make_file(&path).map_err(|error| refused(&path, error))?;
        let file = StoreFile::open(path)?;
        // The directory entry of a new file must outlive a power cut, too.
        File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|reason| StoreError::Io(file.path().to_owned(), reason))?;
        let store = Self {
            file,
            seals: OnceLock::new(),
            name: OnceLock::new(),
            witness: Mutex::new(Witness::read(state_dir)),
            reserve: Reserve::of(state_dir),
        };
        store.check_format()?;
        store.end_permit()?;
        store.reserve.keep();
        Ok(store)
    }

    fn check_format(&self) -> Result<(), StoreError> {
        self.file.with(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            let format = {
                let mut meta = transaction.open_table(META)?;
                let format = meta.get(FORMAT)?.map(|value| value.value().to_owned());
                if format.is_none() {
                    meta.insert(FORMAT, THIS_FORMAT)?;
                    transaction.open_table(INDEX)?;
                }
                format
            };
            let path = || self.path().to_owned();
            match format.as_deref() {
                Some(THIS_FORMAT) => Ok(transaction.abort()?),
                Some(BARE_FORMAT) if permit::is_given(self.path()) => Ok(transaction.abort()?),
                Some(BARE_FORMAT) => Err(StoreError::OldFormat(path(), BARE_FORMAT).into()),
                Some(OLD_FORMAT) => Err(StoreError::OldFormat(path(), OLD_FORMAT).into()),
                Some(other) => Err(StoreError::Format(path(), other.to_owned()).into()),
                None => Ok(transaction.commit()?),
            }
        })
    }

    /// Ends the permit for a migration as soon as the store has the present format, so that the
    /// permit holds for no other file.
    fn end_permit(&self) -> Result<(), StoreError> {
        match self.metadata(FORMAT)?.as_deref() {
            Some(THIS_FORMAT) => permit::end(self.path()),
            _ => Ok(()),
        }
    }

    /// Makes the first metadata of a new store, with the key that the store will have.
    fn make(&self, seals: &Seals, wrapped: Option<&[u8]>) -> Result<(), StoreError> {
        self.write(|tables| {
            tables.meta.insert(STORE_KEY_NAME, seals.name())?;
            // A store that was emptied is made again: the time shows whether that was recent.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            tables.meta.insert(CREATED, now.to_string().as_str())?;
            if let Some(wrapped) = wrapped {
                tables.meta.insert(STORE_KEY, STANDARD.encode(wrapped).as_str())?;
            }
            tables.seal(seals, &Root::new())?;
            Ok(())
        })
    }

    /// Writes the note beside the store: the store has keys, and which master key they need.
    fn note(&self) {
        let Some(name) = self.name.get() else { return };
        let mut noted = lock(&self.witness);
        let master_key = self.metadata(WKID).ok().flatten();
        let witness = Some(Witness { store: name.clone(), master_key });
        let state_dir = self.path().parent().unwrap_or(Path::new("."));
        if *noted == witness {
            return;
        }
        match witness.iter().try_for_each(|witness| witness.write(state_dir)) {
            Ok(()) => *noted = witness,
            Err(error) => tracing::warn!(
                "cannot write the note in {} that the key store has keys, so the daemon could not report a loss of the store: {error}",
                state_dir.display()
            ),
        }
    }

    fn note_if_used(&self) -> Result<(), StoreError> {
        if self.count()? > 0 {
            self.note();
        }
        Ok(())
    }

    fn seals(&self) -> Result<&Seals, StoreError> {
        self.seals.get().ok_or_else(|| StoreError::Locked(self.path().to_owned()))
    }

    /// The record of a label, from the row that was found.
    fn record(&self, label: &Label, found: Found) -> Result<Option<Vec<u8>>, StoreError> {
        match found {
            Found::Nothing => Ok(None),
            Found::Record(bytes) => Ok(Some(bytes)),
            Found::Altered => Err(StoreError::Altered(label.clone())),
            Found::Unlisted => Err(StoreError::Unlisted(label.clone())),
        }
    }

    /// Writes a record, or changes nothing.
    fn put_one(
        &self,
        seals: &Seals,
        tables: &mut Writing<'_>,
        root: &mut Root,
        Put { label, expected, record }: &Put<'_>,
    ) -> Result<u64, Failure> {
        let label = *label;
        let stored = match self.record(label, tables.find(seals, root, label.as_str())?)? {
            Some(stored) => revision_of(&stored).ok_or_else(|| self.damaged())?,
            None => 0,
        };
        if stored != *expected {
            return Err(match expected {
                0 => StoreError::Exists(label.clone()).into(),
                _ => StoreError::Changed(label.clone()).into(),
            });
        }
        // Counted across all labels: a key that is deleted and made again does not get a revision
        // that the first key had.
        let revision = last_revision(tables)? + 1;
        let record = record(revision, &tables.secret()?).ok_or_else(|| self.damaged())?;
        if !tables.write(seals, root, label.as_str(), Some(&record))? {
            return Err(StoreError::Unlisted(label.clone()).into());
        }
        tables.meta.insert(REVISION, revision.to_string().as_str())?;
        Ok(revision)
    }

    /// Runs a transaction that reads.
    fn read<T>(&self, mut f: impl FnMut(&Reading) -> Result<T, Failure>) -> Result<T, StoreError> {
        self.file.with(|database| f(&Reading::open(&database.begin_read()?)?))
    }

    /// Runs a transaction that changes rows of an authentic store, and authenticates the result.
    fn change<T>(
        &self,
        mut f: impl FnMut(&Seals, &mut Writing<'_>, &mut Root) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let seals = self.seals()?;
        self.write(|tables| {
            // Comes first: a change must not authenticate rows that another program has written.
            let mut root = tables.root(seals)?.ok_or_else(|| self.altered())?;
            let done = f(seals, tables, &mut root)?;
            tables.seal(seals, &root)?;
            Ok(done)
        })
    }

    /// Runs a transaction that is durable when this returns `Ok`. Otherwise nothing is changed,
    /// unless the commit itself met a fault.
    fn write<T>(&self, mut f: impl FnMut(&mut Writing<'_>) -> Result<T, Failure>) -> Result<T, StoreError> {
        self.file.with(|database| {
            let mut transaction = database.begin_write()?;
            // Opening after a crash must not take time that grows with the number of keys.
            transaction.set_quick_repair(true);
            let done = f(&mut Writing::open(&transaction)?);
            match done.and_then(|done| self.in_place(done)) {
                Ok(done) => {
                    transaction.commit()?;
                    // The file may have gone meanwhile.
                    self.in_place(done)
                }
                Err(refused @ Failure::Refused(_)) => {
                    transaction.abort()?;
                    Err(refused)
                }
                // Dropped without `abort`, which would replace the reason of the disk by its own.
                Err(fault @ Failure::Database(_)) => Err(fault),
            }
        })
    }

    /// Returns `done` if the next start will find the file.
    fn in_place<T>(&self, done: T) -> Result<T, Failure> {
        if self.file.is_in_place() { Ok(done) } else { Err(self.gone().into()) }
    }

    fn altered(&self) -> StoreError {
        StoreError::AlteredStore(self.path().to_owned())
    }

    fn gone(&self) -> StoreError {
        StoreError::Gone(self.path().to_owned())
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged(self.path().to_owned())
    }

    /// Closes the database, as a fault does after which the file cannot be opened again.
    #[cfg(test)]
    pub(crate) fn close(&self) {
        self.file.close();
    }

    /// Changes rows without authenticating the change.
    #[cfg(test)]
    pub(crate) fn alter(&self, f: impl Fn(&mut Writing<'_>)) {
        self.write(|tables| {
            f(tables);
            Ok(())
        })
        .unwrap();
    }
}

impl Store for RedbStore {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn is_new(&self) -> Result<bool, StoreError> {
        self.read(|tables| Ok(tables.is_new()?))
    }

    fn unlock(
        &self,
        key: &StoreKey,
        wrapped: Option<&[u8]>,
        upgrade: &Upgrade<'_>,
    ) -> Result<(), StoreError> {
        let seals = Seals::derive(key);
        let is_new = self.is_new()?;
        if is_new {
            self.make(&seals, wrapped)?;
        }
        let name = self.read(|tables| {
            let store_key = tables.text(STORE_KEY_NAME)?;
            if store_key.as_ref().is_some_and(|name| name != seals.name()) {
                return Err(StoreError::OtherStoreKey(self.path().to_owned()).into());
            }
            tables.root(&seals)?.ok_or_else(|| self.altered())?;
            // A store that was made again with the same store key has another time.
            let created = tables.text(CREATED)?;
            Ok(format!("{}:{}", store_key.unwrap_or_default(), created.unwrap_or_default()))
        })?;
        // Before anybody can change the store.
        if self.read(|tables| Ok(tables.text(FORMAT)?))?.as_deref() == Some(BARE_FORMAT) {
            upgrade::upgrade(self, &seals, upgrade)?;
            self.end_permit()?;
        }
        let _ = self.name.set(name);
        let _ = self.seals.set(seals);
        if let Some(wrapped) = wrapped.filter(|_| !is_new) {
            self.set_metadata(&[(STORE_KEY, Some(&STANDARD.encode(wrapped)))])?;
        }
        self.note_if_used()
    }

    fn is_locked(&self) -> bool {
        self.seals.get().is_none()
    }

    fn rejection_secret(&self) -> Result<&[u8], StoreError> {
        Ok(self.seals()?.rejection())
    }

    fn get(&self, label: &Label) -> Result<Option<Vec<u8>>, StoreError> {
        let seals = self.seals()?;
        self.read(|tables| {
            let root = tables.root(seals)?.ok_or_else(|| self.altered())?;
            Ok(self.record(label, tables.find(seals, &root, label.as_str())?)?)
        })
    }

    fn put_all(&self, puts: &[Put<'_>]) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        let mut all = Vec::new();
        let written = self.change(|seals, tables, root| {
            all.clear();
            for put in puts {
                all.push(match self.put_one(seals, tables, root, put) {
                    Ok(revision) => Ok(revision),
                    Err(Failure::Refused(reason)) => Err(reason),
                    Err(fault) => return Err(fault),
                });
            }
            // Without a record there is nothing to make durable.
            match all.pop_if(|last| puts.len() == 1 && last.is_err()) {
                Some(Err(reason)) => Err(reason.into()),
                _ => Ok(()),
            }
        });
        written?;
        if self.name.get() != lock(&self.witness).as_ref().map(|witness| &witness.store) {
            self.note();
        }
        Ok(all)
    }

    fn delete(&self, label: &Label) -> Result<(), StoreError> {
        self.change(|seals, tables, root| {
            if let Found::Nothing = tables.find(seals, root, label.as_str())? {
                return Err(StoreError::Unknown(label.clone()).into());
            }
            if !tables.write(seals, root, label.as_str(), None)? {
                return Err(StoreError::Unlisted(label.clone()).into());
            }
            tables.meta.insert(DESTROYED, YES)?;
            Ok(())
        })
    }

    fn list(&self, after: Option<&str>, limit: usize, is_altered: bool) -> Result<Page, StoreError> {
        let seals = self.seals()?;
        self.read(|tables| {
            let root = tables.root(seals)?.ok_or_else(|| self.altered())?;
            let short = if is_altered { None } else { tables.short_page(seals, &root, after, limit)? };
            let is_whole = short.is_some();
            let found = match short {
                Some(found) => found,
                None => tables.page(seals, &root, after, limit)?,
            };
            let entries = found.rows.into_iter().filter_map(|(label, found)| {
                let record = self.record(&label, found).transpose()?;
                Some(Entry { label, record })
            });
            Ok(Page { entries: entries.collect(), altered_lists: found.altered_lists, is_whole })
        })
    }

    fn get_unverified(&self, label: &Label) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|tables| {
            let row = tables.keys.get(label.as_str())?;
            Ok(row.map(|row| unverified(label, row.value())).transpose()?)
        })
    }

    fn list_unverified(&self, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.read(|tables| {
            let mut entries = Vec::new();
            for row in tables.rows_after(after)? {
                let (name, row) = row?;
                // Nobody can ask for a key of another name.
                let Ok(label) = name.value().parse::<Label>() else { continue };
                if entries.len() >= limit {
                    break;
                }
                let record = unverified(&label, row.value());
                entries.push(Entry { label, record });
            }
            Ok(entries)
        })
    }

    fn count(&self) -> Result<u64, StoreError> {
        self.read(|tables| Ok(tables.keys.len()?))
    }

    fn metadata(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read(|tables| match self.seals.get() {
            Some(seals) if tables.root(seals)?.is_none() => Err(self.altered().into()),
            _ => Ok(tables.text(name)?),
        })
    }

    fn metadata_names(&self) -> Result<Vec<String>, StoreError> {
        self.read(|tables| Ok(tables.metadata()?.into_keys().collect()))
    }

    fn set_metadata(&self, changes: &[(&str, Option<&str>)]) -> Result<(), StoreError> {
        self.change(|_, tables, _| {
            for (name, value) in changes {
                match value {
                    Some(value) => drop(tables.meta.insert(*name, *value)?),
                    None => drop(tables.meta.remove(*name)?),
                }
            }
            Ok(())
        })?;
        self.note_if_used()
    }

    fn check(&self) -> Result<Alterations, StoreError> {
        let seals = self.seals()?;
        self.read(|tables| {
            let root = tables.root(seals)?.ok_or_else(|| self.altered())?;
            Ok(tables.altered(seals, &root)?)
        })
    }

    fn rebuild(&self, revise: &Revise<'_>) -> Result<Rebuilt, StoreError> {
        self.change(|seals, tables, root| {
            let (mut revision, secret) = (last_revision(tables)?, tables.secret()?);
            let rebuilt = tables.rebuild(seals, root, |label, record| {
                let revised = revise(label, record, revision + 1, &secret)?;
                revision += 1;
                Some(revised)
            })?;
            tables.meta.insert(REVISION, revision.to_string().as_str())?;
            if !rebuilt.removed.is_empty() || rebuilt.nameless > 0 {
                tables.meta.insert(DESTROYED, YES)?;
            }
            Ok(rebuilt)
        })
    }

    fn rewrite(&self, list: u32, rewrite: &Rewrite<'_>) -> Result<Option<u64>, StoreError> {
        let seals = self.seals()?;
        // Most lists need no write when a daemon looks again.
        let looked = self.read(|tables| {
            let root = tables.root(seals)?.ok_or_else(|| self.altered())?;
            let Some(entries) = tables.list(seals, &root, list)? else { return Ok(None) };
            let secret = tables.secret()?;
            for (label, mac) in &entries {
                if tables.rewritten(seals, label, mac, &secret, rewrite)?.is_some() {
                    return Ok(Some((entries.len() as u64, true)));
                }
            }
            Ok(Some((entries.len() as u64, false)))
        })?;
        let Some((count, true)) = looked else { return Ok(looked.map(|(count, _)| count)) };
        self.change(|seals, tables, root| {
            let Some(mut entries) = tables.list(seals, root, list)? else { return Ok(None) };
            let secret = tables.secret()?;
            for (label, mac) in &mut entries {
                if let Some(record) = tables.rewritten(seals, label, mac, &secret, rewrite)? {
                    let (new, row) = seals.seal_record(label, &record);
                    tables.keys.insert(label.as_str(), row.as_slice())?;
                    *mac = new;
                }
            }
            tables.write_list(seals, root, list, &entries)?;
            Ok(Some(count))
        })
    }

    fn is_gone(&self) -> bool {
        !self.file.is_in_place()
    }

    fn problem(&self) -> Option<String> {
        if self.is_gone() {
            return Some(self.gone().to_string());
        }
        let noted = lock(&self.witness).clone()?;
        let is_other = self.name.get().is_some_and(|name| *name != noted.store);
        (is_other && self.count().is_ok_and(|count| count == 0)).then(|| {
            format!(
                "the key store {} has no key, and the store that was there before had keys{}: stop the daemon, and restore the old store from a backup with keyward restore FILE; if its keys are gone for good, make a new key, which ends this report: keyward key generate LABEL --type TYPE",
                self.path().display(),
                noted.master_key.map(|name| format!(", wrapped by master key {name}")).unwrap_or_default()
            )
        })
    }

    fn copy_into(&self, file: &File) -> Result<u64, StoreError> {
        self.read(|tables| Ok(copy::copy(tables, file).map_err(|error| StoreError::Copy(error.to_string()))?))
    }

    fn release_reserve(&self) {
        self.reserve.release();
    }

    fn keep_reserve(&self) {
        self.reserve.keep();
    }
}

/// The record in a row, whatever its MAC is.
fn unverified(label: &Label, row: &[u8]) -> Result<Vec<u8>, StoreError> {
    match store_key::unverified(row) {
        Some(record) if record.len() <= MAX_UNVERIFIED => Ok(record.to_vec()),
        _ => Err(StoreError::Altered(label.clone())),
    }
}

/// Longest record that is read without verification, in bytes (16 MiB). A key with a thousand
/// versions, as many as a key can have, has less with chains of usual length.
const MAX_UNVERIFIED: usize = 16 * 1024 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn last_revision(tables: &Writing<'_>) -> Result<u64, redb::Error> {
    Ok(tables.text(REVISION)?.and_then(|text| text.parse().ok()).unwrap_or(0))
}
