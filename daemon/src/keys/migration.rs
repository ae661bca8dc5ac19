//! The keys of a store of the old format.

use keyward_proto::{Label, Use};

use super::{Key, MigrationError, OldStore, State, StoreKey, record};
use crate::store::Migrated;

/// A key of a store that was migrated.
pub(crate) struct MigratedKey {
    pub(crate) label: Label,
    pub(crate) state: State,
    pub(crate) uses: Vec<Use>,
}

/// Migrates a store. `wrapped` is the store key as the embedded unit wraps it.
///
/// # Errors
/// [`MigrationError`] says what prevents the migration. The store is unchanged then.
pub(crate) fn migrate(
    store: &OldStore,
    key: &StoreKey,
    wrapped: Option<&[u8]>,
) -> Result<Migrated<MigratedKey>, MigrationError> {
    store.migrate(key, wrapped, |label, record| {
        let Key { label, state, uses, .. } = record::decode_bare(label, record)?;
        Some(MigratedKey { label, state, uses })
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use redb::{Database, ReadableDatabase};

    use super::super::tests::{key, store_key};
    use super::super::{Format, KeyStore, StoreError, finish, permit, was_migrated};
    use super::{Key, Migrated, MigratedKey, MigrationError, OldStore, record};
    use crate::store::{KEYS, META, open_existing};

    /// A store as the version before this one wrote it.
    fn old_store(dir: &Path, keys: &[Key]) {
        let database = Database::create(dir.join(KeyStore::FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(KEYS).unwrap();
            for key in keys {
                table.insert(key.label.as_str(), record::encode_bare(key).unwrap().as_slice()).unwrap();
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

    fn migrate(dir: &Path) -> Result<Migrated<MigratedKey>, MigrationError> {
        let Format::First(old) = OldStore::open(dir).unwrap() else { panic!("another format") };
        super::migrate(&old, &store_key(), Some(b"wrapped"))
    }

    #[test]
    fn every_key_is_the_same_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = Key { revision: 3, ..key("other") };
        other.versions[0].next_blob = Some(vec![8]);
        let keys = [Key { revision: 9, ..key("shop") }, other];
        old_store(dir.path(), &keys);
        assert!(matches!(KeyStore::open(dir.path()), Err(StoreError::OldFormat(..))));
        let migrated = migrate(dir.path()).unwrap();
        let labels: Vec<_> = migrated.keys.iter().map(|key| key.label.as_str()).collect();
        assert_eq!(labels, ["other", "shop"]);
        assert!(matches!(OldStore::open(dir.path()).unwrap(), Format::Second));

        permit::give(&dir.path().join(KeyStore::FILE)).unwrap();
        let store = KeyStore::open(dir.path()).unwrap();
        assert_eq!(store.wrapped_key().unwrap().unwrap(), b"wrapped");
        store.unlock(&store_key(), None).unwrap();
        for key in &keys {
            let found = store.get(&key.label).unwrap().unwrap();
            assert_eq!(record::encode_bare(&found), record::encode_bare(key));
        }
        assert_eq!(store.is_dev().unwrap(), Some(false));
        assert_eq!(store.put(key("new")).unwrap().revision, 10);
        let copy = open_existing(&migrated.copy).unwrap();
        let meta = copy.begin_read().unwrap().open_table(META).unwrap();
        assert_eq!(meta.get("format").unwrap().unwrap().value(), "1");
    }

    #[test]
    fn a_migration_that_was_interrupted_can_be_started_again() {
        let dir = tempfile::tempdir().unwrap();
        old_store(dir.path(), &[key("shop")]);
        let part = dir.path().join("keys.redb.before-format-2.part");
        fs::write(&part, "half of a copy").unwrap();
        let copy = migrate(dir.path()).unwrap().copy;
        assert!(!part.exists());
        // Broken off after the last change to the store, and before the copy had its name.
        fs::rename(&copy, &part).unwrap();
        let store = dir.path().join(KeyStore::FILE);
        assert!(!was_migrated(&store));
        finish(&store).unwrap();
        finish(&store).unwrap();
        assert!(was_migrated(&store) && !part.exists());
    }

    #[test]
    fn the_copy_replaces_no_file() {
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
        let store = dir.path().join(KeyStore::FILE);
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
        assert!(matches!(OldStore::open(dir.path()).unwrap(), Format::First(_)));
    }
}
