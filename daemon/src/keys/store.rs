//! The key store: one redb file, every change durable before it is answered.
//!
//! A fault of the disk costs the operation that met it. redb refuses all work after one, so the
//! file is opened anew then; keys in memory are served all the while.
//!
//! The store key authenticates every record, and the facts about the store: which records there
//! are, the master keys, and whether the store belongs to `--dev`. The daemon refuses a record that
//! somebody else has written, an old copy of a record, and a record that was removed. Only an old
//! copy of the whole file looks like the file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use keyward_unit::Header;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::index::Root;
use super::store_key::{Seals, StoreKey};
use super::tables::{Alterations, FORMAT, Found, INDEX, KEYS, META, Reading, Rebuilt, Writing};
use super::{Key, Listed, State, record};
use crate::config::EMBEDDED;
use crate::ground::ownership::{self, Name, OwnershipError};
use crate::ground::panics;
use crate::ground::text::quoted;

/// The store on disk. Its operations wait for the disk: not for the tasks that serve peers.
///
/// Until it is unlocked it tells no more than whom it belongs to.
pub struct Store {
    path: PathBuf,
    open: RwLock<Open>,
    seals: OnceLock<Seals>,
    /// What was found altered: by [`Store::check`], or when keys were listed since.
    altered: Mutex<Alterations>,
}

impl Store {
    /// Name of the file in the state directory.
    pub const FILE: &str = "keys.redb";

