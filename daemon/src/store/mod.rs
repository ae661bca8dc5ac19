//! The key store: a record for each label, and metadata. The store key authenticates both.
//!
//! The store does not know the meaning of a record. A record is a JSON object, and the store reads
//! one member: `revision`. The module `keys` writes and reads the rest.
//!
//! [`Store`] is the interface, and [`RedbStore`] implements the interface with one file. A store
//! that several daemons share, such as etcd, would be another implementation.
//!
//! The methods block. redb blocks, and the daemon reads the store before a runtime exists. Later
//! `keys::Keys` runs each call on a thread that may block. An implementation that waits for a
//! network can wait on the same thread.
//!
//! The trait has no method to watch for changes. A file of redb has one writer, the daemon, and
//! `keys::changes` tells peers of the changes of the daemon. A store that several daemons share
//! needs the method: `keys::changes` would then follow the store.

mod altered;
mod error;
pub(crate) mod index;
pub(crate) mod metadata;
mod redb;
mod reserve;
mod store_key;
mod witness;

use core::slice;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use keyward_proto::Label;
use serde::Deserialize;

pub(crate) use self::redb::look::{Look, NamedSecrets, look, secrets_of};
pub(crate) use self::redb::migrate::{
    Format, Migrated, MigrationError, OldStore, copy_of_migration, finish, migrated_before, was_migrated,
};
pub(crate) use self::redb::permit;
pub(crate) use self::redb::{FILE, RedbStore};
#[cfg(test)]
pub(crate) use self::redb::{
    file::open_existing,
    tables::{KEYS, META, Reading, Writing},
};
pub(crate) use altered::{Alterations, Altered};
pub(crate) use error::SECRETS;
pub use error::StoreError;
pub(crate) use index::LISTS;
pub use store_key::StoreKey;
pub(crate) use store_key::{Seals, expand};
pub(crate) use witness::Witness;

/// A key store. Methods block until the work is done.
///
/// A change is durable when the method returns `Ok`. The store is unchanged when the method returns
/// an error, except for a fault in the middle of a commit: then the change may have happened.
///
/// The store refuses a record that another program wrote, an old copy of a record, and the absence
/// of a record that was not deleted.
pub(crate) trait Store: Send + Sync {
    /// Path of the store, for messages and for the files beside the store.
    fn path(&self) -> &Path;

    /// True if nothing was ever stored.
    fn is_new(&self) -> Result<bool, StoreError>;

