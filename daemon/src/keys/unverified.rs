//! Keys of a locked store: they are shown as they are in the store, and can be stopped.
//!
//! The store key is not known while the embedded unit is sealed, so nothing vouches for a record. A
//! reference contains no secret, and the daemon verifies the record before it uses the key. A key
//! that is stopped now stays stopped, whatever its record turns out to be.

use std::sync::Arc;

use keyward_proto::Label;

use super::unwritten::Unwritten;
use super::{Key, KeyStore, Keys, Listed, record};
use crate::store::StoreError;

impl KeyStore {
    /// The key of a label, without verification.
    fn get_unverified(&self, label: &Label) -> Result<Option<Key>, StoreError> {
        let record = self.store.get_unverified(label)?;
        let key = record.map(|record| unverified(label, &record)).transpose()?;
        Ok(key.and_then(|key| self.as_in_memory(key, None)))
    }

    /// Up to `limit` keys in the order of their labels, from the first label after `after`, without
    /// verification. A record that no daemon wrote is listed as altered.
    fn list_unverified(&self, after: Option<&str>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let entries = self.store.list_unverified(after, limit)?.into_iter();
        let listed = entries.filter_map(|entry| {
            let label = entry.label;
            match entry.record.and_then(|record| unverified(&label, &record)) {
                Ok(key) => self.as_in_memory(key, None).map(Listed::Key),
                Err(reason) => Some(Listed::Altered { label, reason }),
            }
        });
        Ok(listed.collect())
    }

    /// Stops a key of a locked store, in memory only. The change is written when the store is
    /// unlocked. Of the key as `stop` leaves it, only the state counts: another program may have
    /// written the rest.
    fn stop_unverified<E>(
        &self,
        label: &Label,
        stop: impl FnOnce(&mut Key) -> Result<(), E>,
    ) -> Result<Result<Key, E>, StoreError> {
        let mut key = self.get_unverified(label)?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
        if let Err(refused) = stop(&mut key) {
            return Ok(Err(refused));
        }
        self.unwritten().insert(label.clone(), Unwritten::StoppedUnverified(key.state));
        if !self.is_locked() {
            // The store was unlocked meanwhile, and its changes may be written already.
            self.write_pending();
        }
        Ok(Ok(key))
    }
}

impl Keys {
    /// A key to show: verified, or unverified while the store is locked.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn look(&self, label: &Label) -> Result<Option<Arc<Key>>, StoreError> {
        match self.get(label).await {
            Err(StoreError::Locked(_)) => {
                let label = label.clone();
                Ok(self.in_store(move |store| store.get_unverified(&label)).await?.map(Arc::new))
            }
            found => found,
        }
    }

    /// Keys to show, like [`Keys::list`]: verified, or unverified while the store is locked.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn look_at_list(
        &self,
        after: Option<String>,
        limit: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let list = move |store: &KeyStore| match store.list(after.as_deref(), limit) {
            Err(StoreError::Locked(_)) => store.list_unverified(after.as_deref(), limit),
            listed => listed,
        };
        self.in_store(list).await
    }

    /// Stops a key of a locked store, in memory only, until the store is unlocked.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if there is no such key; the error of `stop`, which leaves the key
    /// unchanged; other errors of the store.
    pub(crate) async fn stop_unverified<E: From<StoreError> + Send + 'static>(
        &self,
        label: &Label,
        stop: impl FnOnce(&mut Key) -> Result<(), E> + Send + 'static,
    ) -> Result<Arc<Key>, E> {
        let stopped = label.clone();
        let key = self.change(label.clone(), move |store| store.stop_unverified(&stopped, stop)).await??;
        Ok(Arc::new(key))
    }
}