    /// Opens the store of a state directory, or makes an empty one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another daemon has it; otherwise what is wrong with the file.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(Self::FILE);
        ownership::make_file(&path).map_err(|error| refused(&path, error))?;
        let database = open_database(&path)?;
        // The directory entry of a new file must outlive a power cut, too.
        File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|reason| StoreError::Io(path.clone(), reason))?;
        let open = RwLock::new(Open { database: Some(database), times: 0 });
        let store = Self { path, open, seals: OnceLock::new(), altered: Mutex::default() };
        store.check_format()?;
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the store for work with the key that it was made with, or settles the key of a new one. `wrapped` is the
    /// key as the embedded unit wraps it, to be stored in the place of what is there.
    ///
    /// # Errors
    /// [`StoreError::OtherStoreKey`] for another key, [`StoreError::AlteredStore`] if somebody else has changed the
    /// facts about the store.
    pub(crate) fn unlock(&self, key: &StoreKey, wrapped: Option<&[u8]>) -> Result<(), StoreError> {
        let seals = Seals::derive(key);
        let is_new = self.read(|tables| Ok(Ok(tables.is_new()?)))?;
        if is_new {
            self.write(|tables| {
                tables.meta.insert(STORE_KEY_NAME, seals.name())?;
                // A store that is emptied is made anew: so the time shows whether that was of late.
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
                tables.meta.insert(CREATED, now.to_string().as_str())?;
                if let Some(wrapped) = wrapped {
                    tables.meta.insert(STORE_KEY, STANDARD.encode(wrapped).as_str())?;
                }
                tables.seal(&seals, &Root::new())?;
                Ok(Ok(()))
            })?;
        }
        self.read(|tables| {
            if tables.text(STORE_KEY_NAME)?.is_some_and(|name| name != seals.name()) {
                return Ok(Err(StoreError::OtherStoreKey(self.path.clone())));
            }
            Ok(tables.root(&seals)?.map(|_| ()).ok_or_else(|| self.altered()))
        })?;
        let _ = self.seals.set(seals);
        match wrapped {
            Some(wrapped) if !is_new => self.set_wrapped_key(wrapped),
            _ => Ok(()),
        }
    }

    /// Looks at every record, so that one that was altered is known before somebody needs it.
    pub(crate) fn check(&self) -> Result<Altered, StoreError> {
        let seals = self.seals()?;
        let found = self.read(|tables| match tables.root(seals)? {
            Some(root) => Ok(Ok(tables.altered(seals, &root)?)),
            None => Ok(Err(self.altered())),
        })?;
        *self.found_altered() = found;
        Ok(self.known_altered())
    }

    /// What is known to be altered.
    pub(crate) fn known_altered(&self) -> Altered {
        let found = self.found_altered();
        Altered {
            count: found.labels.len(),
            first: found.labels.iter().take(ALTERED_SHOWN).map(Label::to_string).collect(),
            lists: found.lists.len(),
            nameless: found.nameless,
        }
    }

    fn found_altered(&self) -> MutexGuard<'_, Alterations> {
        self.altered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if nothing was ever stored.
    pub(crate) fn is_new(&self) -> Result<bool, StoreError> {
        self.read(|tables| Ok(Ok(tables.is_new()?)))
    }

    /// When the store was made, in seconds since 1970; `None` if a version before this one made it.
    pub(crate) fn created(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.text(CREATED)?.and_then(|text| text.parse().ok()))
    }

    /// The store key as the embedded unit has wrapped it, if it did.
    pub(crate) fn wrapped_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let text = self.text(STORE_KEY)?;
        text.map(|text| STANDARD.decode(text).map_err(|_| self.altered())).transpose()
    }

    /// Stores the store key as another master key wraps it. No record is touched.
    pub(crate) fn set_wrapped_key(&self, wrapped: &[u8]) -> Result<(), StoreError> {
        self.set_text(STORE_KEY, &STANDARD.encode(wrapped))
    }

    /// Whether the store belongs to a daemon that runs with `--dev`; `None` for an empty one.
    pub(crate) fn is_dev(&self) -> Result<Option<bool>, StoreError> {
        Ok(self.text(DEV)?.map(|dev| dev == YES))
    }

    /// Settles, when the store is made, whom it belongs to.
    pub(crate) fn set_dev(&self, dev: bool) -> Result<(), StoreError> {
        self.set_text(DEV, if dev { YES } else { NO })
    }

    /// The master key that the blobs of a backend are wrapped by, if there was one yet.
    pub(crate) fn wkid(&self, backend: &str) -> Result<Option<String>, StoreError> {
        self.text(&wkid_of(backend))
    }

    /// The master key that the embedded unit needs, by name: the store belongs to that one, or its
    /// key does.
    pub(crate) fn master_key(&self) -> Result<Option<String>, StoreError> {
        let of_store_key = |key: Vec<u8>| Header::read(&key).map(|header| header.wkid().to_string());
        Ok(match self.wkid(EMBEDDED)? {
            None => self.wrapped_key()?.and_then(of_store_key),
            settled => settled,
        })
    }

    /// True until the store key is known.
    pub(crate) fn is_locked(&self) -> bool {
        self.seals.get().is_none()
    }

    /// Whether a key is at a backend.
    pub(crate) fn has_keys_of(&self, backend: &str) -> Result<bool, StoreError> {
        let mut after: Option<String> = None;
        loop {
            let page = self.list(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(false) };
            after = Some(last.label().to_string());
            // One that was altered may have been there.
            if page.into_iter().any(|listed| listed.key().map_or(true, |key| key.backend == backend)) {
                return Ok(true);
            }
        }
    }

    /// The remote backends that have keys, or had some.
    pub(crate) fn remote_backends(&self) -> Result<Vec<String>, StoreError> {
        self.read(|tables| {
            let names = tables.facts()?.into_keys();
            Ok(Ok(names.filter_map(|name| name.strip_prefix(REMOTE_WKID).map(str::to_owned)).collect()))
        })
    }

    /// Settles the master key of a backend; none is to come any more. `store_key` is the key of the
    /// store as that master key wraps it, where it does.
    pub(crate) fn set_wkid(
        &self,
        backend: &str,
        wkid: &str,
        store_key: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        self.change(|_, tables, _| {
            tables.meta.insert(wkid_of(backend).as_str(), wkid)?;
            tables.meta.remove(next_wkid_of(backend).as_str())?;
            if let Some(store_key) = store_key {
                tables.meta.insert(STORE_KEY, STANDARD.encode(store_key).as_str())?;
            }
            Ok(Ok(()))
        })
    }

    /// The master key that is to come, by which blobs of a backend are wrapped as well.
    pub(crate) fn next_wkid(&self, backend: &str) -> Result<Option<String>, StoreError> {
        self.text(&next_wkid_of(backend))
    }

    /// Notes the master key that is to come.
    pub(crate) fn set_next_wkid(&self, backend: &str, wkid: &str) -> Result<(), StoreError> {
        self.set_text(&next_wkid_of(backend), wkid)
    }

    /// Secret for implicit rejection, derived from the store key: so it is in no copy of the file,
    /// and the same after a restart and after a change of any master key.
    pub(crate) fn rejection_secret(&self) -> Result<&[u8], StoreError> {
        Ok(self.seals()?.rejection())
    }

    fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read(|tables| match self.seals.get() {
            Some(seals) if tables.root(seals)?.is_none() => Ok(Err(self.altered())),
            _ => Ok(Ok(tables.text(name)?)),
        })
    }

    fn set_text(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.change(|_, tables, _| {
            tables.meta.insert(name, text)?;
            Ok(Ok(()))
        })
    }

    pub(crate) fn get(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        let seals = self.seals()?;
        self.read(|tables| {
            let Some(root) = tables.root(seals)? else { return Ok(Err(self.altered())) };
            Ok(self.decode(label, tables.find(seals, &root, label.as_str())?))
        })
    }

    /// Stores a key over the revision that it came from; revision 0: no such key may exist.
    pub(crate) fn put(&self, mut key: Key) -> Result<Key, StoreError> {
        let before = key.revision;
        self.change(|seals, tables, root| {
            let stored = match self.decode(&key.label, tables.find(seals, root, key.label.as_str())?) {
                Ok(stored) => stored.map_or(0, |stored| stored.revision),
                Err(damaged) => return Ok(Err(damaged)),
            };
            if stored != before {
                return Ok(Err(match before {
                    0 => StoreError::Exists(key.label.clone()),
                    _ => StoreError::Changed(key.label.clone()),
                }));
            }
            // Counted across all keys, so that a key made anew never meets a revision of its predecessor.
            key.revision = last_revision(tables)? + 1;
            tables.meta.insert(REVISION, key.revision.to_string().as_str())?;
            let Some(bytes) = record::encode(&key) else { return Ok(Err(self.damaged())) };
            let written = tables.write(seals, root, key.label.as_str(), Some(&bytes))?;
            Ok(written.then_some(()).ok_or_else(|| StoreError::Unlisted(key.label.clone())))
        })?;
        Ok(key)
    }

    /// Deletes a key, also one whose record was altered.
    pub(crate) fn delete(&self, label: &Label) -> Result<(), StoreError> {
        self.change(|seals, tables, root| {
            if let Found::Nothing = tables.find(seals, root, label.as_str())? {
                return Ok(Err(StoreError::Unknown(label.clone())));
            }
            let written = tables.write(seals, root, label.as_str(), None)?;
            Ok(written.then_some(()).ok_or_else(|| StoreError::Unlisted(label.clone())))
        })?;
        self.found_altered().labels.remove(label);
        Ok(())
    }

    /// Makes the lists of the index anew that were altered, and removes records under names that no
    /// key can have. An old copy of a record is as genuine as the latest one without the list: so
    /// the keys of these lists come back disabled.
    pub(super) fn rebuild(&self) -> Result<Rebuilt, StoreError> {
        let rebuilt = self.change(|seals, tables, root| {
            let mut revision = last_revision(tables)?;
            let rebuilt = tables.rebuild(seals, root, |label, record| {
                let key = record::decode(label.clone(), record)?;
                revision += 1;
                record::encode(&Key { state: State::Disabled, revision, ..key })
            })?;
            tables.meta.insert(REVISION, revision.to_string().as_str())?;
            Ok(Ok(rebuilt))
        })?;
        self.check()?;
        Ok(rebuilt)
    }

    pub(crate) fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let seals = self.seals()?;
        let mut altered_lists = BTreeSet::new();
        let listed: Vec<Listed> = self.read(|tables| {
            let Some(root) = tables.root(seals)? else { return Ok(Err(self.altered())) };
            let page = tables.page(seals, &root, after, limit, &mut altered_lists)?;
            let listed = page.into_iter().filter_map(|(label, found)| match self.decode(&label, found) {
                Ok(key) => key.map(Listed::Key),
                Err(reason) => Some(Listed::Altered { label, reason }),
            });
            Ok(Ok(listed.collect()))
        })?;
        let altered = listed.iter().filter(|listed| matches!(listed, Listed::Altered { .. }));
        let mut found = self.found_altered();
        found.labels.extend(altered.map(|listed| listed.label().clone()));
        found.lists.extend(altered_lists);
        drop(found);
        Ok(listed)
    }

    pub(crate) fn count(&self) -> Result<u64, StoreError> {
        self.read(|tables| Ok(Ok(tables.keys.len()?)))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        self.with(|database| {
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
            match format.as_deref() {
                Some(THIS_FORMAT) => transaction.abort()?,
                Some(OLD_FORMAT) => return Ok(Err(StoreError::OldFormat(self.path.clone()))),
                Some(other) => return Ok(Err(StoreError::Format(self.path.clone(), other.to_owned()))),
                None => transaction.commit()?,
            }
            Ok(Ok(()))
        })
    }

    fn seals(&self) -> Result<&Seals, StoreError> {
        self.seals.get().ok_or_else(|| StoreError::Locked(self.path.clone()))
    }

    /// Runs a transaction that reads.
    fn read<T>(&self, mut f: impl FnMut(&Reading) -> Attempt<T>) -> Result<T, StoreError> {
        self.with(|database| f(&Reading::open(&database.begin_read()?)?))
    }

    /// Changes what is as it was written last, and authenticates it anew.
    fn change<T>(
        &self,
        mut f: impl FnMut(&Seals, &mut Writing<'_>, &mut Root) -> Attempt<T>,
    ) -> Result<T, StoreError> {
        let seals = self.seals()?;
        self.write(|tables| {
            // Before anything else: a change must not vouch for what somebody else has written.
            let Some(mut root) = tables.root(seals)? else { return Ok(Err(self.altered())) };
            let done = f(seals, tables, &mut root)?;
            if done.is_ok() {
                tables.seal(seals, &root)?;
            }
            Ok(done)
        })
    }

    /// Runs a transaction that is on the disk when this returns `Ok`, and nowhere otherwise.
    fn write<T>(&self, mut f: impl FnMut(&mut Writing<'_>) -> Attempt<T>) -> Result<T, StoreError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            // Opening after a crash must not take time that grows with the number of keys.
            transaction.set_quick_repair(true);
            let done = f(&mut Writing::open(&transaction)?)?;
            match done {
                Ok(_) => transaction.commit()?,
                Err(_) => transaction.abort()?,
            }
            Ok(done)
        })
    }

    /// Runs an operation on the database; where an earlier fault made that unusable, on a fresh one.
    fn with<T>(&self, mut f: impl FnMut(&Database) -> Attempt<T>) -> Result<T, StoreError> {
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
                    return Err(self.fault(error));
                }
                Some(Err(_)) => {
                    let _ = self.reopen(times);
                    return Err(self.damaged());
                }
                None => break,
            }
        }
        Err(StoreError::Io(self.path.clone(), io::Error::other("it cannot be opened again")))
    }

    /// Opens the database anew, unless someone did since it had been opened `times` times.
    fn reopen(&self, times: u64) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.times == times || open.database.is_none() {
            // First the old one must give up its lock on the file.
            open.database = None;
            open.times += 1;
            open.database = Some(open_database(&self.path)?);
        }
        Ok(())
    }

    fn decode(&self, label: &Label, found: Found) -> Result<Option<Key>, StoreError> {
        match found {
            Found::Nothing => Ok(None),
            Found::Record(bytes) => {
                record::decode(label.clone(), &bytes).map(Some).ok_or_else(|| self.damaged())
            }
            Found::Altered => Err(StoreError::Altered(label.clone())),
            Found::Unlisted => Err(StoreError::Unlisted(label.clone())),
        }
    }

    fn fault(&self, error: redb::Error) -> StoreError {
        fault(&self.path, error)
    }

    fn altered(&self) -> StoreError {
        StoreError::AlteredStore(self.path.clone())
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged(self.path.clone())
    }
}