    /// Opens the store for work. `key` must be the key that the store was made with; a new store
    /// is made with `key`. `wrapped` is the key as the embedded unit wraps it, and replaces the
    /// wrapped key in the metadata. `upgrade` wraps the blobs of a store of the format before.
    ///
    /// Only [`Self::metadata`], [`Self::metadata_names`], [`Self::get_unverified`] and
    /// [`Self::list_unverified`] work before this call, and their answers are not authenticated
    /// then.
    ///
    /// # Errors
    /// [`StoreError::OtherStoreKey`] for another key, [`StoreError::AlteredStore`] if another
    /// program has changed the metadata.
    fn unlock(&self, key: &StoreKey, wrapped: Option<&[u8]>, upgrade: &Upgrade<'_>)
    -> Result<(), StoreError>;

    /// True until [`Self::unlock`] succeeds.
    fn is_locked(&self) -> bool;

    /// Secret for implicit rejection, 32 bytes, derived from the store key. No copy of the store
    /// contains the secret. A restart and a change of the master key leave the secret as it is.
    ///
    /// # Errors
    /// [`StoreError::Locked`] before the store is unlocked.
    fn rejection_secret(&self) -> Result<&[u8], StoreError>;

    /// Record of a label.
    ///
    /// # Errors
    /// [`StoreError::Altered`] or [`StoreError::Unlisted`] if the record is not authentic.
    fn get(&self, label: &Label) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes a record as [`Self::put_all`] does.
    ///
    /// # Errors
    /// [`StoreError::Exists`] or [`StoreError::Changed`] if the revision is another one.
    fn put(&self, put: &Put<'_>) -> Result<u64, StoreError> {
        self.put_all(slice::from_ref(put))?
            .pop()
            .unwrap_or_else(|| Err(StoreError::Changed(put.label.clone())))
    }

    /// Writes several records, which become durable together. A record is refused if the revision
    /// of the stored record is not the expected one: with [`StoreError::Exists`] or
    /// [`StoreError::Changed`]. The others are written then. Returns the new revisions, each of
    /// which is higher than every revision of this store before.
    ///
    /// # Errors
    /// [`StoreError`] if no record can be written: the store is locked or altered, or the disk has
    /// a fault.
    fn put_all(&self, puts: &[Put<'_>]) -> Result<Vec<Result<u64, StoreError>>, StoreError>;

    /// Deletes the record of a label, even if the record is not authentic. Notes in the metadata,
    /// under [`metadata::DESTROYED`], that a record was deleted.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is none.
    fn delete(&self, label: &Label) -> Result<(), StoreError>;

    /// Up to `limit` records in the order of their labels, from the first label after `after`.
    /// `is_altered` says that something in the store is known to be altered: then the whole index
    /// is searched for records that are missing.
    fn list(&self, after: Option<&str>, limit: usize, is_altered: bool) -> Result<Page, StoreError>;

    /// Record of a label as it is in the store: another program may have written it. Works before
    /// the store is unlocked. Nothing secret and no right may depend on the answer.
    ///
    /// # Errors
    /// [`StoreError::Altered`] for a row that is too short or too long for a record.
    fn get_unverified(&self, label: &Label) -> Result<Option<Vec<u8>>, StoreError>;

    /// Like [`Self::list`], for records as [`Self::get_unverified`] returns them.
    fn list_unverified(&self, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Number of records.
    fn count(&self) -> Result<u64, StoreError>;

    /// Value of one of the names in [`metadata`].
    fn metadata(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Names that have a value. They are not authenticated.
    fn metadata_names(&self) -> Result<Vec<String>, StoreError>;

    /// Sets metadata, or removes the metadata that have `None`: all of them or nothing.
    fn set_metadata(&self, changes: &[(&str, Option<&str>)]) -> Result<(), StoreError>;

    /// Authenticates everything, and returns the parts that are not authentic.
    fn check(&self) -> Result<Alterations, StoreError>;

    /// Rebuilds the parts of the index that were altered, from the records that are authentic, and
    /// removes the records that are not. Also removes records under names that no key can have.
    /// Notes that records were removed, as [`Self::delete`] does.
    fn rebuild(&self, revise: &Revise<'_>) -> Result<Rebuilt, StoreError>;

    /// Rewrites records of one of [`index::LISTS`] lists without a change of their revisions.
    /// Returns the number of records in the list; `None` if the list was altered.
    fn rewrite(&self, list: u32, rewrite: &Rewrite<'_>) -> Result<Option<u64>, StoreError>;

    /// Reason why records are missing that were here before, or why a change would be lost.
    fn problem(&self) -> Option<String>;

    /// True if the next start would not find the store.
    fn is_gone(&self) -> bool;

    /// Writes the store as it is at one moment into an empty file, which is a store itself.
    /// Changes go on meanwhile. Returns the number of records.
    ///
    /// # Errors
    /// [`StoreError::Copy`] if the file cannot be written.
    fn copy_into(&self, file: &File) -> Result<u64, StoreError>;

    /// Gives up the space that is reserved for urgent changes.
    fn release_reserve(&self);

    /// Reserves space for urgent changes, unless the space is reserved already.
    fn keep_reserve(&self);
}

/// A record to write.
pub(crate) struct Put<'p> {
    pub(crate) label: &'p Label,
    /// Revision of the stored record; 0 stands for no record.
    pub(crate) expected: u64,
    pub(crate) record: &'p Encode<'p>,
}

/// Gives the record for a revision; `None` if the record cannot be encoded. The last parameter is
/// the value of [`metadata::SECRET`] in the same transaction, or an empty text. The store can call
/// the function more than once.
pub(crate) type Encode<'e> = dyn Fn(u64, &str) -> Option<Vec<u8>> + 'e;

/// Gives the record to store instead of an authentic record, which can be an old copy, under a new
/// revision. `None` removes the record. The last parameter is that of [`Encode`].
pub(crate) type Revise<'r> = dyn Fn(&Label, &[u8], u64, &str) -> Option<Vec<u8>> + 'r;

/// Gives the record to store instead of an authentic record. `None` leaves the record as it is. The
/// last parameter is that of [`Encode`].
pub(crate) type Rewrite<'r> = dyn Fn(&Label, &[u8], &str) -> Option<Vec<u8>> + 'r;

/// The way to bring a store of the format before to the present format.
pub(crate) struct Upgrade<'u> {
    /// Gives the value of [`metadata::SECRET`].
    pub(crate) secret: &'u dyn Fn() -> Result<String, StoreError>,
    /// Rewrites each record.
    pub(crate) rewrite: &'u Rewrite<'u>,
}

/// A part of the list of records.
pub(crate) struct Page {
    /// Entries in the order of their labels.
    pub(crate) entries: Vec<Entry>,
    /// Numbers of the lists of the index that were found altered.
    pub(crate) altered_lists: BTreeSet<u32>,
    /// False if something in the store is not as a daemon wrote it, here or elsewhere.
    pub(crate) is_whole: bool,
}

/// An entry of the list of records.
pub(crate) struct Entry {
    pub(crate) label: Label,
    /// The record, or the reason why the record is refused.
    pub(crate) record: Result<Vec<u8>, StoreError>,
}

/// Result of [`Store::rebuild`].
#[derive(Default)]
pub(crate) struct Rebuilt {
    /// Numbers of the lists of the index that were rebuilt.
    pub(crate) lists: BTreeSet<u32>,
    /// Labels of these lists whose records are authentic; the records may be old copies.
    pub(crate) kept: Vec<Label>,
    /// Labels of these lists whose records were removed, because they are not authentic.
    pub(crate) removed: Vec<Label>,
    /// Number of records that were removed because no key can have their name.
    pub(crate) nameless: usize,
}

impl Rebuilt {
    /// True if the list of a label was rebuilt.
    pub(crate) fn covers(&self, label: &str) -> bool {
        self.lists.contains(&index::list_of(label))
    }
}

/// Revision of a record; `None` if the bytes are no record.
fn revision_of(record: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Revision {
        revision: u64,
    }
    serde_json::from_slice(record).ok().map(|Revision { revision }| revision)
}

#[cfg(test)]
mod tests;