fn unverified(label: &Label, bytes: &[u8]) -> Result<Key, StoreError> {
    let key = record::decode_without_blobs(label.clone(), bytes)
        .ok_or_else(|| StoreError::Altered(label.clone()))?;
    Ok(Key { unverified: true, ..key })
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;
    use std::path::Path;

    use redb::ReadableTable;

    use super::super::tests::{key, store_key, unlocked};
    use super::super::{Deletion, State};
    use super::*;
    use crate::store::{FILE, KEYS, open_existing};

    /// A store with the keys `shop` and `old`, which is locked.
    fn locked() -> (tempfile::TempDir, KeyStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = unlocked(dir.path());
        store.put(key("shop")).unwrap();
        store.put(key("old")).unwrap();
        drop(store);
        let store = KeyStore::open(dir.path()).unwrap();
        (dir, store)
    }

    /// Replaces a text in the record of a key, without the daemon. Returns the row of before.
    fn edit(dir: &Path, label: &str, from: &str, to: &str) -> Vec<u8> {
        let database = open_existing(&dir.join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        let row = {
            let mut keys = transaction.open_table(KEYS).unwrap();
            let row = keys.get(label).unwrap().unwrap().value().to_vec();
            let (mac, record) = row.split_at(32);
            let edited = str::from_utf8(record).unwrap().replace(from, to);
            assert_ne!(edited.as_bytes(), record, "{from}");
            keys.insert(label, [mac, edited.as_bytes()].concat().as_slice()).unwrap();
            row
        };
        transaction.commit().unwrap();
        row
    }

    fn put_back(dir: &Path, label: &str, row: &[u8]) {
        let database = open_existing(&dir.join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(KEYS).unwrap().insert(label, row).unwrap();
        transaction.commit().unwrap();
    }

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    fn disable(key: &mut Key) -> Result<(), StoreError> {
        key.state = State::Disabled;
        Ok(())
    }

    fn compromise(key: &mut Key) -> Result<(), StoreError> {
        key.state = State::Compromised;
        Ok(())
    }

    #[test]
    fn keys_of_a_locked_store_are_shown_and_never_used_or_written() {
        let (dir, store) = locked();
        let (shop, old) = (label("shop"), label("old"));
        assert!(matches!(store.get(&shop), Err(StoreError::Locked(_))));
        let shown = store.get_unverified(&shop).unwrap().unwrap();
        assert!(shown.unverified && shown.state == State::Enabled);
        assert!(store.get_unverified(&label("none")).unwrap().is_none());
        assert!(matches!(store.put(shown.clone()), Err(StoreError::Locked(_))));
        assert!(matches!(store.delete(&shop), Err(StoreError::Locked(_))));
        let labels = |after, limit| -> Vec<String> {
            let listed = store.list_unverified(after, limit).unwrap();
            listed.iter().map(|listed| listed.label().to_string()).collect()
        };
        assert_eq!(
            (labels(None, 9), labels(None, 1)),
            (vec!["old".into(), "shop".into()], vec!["old".into()])
        );
        assert_eq!(labels(Some("old"), 9), ["shop"]);
        drop(store);

        // Another program has written the records.
        edit(dir.path(), "shop", "enabled", "disabled");
        edit(dir.path(), "old", "{", "[");
        let store = KeyStore::open(dir.path()).unwrap();
        assert_eq!(store.get_unverified(&shop).unwrap().unwrap().state, State::Disabled);
        assert!(matches!(store.get_unverified(&old), Err(StoreError::Altered(_))));
        assert!(matches!(
            &store.list_unverified(None, 9).unwrap()[..],
            [Listed::Altered { .. }, Listed::Key(_)]
        ));
        store.unlock(&store_key(), None).unwrap();
        assert!(matches!(store.get(&shop), Err(StoreError::Altered(_))));
        assert!(matches!(store.put(shown), Err(StoreError::Locked(_))), "an unverified key");
    }

    #[test]
    fn a_key_that_was_stopped_is_written_before_any_key_is_given_out() {
        let (dir, store) = locked();
        let shop = label("shop");
        store.stop_unverified(&shop, disable).unwrap().unwrap();
        let shown = store.get_unverified(&shop).unwrap().unwrap();
        assert!(shown.state == State::Disabled && store.is_pending(&shop));
        assert!(matches!(store.stop_unverified(&label("none"), disable), Err(StoreError::Unknown(_))));
        let refused = store.stop_unverified(&label("old"), |_| Err(StoreError::Changed(label("old"))));
        assert!(refused.unwrap().is_err() && store.pending() == [shop.clone()]);
        assert!(store.write_pending().is_empty(), "the store is still locked");

        store.unlock(&store_key(), None).unwrap();
        let stored = store.get(&shop).unwrap().unwrap();
        assert!(stored.state == State::Disabled && !stored.unverified && store.pending().is_empty());
        // From now on the key is as any other.
        store.put(Key { state: State::Enabled, ..stored }).unwrap();
        store.stop_unverified(&shop, compromise).unwrap().unwrap();
        assert!(store.pending().is_empty(), "the store was unlocked meanwhile");
        drop(store);
        assert_eq!(unlocked(dir.path()).get(&shop).unwrap().unwrap().state, State::Compromised);
    }

    /// Only the state of a stopped key is written, and only to an authentic record.
    #[test]
    fn an_altered_record_adds_nothing_to_the_change() {
        let (dir, store) = locked();
        let (shop, old) = (label("shop"), label("old"));
        drop(store);
        let deletion = Some(Deletion { by: 1, at: 2, destroy_at: u64::MAX });
        let store = unlocked(dir.path());
        for (label, state) in [(&shop, State::Enabled), (&old, State::Compromised)] {
            let key = store.get(label).unwrap().unwrap();
            let life = super::super::Life { deletion, ..key.life.clone() };
            store.put(Key { state, life, ..key }).unwrap();
        }
        drop(store);
        let row = edit(dir.path(), "shop", "\"by\":1", "\"by\":7");
        let store = KeyStore::open(dir.path()).unwrap();
        store.stop_unverified(&shop, disable).unwrap().unwrap();
        store.stop_unverified(&old, disable).unwrap().unwrap();
        let pending = store.unwritten().clone();
        store.unlock(&store_key(), None).unwrap();
        assert!(matches!(store.get(&shop), Err(StoreError::Altered(_))));
        assert!(store.is_pending(&shop), "the change waits for a repair of the store");
        assert_eq!(store.get(&old).unwrap().unwrap().state, State::Compromised);
        drop(store);

        put_back(dir.path(), "shop", &row);
        let store = KeyStore::open(dir.path()).unwrap();
        *store.unwritten() = pending;
        store.unlock(&store_key(), None).unwrap();
        let stored = store.get(&shop).unwrap().unwrap();
        assert_eq!((stored.state, stored.life.deletion), (State::Disabled, deletion));
    }

    #[tokio::test]
    async fn an_unverified_key_is_never_in_memory() {
        let (_dir, store) = locked();
        let keys = Keys::new(store, NonZeroUsize::MIN);
        let shop = label("shop");
        assert!(keys.look(&shop).await.unwrap().unwrap().unverified);
        assert!(keys.cached("shop").is_none() && matches!(keys.get(&shop).await, Err(StoreError::Locked(_))));
        assert_eq!(keys.look_at_list(None, 9).await.unwrap().len(), 2);
        let stopped = keys.stop_unverified(&shop, disable).await.unwrap();
        assert!(stopped.unverified && keys.look(&shop).await.unwrap().unwrap().state == State::Disabled);
        keys.store.unlock(&store_key(), None).unwrap();
        let found = keys.look(&shop).await.unwrap().unwrap();
        assert!(!found.unverified && found.state == State::Disabled && keys.cached("shop").is_some());
    }
}