/// What in the store is not as this daemon wrote it last.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Altered {
    /// How many keys have other records, or none.
    pub(crate) count: usize,
    /// The first labels of these.
    pub(crate) first: Vec<String>,
    /// How many lists of the index are other ones. A key of such a list may be in no record either.
    #[serde(default)]
    pub(crate) lists: usize,
    /// How many records have names that no key can have.
    #[serde(default)]
    pub(crate) nameless: usize,
}

impl Altered {
    /// How many keys, lists and records without a name there are.
    pub(crate) fn total(&self) -> usize {
        self.count + self.lists + self.nameless
    }

    /// What was altered, and what to do; `None` if nothing was.
    pub(crate) fn problem(&self) -> Option<(String, &'static str)> {
        let more = if self.count > self.first.len() { ", ..." } else { "" };
        let told = [
            (self.count > 0).then(|| {
                format!(
                    "the records of {} keys in the key store were altered, are old copies, or are gone: {}{more}",
                    self.count,
                    self.first.join(", ")
                )
            }),
            (self.lists > 0).then(|| {
                format!(
                    "{} lists of the index of the key store were altered: nothing tells which keys they had, and more keys than are listed may be gone",
                    self.lists
                )
            }),
            (self.nameless > 0)
                .then(|| format!("{} records in the key store have names that no key can have", self.nameless)),
        ];
        let told: Vec<_> = told.into_iter().flatten().collect();
        let advice = if self.lists + self.nameless > 0 { INDEX_ADVICE } else { ALTERED_ADVICE };
        (!told.is_empty()).then(|| (told.join("; "), advice))
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The record is not the one that this daemon wrote last.
    #[error(
        "the record of key {0} in the key store was altered, is an old copy, or is gone; restore the store from a backup, or give the key up with: keyward key delete {0}"
    )]
    Altered(Label),
    /// The facts about the store are not the ones that this daemon wrote last.
    #[error("the key store {} was altered by something else than keyward, or is in part an old copy; restore it from a backup", .0.display())]
    AlteredStore(PathBuf),
    /// The key was changed since it was read.
    #[error("the key {0} was changed by someone else at the same time; try again")]
    Changed(Label),
    /// The file is not what this daemon wrote.
    #[error("the key store {} is damaged; restore it from a backup", .0.display())]
    Damaged(PathBuf),
    /// There is a key with this label.
    #[error(
        "there is a key {0} already; a new version of it: keyward key rotate {0}, or keyward key import {0} --new-version --in FILE"
    )]
    Exists(Label),
    /// Written by another version of Keyward.
    #[error("the key store {} has format {}, this version of keyward knows format {THIS_FORMAT}", .0.display(), .1)]
    Format(PathBuf, String),
    /// Another process has the file open.
    #[error("the key store {} is in use: another keyward daemon runs on this state directory", .0.display())]
    InUse(PathBuf),
    /// The disk is full, gone or broken.
    #[error("cannot read or write the key store {}: {}{}", .0.display(), .1, of_access(.0, .1))]
    Io(PathBuf, #[source] io::Error),
    /// The store was not unlocked yet.
    #[error("the key store {} is locked: the daemon does not have the master key that the store was made with; see: keyward unit list", .0.display())]
    Locked(PathBuf),
    /// Written by a version of Keyward that did not authenticate it.
    #[error("the key store {} has the format of an older version of keyward", .0.display())]
    OldFormat(PathBuf),
    /// The store was made with another store key.
    #[error("the key store {} was made with another store key; name that one, or restore the store that belongs to this one", .0.display())]
    OtherStoreKey(PathBuf),
    /// Another user can change the file, or put another one in its place.
    #[error("refused the key store: {0}")]
    Refused(String),
    /// There is no such key.
    #[error("there is no key {0}")]
    Unknown(Label),
    /// The list of the index that vouches for the record is not the one that this daemon wrote
    /// last.
    #[error(
        "the list of the key store that vouches for key {0} was altered; restore the store from a backup, or have the list made anew with: keyward key repair"
    )]
    Unlisted(Label),
}

