//! The key store: one redb file, every change durable before it is answered.
//!
//! A fault of the disk costs the operation that met it. redb refuses all work after one, so the file is
//! opened anew then; keys in memory are served all the while.

use core::panic::AssertUnwindSafe;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Label;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{Key, record};
use crate::config::EMBEDDED;

/// The store on disk. Its operations wait for the disk: not for the tasks that serve peers.
pub struct Store {
    path: PathBuf,
    open: RwLock<Open>,
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
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path);
        drop(file.map_err(|reason| StoreError::Io(path.clone(), reason))?);
        let database = open_database(&path)?;
        // The directory entry of a new file must outlive a power cut, too.
        fs::File::open(state_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|reason| StoreError::Io(path.clone(), reason))?;
        let store = Self { path, open: RwLock::new(Open { database: Some(database), times: 0 }) };
        store.check_format()?;
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// The remote backends that have keys, or had some.
    pub(crate) fn remote_backends(&self) -> Result<Vec<String>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(META)?;
            let mut names = Vec::new();
            for row in table.range(REMOTE_WKID..)? {
                let (name, _) = row?;
                let Some(name) = name.value().strip_prefix(REMOTE_WKID) else { break };
                names.push(name.to_owned());
            }
            Ok(Ok(names))
        })
    }

    /// Settles the master key of a backend; none is to come any more.
    pub(crate) fn set_wkid(&self, backend: &str, wkid: &str) -> Result<(), StoreError> {
        self.change(|_, table| {
            table.insert(wkid_of(backend).as_str(), wkid)?;
            table.remove(next_wkid_of(backend).as_str())?;
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

    /// The secret that stands behind answers to premaster secrets that are not sound; made if there is none.
    pub(crate) fn rejection_secret(&self) -> Result<RejectionSecret, StoreError> {
        let read = |text: &str| -> Option<RejectionSecret> {
            let mut secret = RejectionSecret::new([0; 32]);
            let length = STANDARD.decode_slice(text, &mut *secret).ok()?;
            (length == secret.len()).then_some(secret)
        };
        if let Some(text) = self.text(REJECTION)?.map(Zeroizing::new) {
            return read(&text).ok_or_else(|| self.damaged());
        }
        self.change(|_, meta| {
            // Somebody else may have made it by now.
            let found = meta.get(REJECTION)?.map(|text| Zeroizing::new(text.value().to_owned()));
            if let Some(text) = found {
                return Ok(read(&text).ok_or_else(|| self.damaged()));
            }
            let mut secret = RejectionSecret::new([0; 32]);
            if aws_lc_rs::rand::fill(&mut *secret).is_err() {
                return Ok(Err(StoreError::NoRandomness));
            }
            meta.insert(REJECTION, Zeroizing::new(STANDARD.encode(*secret)).as_str())?;
            Ok(Ok(secret))
        })
    }

    fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(META)?;
            Ok(Ok(table.get(name)?.map(|value| value.value().to_owned())))
        })
    }

    fn set_text(&self, name: &str, text: &str) -> Result<(), StoreError> {
        self.change(|_, table| {
            table.insert(name, text)?;
            Ok(Ok(()))
        })
    }

    pub(crate) fn get(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(KEYS)?;
            let stored = table.get(label.as_str())?;
            Ok(stored.map(|stored| self.decode(label.clone(), stored.value())).transpose())
        })
    }

    /// Stores a key over the revision that it came from; revision 0: no such key may exist.
    pub(crate) fn put(&self, mut key: Key) -> Result<Key, StoreError> {
        let before = key.revision;
        self.change(|keys, meta| {
            let stored = match keys.get(key.label.as_str())? {
                Some(stored) => match self.decode(key.label.clone(), stored.value()) {
                    Ok(stored) => stored.revision,
                    Err(damaged) => return Ok(Err(damaged)),
                },
                None => 0,
            };
            if stored != before {
                return Ok(Err(match before {
                    0 => StoreError::Exists(key.label.clone()),
                    _ => StoreError::Changed(key.label.clone()),
                }));
            }
            // Counted across all keys, so that a key made anew never meets a revision of its predecessor.
            let last = meta.get(REVISION)?.and_then(|text| text.value().parse::<u64>().ok()).unwrap_or(0);
            key.revision = last + 1;
            meta.insert(REVISION, key.revision.to_string().as_str())?;
            let Some(bytes) = record::encode(&key) else { return Ok(Err(self.damaged())) };
            keys.insert(key.label.as_str(), bytes.as_slice())?;
            Ok(Ok(()))
        })?;
        Ok(key)
    }

    pub(crate) fn delete(&self, label: &Label) -> Result<(), StoreError> {
        self.change(|keys, _| {
            let deleted = keys.remove(label.as_str())?.is_some();
            Ok(deleted.then_some(()).ok_or_else(|| StoreError::Unknown(label.clone())))
        })
    }

    pub(crate) fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<Key>, StoreError> {
        use core::ops::Bound::{Excluded, Unbounded};
        self.with(|database| {
            let table = database.begin_read()?.open_table(KEYS)?;
            let from = after.map_or(Unbounded, Excluded);
            let mut keys = Vec::new();
            for entry in table.range::<&str>((from, Unbounded))?.take(limit) {
                let (label, stored) = entry?;
                let Ok(label) = label.value().parse() else { return Ok(Err(self.damaged())) };
                match self.decode(label, stored.value()) {
                    Ok(key) => keys.push(key),
                    Err(damaged) => return Ok(Err(damaged)),
                }
            }
            Ok(Ok(keys))
        })
    }

    pub(crate) fn count(&self) -> Result<u64, StoreError> {
        self.with(|database| Ok(Ok(database.begin_read()?.open_table(KEYS)?.len()?)))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        self.change(|_, meta| {
            let format = meta.get(FORMAT)?.map(|value| value.value().to_owned());
            match format.as_deref() {
                Some(THIS_FORMAT) => Ok(Ok(())),
                Some(other) => Ok(Err(StoreError::Format(self.path.clone(), other.to_owned()))),
                None => {
                    meta.insert(FORMAT, THIS_FORMAT)?;
                    Ok(Ok(()))
                }
            }
        })
    }

    /// Runs a transaction that is on the disk when this returns `Ok`, and nowhere otherwise.
    fn change<T>(
        &self,
        mut f: impl FnMut(&mut Table<'_, &'static [u8]>, &mut Table<'_, &'static str>) -> Attempt<T>,
    ) -> Result<T, StoreError> {
        self.with(|database| {
            let mut transaction = database.begin_write()?;
            // Opening after a crash must not take time that grows with the number of keys.
            transaction.set_quick_repair(true);
            let done = f(&mut transaction.open_table(KEYS)?, &mut transaction.open_table(META)?)?;
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
                catch_unwind(AssertUnwindSafe(|| f(database)))
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

    fn decode(&self, label: Label, bytes: &[u8]) -> Result<Key, StoreError> {
        record::decode(label, bytes).ok_or_else(|| self.damaged())
    }

    fn fault(&self, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(reason) => StoreError::Io(self.path.clone(), reason),
            redb::Error::Corrupted(_) => self.damaged(),
            other => StoreError::Io(self.path.clone(), io::Error::other(other.to_string())),
        }
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged(self.path.clone())
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key was changed since it was read.
    #[error("the key {0} was changed by someone else at the same time; try again")]
    Changed(Label),
    /// The file is not what this daemon wrote.
    #[error("the key store {} is damaged; restore it from a backup", .0.display())]
    Damaged(PathBuf),
    /// There is a key with this label.
    #[error("there is a key {0} already")]
    Exists(Label),
    /// Written by another version of Keyward.
    #[error("the key store {} has format {}, this version of keyward knows format {THIS_FORMAT}", .0.display(), .1)]
    Format(PathBuf, String),
    /// Another process has the file open.
    #[error("the key store {} is in use: another keyward daemon runs on this state directory", .0.display())]
    InUse(PathBuf),
    /// The disk is full, gone or broken.
    #[error("cannot read or write the key store {}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
    /// The system gives no random numbers.
    #[error("the system gave no random numbers, which a secret of the key store is made of")]
    NoRandomness,
    /// There is no such key.
    #[error("there is no key {0}")]
    Unknown(Label),
}

/// Wiped when it is dropped.
pub(super) type RejectionSecret = Zeroizing<[u8; 32]>;

/// The outer error is a fault of the database, the inner one an answer.
type Attempt<T> = Result<Result<T, StoreError>, redb::Error>;

type Table<'a, V> = redb::Table<'a, &'static str, V>;

struct Open {
    /// `None` if it could not be opened again after a fault.
    database: Option<Database>,
    /// How often it was opened again.
    times: u64,
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    let create = || -> Result<Database, redb::Error> {
        let database = redb::Builder::new().set_cache_size(CACHE).create(path)?;
        if database.begin_read()?.open_table(META).is_err() {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.open_table(KEYS)?;
            transaction.open_table(META)?;
            transaction.commit()?;
        }
        Ok(database)
    };
    match catch_unwind(AssertUnwindSafe(create)) {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(StoreError::InUse(path.to_owned())),
        Ok(Err(redb::Error::Io(reason))) if reason.kind() != io::ErrorKind::InvalidData => {
            Err(StoreError::Io(path.to_owned(), reason))
        }
        // An InvalidData stands for a file that is no database of redb.
        Ok(Err(_)) | Err(_) => Err(StoreError::Damaged(path.to_owned())),
    }
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

const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

const FORMAT: &str = "format";
const THIS_FORMAT: &str = "1";
const WKID: &str = "wkid";
const REMOTE_WKID: &str = "wkid:";
const NEXT_WKID: &str = "next-wkid";
const DEV: &str = "dev";
const YES: &str = "yes";
const NO: &str = "no";
const REVISION: &str = "revision";
const REJECTION: &str = "rejection-secret";

/// Memory for pages of the file, in bytes (32 MiB). The keys in use are kept outside of it.
const CACHE: usize = 32 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::tests::key;
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn a_key_survives_closing_and_opening() {
        let (dir, store) = store();
        store.set_dev(true).unwrap();
        store.set_wkid("embedded", "ab").unwrap();
        store.set_wkid("hsm", "cd").unwrap();
        let stored = store.put(key("shop")).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.is_dev().unwrap(), Some(true));
        let wkid = |backend| store.wkid(backend).unwrap();
        assert_eq!((wkid("embedded"), wkid("hsm")), (Some("ab".into()), Some("cd".into())));
        assert_eq!(wkid("other"), None);
        assert_eq!(store.remote_backends().unwrap(), ["hsm"]);
        store.set_next_wkid("hsm", "ef").unwrap();
        assert_eq!(store.next_wkid("hsm").unwrap().as_deref(), Some("ef"));
        store.set_wkid("hsm", "ef").unwrap();
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
            store.list(after, limit).unwrap().iter().map(|key| key.label.to_string()).collect()
        };
        assert_eq!(labels(None, 3), ["a", "b", "c"]);
        assert_eq!(labels(Some("c"), 3), ["d"]);
        assert!(labels(Some("d"), 3).is_empty());
    }

    #[test]
    fn one_daemon_at_a_time() {
        let (dir, _store) = store();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse(_))));
    }

    #[test]
    fn a_file_that_is_no_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(Store::FILE), [7; 5000]).unwrap();
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
