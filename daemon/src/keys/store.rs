//! The key store: one redb file, every change durable before it is answered.
//!
//! A fault of the disk costs the operation that met it. redb refuses all work after one, so the
//! file is opened anew then; keys in memory are served all the while.
//!
//! The store key authenticates every record, and the facts about the store: which records there
//! are, the master keys, and whether the store belongs to `--dev`. The daemon refuses a record that
//! somebody else has written, an old copy of a record, and a record that was removed. Only an old
//! copy of the whole file looks like the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use keyward_unit::{Header, Wkid};
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::{Key, Listed, State, Version, record};
use crate::config::EMBEDDED;
use crate::ground::ownership;
use crate::store::altered::{ALTERED_SHOWN, Altered};
use crate::store::error::{StoreError, refused};
use crate::store::index::Root;
use crate::store::metadata::{
    CREATED, DEV, FORMAT, NEXT_WKID, NO, OLD_FORMAT, REMOTE_WKID, REVISION, STORE_KEY, STORE_KEY_NAME,
    THIS_FORMAT, WKID, YES,
};
use crate::store::redb::file::{self, Attempt, StoreFile};
use crate::store::redb::tables::{Alterations, Found, INDEX, META, Reading, Rebuilt, Writing};
use crate::store::room::Room;
use crate::store::store_key::{Seals, StoreKey};
use crate::store::witness::Witness;

/// The store on disk. Its operations wait for the disk: not for the tasks that serve peers.
///
/// Until it is unlocked it tells no more than whom it belongs to.
pub struct Store {
    file: StoreFile,
    seals: OnceLock<Seals>,
    /// Its name, by which it is told from one that has taken its place.
    name: OnceLock<String>,
    /// The note that stands beside it.
    witness: Mutex<Option<Witness>>,
    room: Room,
    /// Keys whose end could not be written yet.
    held: Mutex<BTreeMap<Label, Held>>,
    /// What was found altered: by [`Store::check`], or when keys were listed since.
    altered: Mutex<Alterations>,
}

/// What a key is in memory, whatever the file says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Held {
    Disabled,
    Deleted,
}

impl Store {
    /// Name of the file in the state directory.
    pub const FILE: &str = file::FILE;