/// A file that root has restored with cp is root's.
fn of_access(path: &Path, reason: &io::Error) -> String {
    if reason.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    let owner = path.symlink_metadata().map(|found| format!(", and belongs to {}", Name(found.uid())));
    let (user, group) = ownership::own_names();
    let path = quoted(path);
    format!(
        "; it must be for user {user}, who runs this{}: as root, run: chown -h {user}:{group} {path}; chmod 600 {path}; a copy is restored, while the daemon is stopped, with: install -o {user} -g {group} -m 600 COPY {path}",
        owner.unwrap_or_default()
    )
}

/// The outer error is a fault of the database, the inner one an answer.
type Attempt<T> = Result<Result<T, StoreError>, redb::Error>;

struct Open {
    /// `None` if it could not be opened again after a fault.
    database: Option<Database>,
    /// How often it was opened again.
    times: u64,
}

/// Opens a file that is there.
pub(super) fn open_existing(path: &Path) -> Result<Database, StoreError> {
    open_by(path, |file| {
        // redb would make a database of it.
        if file.metadata()?.len() == 0 {
            return Err(redb::Error::Corrupted("empty".into()));
        }
        Ok(redb::Builder::new().set_cache_size(CACHE).create_with_backend(FileBackend::new(file)?)?)
    })
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    open_by(path, |file| -> Result<Database, redb::Error> {
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
    open: impl FnOnce(File) -> Result<Database, redb::Error>,
) -> Result<Database, StoreError> {
    let file = ownership::open_to_write(path).map_err(|error| refused(path, error))?;
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

fn refused(path: &Path, error: OwnershipError) -> StoreError {
    match error.into_io() {
        Ok(reason) => StoreError::Io(path.to_owned(), reason),
        Err(error) => StoreError::Refused(error.to_string()),
    }
}

pub(super) fn fault(path: &Path, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(reason) => StoreError::Io(path.to_owned(), reason),
        redb::Error::Corrupted(_) => StoreError::Damaged(path.to_owned()),
        other => StoreError::Io(path.to_owned(), io::Error::other(other.to_string())),
    }
}

fn last_revision(tables: &Writing<'_>) -> Result<u64, redb::Error> {
    Ok(tables.text(REVISION)?.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The embedded unit was there first, and alone.
fn wkid_of(backend: &str) -> String {
    match backend {
        EMBEDDED => WKID.to_owned(),
        other => format!("{REMOTE_WKID}{other}"),
    }
}

fn next_wkid_of(backend: &str) -> String {
    format!("{NEXT_WKID}:{backend}")
}

/// Without MACs.
pub(super) const OLD_FORMAT: &str = "1";
pub(super) const THIS_FORMAT: &str = "2";
/// Wrapped by the master key of the embedded unit, in base64.
pub(super) const STORE_KEY: &str = "store-key";
pub(super) const STORE_KEY_NAME: &str = "store-key-name";
pub(super) const WKID: &str = "wkid";
const REMOTE_WKID: &str = "wkid:";
const NEXT_WKID: &str = "next-wkid";
pub(super) const DEV: &str = "dev";
pub(super) const YES: &str = "yes";
const NO: &str = "no";
const REVISION: &str = "revision";
const CREATED: &str = "created";

/// Keys that are looked at in one transaction.
const PAGE: usize = 1000;

const ALTERED_SHOWN: usize = 5;
const ALTERED_ADVICE: &str = "find out who wrote to the store, then restore it from a backup, or give each key up with: keyward key delete LABEL";
const INDEX_ADVICE: &str = "find out who wrote to the store, then restore it from a backup, or have the lists made anew, which disables their keys, with: keyward key repair";

/// Memory for pages of the file, in bytes (32 MiB). The keys in use are kept outside of it.
const CACHE: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use super::super::tests::{key, unlocked};
    use super::super::{Keys, index};
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = unlocked(dir.path());
        (dir, store)
    }

    #[test]
    fn a_key_survives_closing_and_opening() {
        let (dir, store) = store();
        store.set_dev(true).unwrap();
        store.set_wkid("embedded", "ab", None).unwrap();
        store.set_wkid("hsm", "cd", None).unwrap();
        let stored = store.put(key("shop")).unwrap();
        drop(store);
        let store = unlocked(dir.path());
        assert_eq!(store.is_dev().unwrap(), Some(true));
        let wkid = |backend| store.wkid(backend).unwrap();
        assert_eq!((wkid("embedded"), wkid("hsm")), (Some("ab".into()), Some("cd".into())));
        assert_eq!(wkid("other"), None);
        assert_eq!(store.remote_backends().unwrap(), ["hsm"]);
        store.set_next_wkid("hsm", "ef").unwrap();
        assert_eq!(store.next_wkid("hsm").unwrap().as_deref(), Some("ef"));
        store.set_wkid("hsm", "ef", None).unwrap();
        assert_eq!((wkid("hsm").as_deref(), store.next_wkid("hsm").unwrap()), (Some("ef"), None));
        assert_eq!(store.get(&stored.label).unwrap().unwrap().revision, stored.revision);
        assert_eq!(store.count().unwrap(), 1);
    }

    #[test]
    fn only_the_latest_revision_can_be_changed() {
        let (_dir, store) = store();
        let first = store.put(key("shop")).unwrap();
        assert!(matches!(store.put(key("shop")), Err(StoreError::Exists(_))));
        let second = store.put(Key { state: State::Disabled, ..first.clone() }).unwrap();
        assert!(second.revision > first.revision);
        assert!(matches!(store.put(first.clone()), Err(StoreError::Changed(_))));
        store.delete(&second.label).unwrap();
        assert!(matches!(store.delete(&second.label), Err(StoreError::Unknown(_))));
        store.put(key("shop")).unwrap();
        assert!(matches!(store.put(first), Err(StoreError::Changed(_))), "a revision of the deleted key");
    }

    #[test]
    fn lists_come_in_order_and_in_pages() {
        let (_dir, store) = store();
        for label in ["b", "a", "d", "c"] {
            store.put(key(label)).unwrap();
        }
        let labels = |after, limit| -> Vec<String> {
            store.list(after, limit).unwrap().iter().map(|key| key.label().to_string()).collect()
        };
        assert_eq!(labels(None, 3), ["a", "b", "c"]);
        assert_eq!(labels(Some("c"), 3), ["d"]);
        assert!(labels(Some("d"), 3).is_empty());
    }

    /// Does something to the file that the daemon did not do.
    fn alter(dir: &Path, f: impl FnOnce(&mut Writing<'_>)) {
        let database = open_existing(&dir.join(Store::FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        f(&mut Writing::open(&transaction).unwrap());
        transaction.commit().unwrap();
    }

    /// The rows of a store as they are.
    struct Rows {
        keys: Vec<(String, Vec<u8>)>,
        index: Vec<(u32, Vec<u8>)>,
        facts: Vec<(String, String)>,
    }

    fn rows(dir: &Path) -> Rows {
        let database = open_existing(&dir.join(Store::FILE)).unwrap();
        let tables = Reading::open(&database.begin_read().unwrap()).unwrap();
        let keys = tables.keys.iter().unwrap().map(Result::unwrap);
        let index = tables.index.iter().unwrap().map(Result::unwrap);
        Rows {
            keys: keys.map(|(label, row)| (label.value().into(), row.value().to_vec())).collect(),
            index: index.map(|(number, row)| (number.value(), row.value().to_vec())).collect(),
            facts: tables.facts().unwrap().into_iter().collect(),
        }
    }

    /// Keys in different lists of the index, and one that was disabled after it had been copied.
    fn scene() -> (tempfile::TempDir, Rows) {
        let (dir, store) = store();
        store.set_dev(false).unwrap();
        for label in ["shop", "other", "third"] {
            store.put(key(label)).unwrap();
        }
        drop(store);
        let before = rows(dir.path());
        let store = unlocked(dir.path());
        let shop = store.get(&"shop".parse().unwrap()).unwrap().unwrap();
        store.put(Key { state: State::Disabled, ..shop }).unwrap();
        store.put(key("fourth")).unwrap();
        (dir, before)
    }

    /// The state of each key of [`scene`], or that it was altered.
    fn told(dir: &Path) -> Vec<(String, &'static str)> {
        let store = unlocked(dir);
        let listed = store.list(None, 10).unwrap();
        let altered = listed.iter().filter(|listed| matches!(listed, Listed::Altered { .. })).count();
        assert_eq!(store.check().unwrap().count, altered, "the check at the start and the list differ");
        let told = |listed: &Listed| match (listed, store.get(listed.label())) {
            (Listed::Key(key), Ok(Some(found))) if key.revision == found.revision => key.state.name(),
            (Listed::Altered { reason, .. }, Err(found)) if reason.to_string() == found.to_string() => {
                match found {
                    StoreError::Altered(_) => "altered",
                    StoreError::Unlisted(_) => "unlisted",
                    _ => "not read",
                }
            }
            _ => "the list and the key differ",
        };
        listed.iter().map(|listed| (listed.label().to_string(), told(listed))).collect()
    }

    fn expected(shop: &'static str) -> Vec<(String, &'static str)> {
        [("fourth", "enabled"), ("other", "enabled"), ("shop", shop), ("third", "enabled")]
            .map(|(label, state)| (label.to_owned(), state))
            .to_vec()
    }

    /// Each of these is found out, and no other key suffers.
    #[test]
    fn a_record_that_was_altered_is_refused() {
        let edit = |from: &'static str, to: &'static str| {
            move |tables: &mut Writing<'_>| {
                let row = tables.keys.get("shop").unwrap().unwrap().value().to_vec();
                let (mac, record) = row.split_at(32);
                let edited = str::from_utf8(record).unwrap().replace(from, to);
                assert_ne!(edited.as_bytes(), record, "{from}");
                tables.keys.insert("shop", [mac, edited.as_bytes()].concat().as_slice()).unwrap();
            }
        };
        let copy = |from: &'static str| {
            move |tables: &mut Writing<'_>| {
                let row = tables.keys.get(from).unwrap().unwrap().value().to_vec();
                tables.keys.insert("shop", row.as_slice()).unwrap();
            }
        };
        type Alteration = Box<dyn Fn(&mut Writing<'_>)>;
        let alterations: [(&str, Alteration); 10] = [
            ("uses", Box::new(edit("tls-server", "any"))),
            ("state", Box::new(edit("disabled", "enabled"))),
            ("backend", Box::new(edit("embedded", "hsm"))),
            ("blob", Box::new(edit("AQID", "AQIE"))),
            ("next blob", Box::new(edit("\"public_key\"", "\"next_blob\":\"AQID\",\"public_key\""))),
            ("certificates", Box::new(edit("1700000000", "1700000000,\"certificates\":[\"AQID\"]"))),
            ("created", Box::new(edit("1700000000", "1700000001"))),
            ("the record of another key", Box::new(copy("other"))),
            ("removed", Box::new(|tables| drop(tables.keys.remove("shop").unwrap()))),
            ("garbage", Box::new(|tables| drop(tables.keys.insert("shop", [7; 9].as_slice()).unwrap()))),
        ];
        for (what, alteration) in alterations {
            let (dir, _) = scene();
            assert_eq!(told(dir.path()), expected("disabled"));
            alter(dir.path(), alteration);
            assert_eq!(told(dir.path()), expected("altered"), "{what}");

            let store = unlocked(dir.path());
            let shop: Label = "shop".parse().unwrap();
            assert!(matches!(store.put(key("shop")), Err(StoreError::Altered(_))), "{what}");
            store.delete(&shop).unwrap();
            assert!(store.get(&shop).unwrap().is_none());
            store.put(key("shop")).unwrap();
            drop(store);
            assert_eq!(told(dir.path()), expected("enabled"), "{what}");
        }
    }

    #[test]
    fn an_old_copy_of_a_record_is_refused() {
        let (dir, before) = scene();
        let put_back = |tables: &mut Writing<'_>| {
            let (label, old) = before.keys.iter().find(|(label, _)| label == "shop").unwrap();
            tables.keys.insert(label.as_str(), old.as_slice()).unwrap();
        };
        alter(dir.path(), put_back);
        assert_eq!(told(dir.path()), expected("altered"));
        // With what the index said of it then.
        let (dir, _) = scene();
        let list = index::list_of("shop");
        alter(dir.path(), |tables| {
            put_back(tables);
            let (_, old) = before.index.iter().find(|(number, _)| *number == list).unwrap();
            tables.index.insert(list, old.as_slice()).unwrap();
        });
        assert_eq!(told(dir.path()), expected("unlisted"));
        // And with all that the index said, but for the key that was made since.
        let (dir, _) = scene();
        alter(dir.path(), |tables| {
            put_back(tables);
            for (number, old) in &before.index {
                tables.index.insert(number, old.as_slice()).unwrap();
            }
            for (name, value) in &before.facts {
                tables.meta.insert(name.as_str(), value.as_str()).unwrap();
            }
        });
        let told = told(dir.path());
        assert!(told.contains(&("fourth".into(), "unlisted")), "{told:?}");
    }

    #[test]
    fn a_record_that_was_deleted_does_not_come_back() {
        let (dir, _) = scene();
        let before = rows(dir.path());
        unlocked(dir.path()).delete(&"shop".parse().unwrap()).unwrap();
        alter(dir.path(), |tables| {
            for (label, row) in &before.keys {
                tables.keys.insert(label.as_str(), row.as_slice()).unwrap();
            }
            // Names that no key can have neither show nor hide the others.
            for number in 0..20 {
                tables.keys.insert(format!("!{number}").as_str(), [7; 50].as_slice()).unwrap();
            }
        });
        assert_eq!(told(dir.path()), expected("altered"));
        assert_eq!(unlocked(dir.path()).check().unwrap().nameless, 20);
    }

    #[test]
    fn what_the_store_says_of_itself_is_authenticated() {
        type Alteration = Box<dyn Fn(&mut Writing<'_>)>;
        let alterations: [(&str, Alteration); 8] = [
            ("a store of --dev", Box::new(|tables| drop(tables.meta.insert("dev", "yes").unwrap()))),
            ("nobody's", Box::new(|tables| drop(tables.meta.remove("dev").unwrap()))),
            ("another master key", Box::new(|tables| drop(tables.meta.insert("wkid", "00").unwrap()))),
            ("made earlier", Box::new(|tables| drop(tables.meta.insert("created", "1").unwrap()))),
            ("older", Box::new(|tables| drop(tables.meta.insert("revision", "1").unwrap()))),
            ("no seal", Box::new(|tables| drop(tables.meta.remove("seal").unwrap()))),
            ("no store key", Box::new(|tables| drop(tables.meta.remove("store-key-name").unwrap()))),
            (
                "another root",
                Box::new(|tables| drop(tables.index.insert(256, [0; 8192].as_slice()).unwrap())),
            ),
        ];
        for (what, alteration) in alterations {
            let (dir, _) = scene();
            alter(dir.path(), alteration);
            let store = Store::open(dir.path()).unwrap();
            let refused = store.unlock(&StoreKey::from_bytes(&[7; 32]).unwrap(), None);
            assert!(matches!(refused, Err(StoreError::AlteredStore(_))), "{what}");
            assert!(matches!(store.list(None, 1), Err(StoreError::Locked(_))), "{what}");
        }
    }

    #[test]
    fn a_list_of_the_index_that_was_altered_costs_its_own_keys() {
        let (dir, _) = scene();
        alter(dir.path(), |tables| drop(tables.index.remove(index::list_of("shop")).unwrap()));
        assert_eq!(told(dir.path()), expected("unlisted"));
    }

    /// Two edits in place, of as many bytes as before, leave nothing that has the label.
    #[test]
    fn a_key_does_not_vanish_with_its_list_and_its_name() {
        let (dir, _) = scene();
        alter(dir.path(), |tables| {
            let number = index::list_of("shop");
            let mut list = tables.index.get(number).unwrap().unwrap().value().to_vec();
            *list.last_mut().unwrap() ^= 1;
            tables.index.insert(number, list.as_slice()).unwrap();
            let row = tables.keys.remove("shop").unwrap().unwrap().value().to_vec();
            tables.keys.insert("s!op", row.as_slice()).unwrap();
        });
        let store = unlocked(dir.path());
        assert!(matches!(store.get(&"shop".parse().unwrap()), Err(StoreError::Unlisted(_))));
        let altered = store.check().unwrap();
        assert_eq!((altered.count, altered.lists, altered.nameless, altered.total()), (0, 1, 1, 2));
        let (told, _) = altered.problem().unwrap();
        assert!(
            told.starts_with("1 lists of the index") && told.contains("; 1 records in the key"),
            "{told}"
        );
        drop(store);
        // A daemon that runs finds it out when somebody lists the keys.
        let store = unlocked(dir.path());
        assert_eq!((store.list(None, 10).unwrap().len(), store.known_altered().lists), (3, 1));
    }

    #[test]
    fn a_list_that_was_altered_is_made_anew_and_its_keys_are_disabled() {
        let (dir, before) = scene();
        let shop: Label = "shop".parse().unwrap();
        alter(dir.path(), |tables| {
            // It is enabled in this copy, and was disabled since.
            let (_, old) = before.keys.iter().find(|(label, _)| label == "shop").unwrap();
            tables.keys.insert("shop", old.as_slice()).unwrap();
            tables.keys.insert("other", [7; 50].as_slice()).unwrap();
            tables.keys.insert("!other", [7; 50].as_slice()).unwrap();
            for label in ["shop", "other"] {
                tables.index.remove(index::list_of(label)).unwrap();
            }
        });
        let store = unlocked(dir.path());
        for refused in [store.put(key("shop")).map(drop), store.delete(&shop)] {
            let told = refused.unwrap_err().to_string();
            assert!(told.ends_with("with: keyward key repair"), "{told}");
        }
        let (_, advice) = store.check().unwrap().problem().unwrap();
        assert!(advice.ends_with("with: keyward key repair"), "{advice}");
        let rebuilt = store.rebuild().unwrap();
        let labels = |labels: &[Label]| labels.iter().map(Label::to_string).collect::<Vec<_>>();
        assert_eq!(
            (labels(&rebuilt.kept), labels(&rebuilt.removed)),
            (vec!["shop".into()], vec!["other".into()])
        );
        assert_eq!((rebuilt.lists.len(), rebuilt.nameless), (2, 1));
        assert_eq!(store.known_altered().total(), 0);
        let found = store.get(&shop).unwrap().unwrap();
        assert!(found.state == State::Disabled && found.revision > 5, "{}", found.revision);
        store.put(key("other")).unwrap();
        store.delete(&shop).unwrap();
        drop(store);
        assert_eq!(told(dir.path()).len(), 3);
        assert!(unlocked(dir.path()).rebuild().unwrap().lists.is_empty());
    }

    #[tokio::test]
    async fn a_key_in_memory_is_disabled_with_its_list() {
        let (_dir, store) = store();
        let keys = Keys::new(store, NonZeroUsize::MIN);
        let shop = keys.put(key("shop")).await.unwrap().label.clone();
        assert!(keys.get(&shop).await.unwrap().unwrap().state == State::Enabled);
        keys.store
            .write(|tables| {
                tables.index.remove(index::list_of("shop"))?;
                Ok(Ok(()))
            })
            .unwrap();
        assert!(keys.cached("shop").is_some());
        assert_eq!(keys.repair().await.unwrap().disabled, std::slice::from_ref(&shop));
        assert!(keys.get(&shop).await.unwrap().unwrap().state == State::Disabled);
    }

    #[test]
    fn only_its_own_key_unlocks_a_store() {
        let (dir, store) = store();
        store.put(key("shop")).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert!(matches!(store.get(&"shop".parse().unwrap()), Err(StoreError::Locked(_))));
        let other = store.unlock(&StoreKey::from_bytes(&[8; 32]).unwrap(), None);
        assert!(matches!(other, Err(StoreError::OtherStoreKey(_))));
    }

    #[test]
    fn many_keys_are_listed_as_few_are() {
        let (_dir, store) = store();
        let labels: Vec<_> = (0..700).map(|number| format!("key-{number:03}")).collect();
        for label in &labels {
            store.put(key(label)).unwrap();
        }
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let page = store.list(after.as_deref(), 64).unwrap();
            seen.extend(page.into_iter().map(|listed| listed.key().unwrap().label.to_string()));
            if after.as_ref() == seen.last() {
                break;
            }
            after = seen.last().cloned();
        }
        assert_eq!(seen, labels);
    }

    #[test]
    fn one_daemon_at_a_time() {
        let (dir, _store) = store();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
    }

    #[test]
    fn a_file_that_is_no_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(Store::FILE), [7; 5000]).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Damaged(_))));
    }

    #[test]
    fn an_unusable_database_is_opened_again() {
        let (_dir, store) = store();
        store.put(key("shop")).unwrap();
        store.open.write().unwrap().database = None;
        assert_eq!(store.list(None, 10).unwrap().len(), 1);
        store.put(key("other")).unwrap();
    }
}
