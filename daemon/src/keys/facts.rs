//! Facts about the store itself: the owner of the store, and the master keys that the keys need.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_unit::{Header, Wkid};

use super::KeyStore;
use crate::config::EMBEDDED;
use crate::store::metadata::{CREATED, DEV, NEXT_WKID, NO, PROGRESS, REMOTE_WKID, STORE_KEY, WKID, YES};
use crate::store::{StoreError, Witness};

impl KeyStore {
    /// Time when the store was made, in seconds since 1970; `None` if an older version made the
    /// store.
    pub(crate) fn created(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.store.metadata(CREATED)?.and_then(|text| text.parse().ok()))
    }

    /// True if the store belongs to a daemon that runs with `--dev`; `None` for an empty store.
    pub(crate) fn is_dev(&self) -> Result<Option<bool>, StoreError> {
        Ok(self.store.metadata(DEV)?.map(|dev| dev == YES))
    }

    /// Records the owner of the store, when the store is made.
    pub(crate) fn set_dev(&self, dev: bool) -> Result<(), StoreError> {
        self.store.set_metadata(&[(DEV, Some(if dev { YES } else { NO }))])
    }

    /// True if the file of the progress of renewals was written once.
    pub(crate) fn has_progress(&self) -> Result<bool, StoreError> {
        Ok(self.store.metadata(PROGRESS)?.is_some())
    }

    /// Notes that the file of the progress of renewals is written.
    pub(crate) fn note_progress(&self) -> Result<(), StoreError> {
        self.store.set_metadata(&[(PROGRESS, Some(YES))])
    }

    /// The store key as the embedded unit has wrapped it; `None` if no unit has.
    pub(crate) fn wrapped_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let altered = || StoreError::AlteredStore(self.path().to_owned());
        let text = self.store.metadata(STORE_KEY)?;
        text.map(|text| STANDARD.decode(text).map_err(|_| altered())).transpose()
    }

    /// Master key that wraps the blobs of a backend; `None` before the first key.
    pub(crate) fn wkid(&self, backend: &str) -> Result<Option<Wkid>, StoreError> {
        self.master_key_in(&wkid_of(backend))
    }

    /// Records the master key of a backend. The backend has no next master key any more.
    /// `store_key` is the store key as that master key wraps it, for the embedded unit.
    pub(crate) fn set_wkid(
        &self,
        backend: &str,
        wkid: Wkid,
        store_key: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let (name, next) = (wkid_of(backend), next_wkid_of(backend));
        let store_key = store_key.map(|key| STANDARD.encode(key));
        let wkid = wkid.to_string();
        let mut changes = vec![(name.as_str(), Some(wkid.as_str())), (next.as_str(), None)];
        changes.extend(store_key.as_deref().map(|key| (STORE_KEY, Some(key))));
        self.store.set_metadata(&changes)
    }

    /// Next master key of a backend, which wraps blobs, too; `None` unless the keys of the backend
    /// are being rewrapped.
    pub(crate) fn next_wkid(&self, backend: &str) -> Result<Option<Wkid>, StoreError> {
        self.master_key_in(&next_wkid_of(backend))
    }

    /// Records the next master key of a backend.
    pub(crate) fn set_next_wkid(&self, backend: &str, wkid: Wkid) -> Result<(), StoreError> {
        self.store.set_metadata(&[(&next_wkid_of(backend), Some(&wkid.to_string()))])
    }

    /// Master key that the embedded unit needs: it wraps the keys or the store key.
    pub(crate) fn master_key(&self) -> Result<Option<Wkid>, StoreError> {
        let of_store_key = |key: Vec<u8>| Header::read(&key).map(|header| header.wkid());
        Ok(match self.wkid(EMBEDDED)? {
            None => self.wrapped_key()?.and_then(of_store_key),
            known => known,
        })
    }

    /// Name of the master key of a store that had keys in this place, from the note beside the
    /// store.
    pub(crate) fn noted_master_key(&self) -> Option<String> {
        Witness::read(self.state_dir()).and_then(|witness| witness.master_key)
    }

    fn master_key_in(&self, name: &str) -> Result<Option<Wkid>, StoreError> {
        let altered = |_| StoreError::AlteredStore(self.path().to_owned());
        self.store.metadata(name)?.map(|wkid| wkid.parse().map_err(altered)).transpose()
    }

    /// Names of the remote backends that have keys, or had keys before.
    pub(crate) fn remote_backends(&self) -> Result<Vec<String>, StoreError> {
        let names = self.store.metadata_names()?.into_iter();
        Ok(names.filter_map(|name| name.strip_prefix(REMOTE_WKID).map(str::to_owned)).collect())
    }
}

/// Name of the metadata with the master key of a backend. The embedded unit was the first backend,
/// and has the name without a suffix.
fn wkid_of(backend: &str) -> String {
    match backend {
        EMBEDDED => WKID.to_owned(),
        other => format!("{REMOTE_WKID}{other}"),
    }
}

fn next_wkid_of(backend: &str) -> String {
    format!("{NEXT_WKID}:{backend}")
}