    /// Opens the store of a state directory, or makes an empty one.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another daemon has it; otherwise what is wrong with the file.
    pub fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(Self::FILE);
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
            room: Room::of(state_dir),
            held: Mutex::default(),
            altered: Mutex::default(),
        };
        store.check_format()?;
        store.room.keep();
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
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
                return Ok(Err(StoreError::OtherStoreKey(self.path().to_owned())));
            }
            Ok(tables.root(&seals)?.map(|_| ()).ok_or_else(|| self.altered()))
        })?;
        let name = self.read(|tables| {
            let text = |name| -> Result<String, redb::Error> { Ok(tables.text(name)?.unwrap_or_default()) };
            // One that was made anew with the same store key has another time.
            Ok(Ok(format!("{}:{}", text(STORE_KEY_NAME)?, text(CREATED)?)))
        })?;
        let _ = self.name.set(name);
        let _ = self.seals.set(seals);
        if let Some(wrapped) = wrapped.filter(|_| !is_new) {
            self.set_wrapped_key(wrapped)?;
        }
        if self.count()? > 0 {
            self.note();
        }
        Ok(())
    }

    /// Notes beside the store that it has keys, and of which master key.
    fn note(&self) {
        let Some(name) = self.name.get() else { return };
        let mut noted = lock(&self.witness);
        let master_key = self.wkid(EMBEDDED).ok().flatten();
        let witness = Some(Witness { store: name.clone(), master_key });
        let state_dir = self.path().parent().unwrap_or(Path::new("."));
        if *noted == witness {
            return;
        }
        match witness.iter().try_for_each(|witness| witness.write(state_dir)) {
            Ok(()) => *noted = witness,
            Err(error) => tracing::warn!(
                "cannot note in {} that the key store has keys, so that its loss would not be told: {error}",
                state_dir.display()
            ),
        }
    }

    /// The master key of a store that had keys in this place, by name.
    pub(crate) fn noted_master_key(&self) -> Option<String> {
        lock(&self.witness).as_ref().and_then(|witness| witness.master_key.clone())
    }

    /// Reason why keys that there were are not there, or what is written would be lost.
    pub(crate) fn problem(&self) -> Option<String> {
        if !self.file.is_in_place() {
            return Some(self.gone().to_string());
        }
        let noted = lock(&self.witness).clone()?;
        let is_other = self.name.get().is_some_and(|name| *name != noted.store);
        (is_other && self.count().is_ok_and(|count| count == 0)).then(|| {
            format!(
                "the key store {} has no key, and the one that was there before it had some{}: stop the daemon, and restore that from a backup with keyward restore FILE; if these keys are gone for good, make one with keyward key generate, and this is said no more",
                self.path().display(),
                noted.master_key.map(|name| format!(", wrapped by master key {name}")).unwrap_or_default()
            )
        })
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
        lock(&self.altered)
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
        })?;
        if self.count()? > 0 {
            self.note();
        }
        Ok(())
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
        .map(|key| key.and_then(|key| self.as_held(key)))
    }

    /// A key as it is in memory, if it was not deleted there.
    fn as_held(&self, key: Key) -> Option<Key> {
        match lock(&self.held).get(&key.label) {
            None => Some(key),
            Some(Held::Disabled) => {
                Some(Key { state: State::Disabled, revision: key.revision | SEEN_HELD, ..key })
            }
            Some(Held::Deleted) => None,
        }
    }

    /// Stores a key over the revision that it came from; revision 0: no such key may exist.
    ///
    /// A key that is to be disabled is that from now on, also where it cannot be written:
    /// [`StoreError::NotDurable`].
    pub(crate) fn put(&self, key: Key) -> Result<Key, StoreError> {
        let label = key.label.clone();
        if lock(&self.held).get(&label) == Some(&Held::Deleted) && key.revision == 0 {
            // Another one of this name: the end of the first is written first.
            self.hold(&label, Some((Held::Deleted, "deleted")), || self.delete_key(&label))?;
        }
        let disables = key.state == State::Disabled
            && self.get(&label).is_ok_and(|known| known.is_some_and(|known| known.state == State::Enabled));
        let held = disables.then_some((Held::Disabled, "disabled"));
        let stored = self.hold(&label, held, || self.write_key(key.clone()))?;
        if self.name.get() != lock(&self.witness).as_ref().map(|witness| &witness.store) {
            self.note();
        }
        Ok(stored)
    }

    /// Does something that ends the use of a key, or in memory alone where there is no room for it
    /// on the disk.
    fn hold<T>(
        &self,
        label: &Label,
        held: Option<(Held, &'static str)>,
        write: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut done = write();
        if let (Some(_), Err(StoreError::Io(..))) = (held, &done) {
            self.room.give_up();
            done = write();
            self.room.keep();
        }
        match (done, held) {
            (Ok(done), _) => {
                lock(&self.held).remove(label);
                Ok(done)
            }
            (Err(reason @ (StoreError::Gone(_) | StoreError::Io(..))), Some((held, done))) => {
                lock(&self.held).insert(label.clone(), held);
                Err(StoreError::NotDurable { label: label.clone(), done, reason: Box::new(reason) })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Writes what could not be written. Returns the keys of which it was.
    pub(crate) fn settle(&self) -> Vec<Label> {
        let held: Vec<_> = lock(&self.held).iter().map(|(label, held)| (label.clone(), *held)).collect();
        let mut settled = Vec::new();
        for (label, held) in held {
            let done = match held {
                Held::Deleted => self.delete_key(&label),
                Held::Disabled => match self.get(&label) {
                    // As it is held.
                    Ok(Some(key)) => self.write_key(key).map(drop),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                },
            };
            if matches!(done, Ok(()) | Err(StoreError::Unknown(_))) {
                lock(&self.held).remove(&label);
                settled.push(label);
            }
        }
        self.room.keep();
        settled
    }

    /// Keys that are disabled or deleted in memory alone.
    pub(crate) fn unsettled(&self) -> Vec<Label> {
        lock(&self.held).keys().cloned().collect()
    }

    /// Keys of the embedded unit of which a blob is wrapped by another master key than these, so
    /// that they do not sign.
    pub(crate) fn left_behind(&self, wkids: &[Wkid]) -> Result<Vec<Label>, StoreError> {
        let is_other = |version: &Version| {
            Header::read(&version.blob).is_some_and(|header| !wkids.contains(&header.wkid()))
        };
        let (mut left, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.list(after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(left) };
            after = Some(last.label().to_string());
            for key in page.into_iter().filter_map(|listed| listed.key().ok()) {
                if key.backend == EMBEDDED && key.versions.iter().any(is_other) {
                    left.push(key.label);
                }
            }
        }
    }

    fn write_key(&self, mut key: Key) -> Result<Key, StoreError> {
        let before = key.revision & !SEEN_HELD;
        match lock(&self.held).get(&key.label) {
            // Somebody who has read the key before that would undo it.
            Some(Held::Disabled) if key.revision & SEEN_HELD == 0 => {
                return Err(StoreError::Changed(key.label));
            }
            Some(Held::Deleted) if before != 0 => return Err(StoreError::Unknown(key.label)),
            _ => {}
        }
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

    /// Deletes a key, also one whose record was altered. It is gone from now on, also where that
    /// cannot be written: [`StoreError::NotDurable`].
    pub(crate) fn delete(&self, label: &Label) -> Result<(), StoreError> {
        if lock(&self.held).get(label) == Some(&Held::Deleted) {
            return Err(StoreError::Unknown(label.clone()));
        }
        self.hold(label, Some((Held::Deleted, "deleted")), || self.delete_key(label))
    }

    fn delete_key(&self, label: &Label) -> Result<(), StoreError> {
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
                Ok(key) => key.and_then(|key| self.as_held(key)).map(Listed::Key),
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
            match format.as_deref() {
                Some(THIS_FORMAT) => transaction.abort()?,
                Some(OLD_FORMAT) => return Ok(Err(StoreError::OldFormat(self.path().to_owned()))),
                Some(other) => return Ok(Err(StoreError::Format(self.path().to_owned(), other.to_owned()))),
                None => transaction.commit()?,
            }
            Ok(Ok(()))
        })
    }

    fn seals(&self) -> Result<&Seals, StoreError> {
        self.seals.get().ok_or_else(|| StoreError::Locked(self.path().to_owned()))
    }

    /// Runs a transaction that reads.
    pub(super) fn read<T>(&self, mut f: impl FnMut(&Reading) -> Attempt<T>) -> Result<T, StoreError> {
        self.file.with(|database| f(&Reading::open(&database.begin_read()?)?))
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
        self.file.with(|database| {
            let mut transaction = database.begin_write()?;
            // Opening after a crash must not take time that grows with the number of keys.
            transaction.set_quick_repair(true);
            let done = f(&mut Writing::open(&transaction)?)?;
            if done.is_err() || !self.file.is_in_place() {
                transaction.abort()?;
                return Ok(done.and_then(|_| Err(self.gone())));
            }
            transaction.commit()?;
            // It may have gone meanwhile.
            Ok(done.and_then(|done| if self.file.is_in_place() { Ok(done) } else { Err(self.gone()) }))
        })
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

    fn altered(&self) -> StoreError {
        StoreError::AlteredStore(self.path().to_owned())
    }

    fn gone(&self) -> StoreError {
        StoreError::Gone(self.path().to_owned())
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged(self.path().to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Bit in the revision of a key that was read when it was disabled in memory alone.
const SEEN_HELD: u64 = 1 << 63;

/// Keys that are looked at in one transaction.
const PAGE: usize = 1000;

#[cfg(test)]
mod tests;
