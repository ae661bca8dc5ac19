//! Unlocks the key store: with a store key from a file, or with the one that the embedded unit has
//! wrapped.

use std::path::PathBuf;

use keyward_unit::{Unit, UnitError};
use thiserror::Error;

use super::{KeyStore, StoreError, StoreKey};
use crate::config::EMBEDDED;

/// Unlocks a store with the key of a file, or else with the key that the embedded unit has wrapped.
/// A new store with an embedded unit gets a new key.
///
/// # Errors
/// [`StoreKeyError`] says which key is missing or wrong.
pub(crate) fn unlock(
    store: &KeyStore,
    unit: Option<&Unit>,
    file: Option<StoreKey>,
) -> Result<(), StoreKeyError> {
    let wrapped = store.wrapped_key()?;
    let own = unit.zip(wrapped.as_deref()).map(|(unit, wrapped)| unit.unwrap_store_key(wrapped));
    let is_wrapped = matches!(own, Some(Ok(_)));
    let key = match (file, own) {
        (Some(key), _) => key,
        (None, Some(own)) => {
            let key = own.map_err(|reason| StoreKeyError::Unwrap(store.path().to_owned(), reason))?;
            let damaged = StoreKeyError::Unwrap(store.path().to_owned(), UnitError::BlobDamaged);
            StoreKey::from_bytes(&key).ok_or(damaged)?
        }
        (None, None) => match (unit, store.wkid(EMBEDDED)?) {
            (Some(_), _) if store.is_new()? => StoreKey::generate().ok_or(StoreKeyError::NoRandomness)?,
            (Some(_), _) => return Err(StoreKeyError::NotNamed(store.path().to_owned())),
            (None, Some(wkid)) if wrapped.is_some() => {
                return Err(StoreKeyError::NoMasterKey(store.path().to_owned(), wkid.to_string()));
            }
            (None, _) if store.is_new()? => return Err(StoreKeyError::NotConfigured),
            (None, _) => return Err(StoreKeyError::NotNamed(store.path().to_owned())),
        },
    };
    // Wrapped by the unit too: then the file is not needed any more, and a store of remote keys can
    // get an embedded unit.
    let wrapped = unit.filter(|_| !is_wrapped).map(|unit| wrap(unit, &key)).transpose()?;
    Ok(store.unlock(&key, wrapped.as_deref())?)
}

/// Wraps the store key by the master key of a unit.
///
/// # Errors
/// [`StoreKeyError::Wrap`] with the error of the unit.
pub(crate) fn wrap(unit: &Unit, key: &StoreKey) -> Result<Vec<u8>, StoreKeyError> {
    unit.wrap_store_key(key.as_bytes()).map_err(StoreKeyError::Wrap)
}

/// Reason why the key store cannot be unlocked.
#[derive(Debug, Error)]
pub(crate) enum StoreKeyError {
    #[error(
        "refused the store key in {}: the file is in the state directory, so a copy of the directory has the store and its key; move the key elsewhere, such as to /etc/keyward/store.key, and set key in section [store] to that file", .0.display()
    )]
    BesideTheStore(PathBuf),
    #[error("{0}")]
    File(String),
    #[error(
        "cannot unlock the key store {}: master key {} wraps its store key, and no master key is configured; set master-key in section [embedded] of the configuration", .0.display(), .1
    )]
    NoMasterKey(PathBuf, String),
    #[error("cannot make a store key: the system gave no random numbers")]
    NoRandomness,
    #[error(
        "no store key: without a master key, the key store needs a store key of its own; set key in section [store] of the configuration to a file made with (umask 077; set -C; openssl rand -hex 32 > FILE), or pass that file as the credential store-key"
    )]
    NotConfigured,
    #[error(
        "cannot unlock the key store {}: it was made with a store key in a file; set key in section [store] of the configuration to that file, or pass it as the credential store-key", .0.display()
    )]
    NotNamed(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot unlock the key store {}: {}", .0.display(), unwrap_message(.1))]
    Unwrap(PathBuf, UnitError),
    #[error("cannot wrap the store key: {0}")]
    Wrap(UnitError),
}

fn unwrap_message(error: &UnitError) -> String {
    match error {
        UnitError::OtherMasterKey { blob, unit } => format!(
            "it was made with master key {blob}, but master key {unit} is configured; set master-key to the file of the former"
        ),
        _ => "its store key is damaged; restore the store from a backup".into(),
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_unit::MasterKey;

    use super::*;
    use crate::keys::tests::key;

    fn unit() -> Unit {
        Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN)
    }

    fn file() -> Option<StoreKey> {
        StoreKey::from_bytes(&[9; 32])
    }

    #[test]
    fn the_master_key_opens_the_store_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mine, other) = (unit(), unit());
        let open = || KeyStore::open(dir.path()).unwrap();
        let store = open();
        unlock(&store, Some(&mine), None).unwrap();
        store.set_wkid(EMBEDDED, mine.wkid().unwrap(), None).unwrap();
        store.put(key("shop")).unwrap();
        drop(store);
        let error = unlock(&open(), Some(&other), None).unwrap_err().to_string();
        let [mine_name, other_name] = [&mine, &other].map(|unit| unit.wkid().unwrap().to_string());
        assert!(error.contains(&mine_name) && error.contains(&other_name), "{error}");
        let error = unlock(&open(), None, None).unwrap_err().to_string();
        assert!(error.contains(&mine_name) && error.contains("master-key"), "{error}");
        assert!(matches!(
            unlock(&open(), None, file()),
            Err(StoreKeyError::Store(StoreError::OtherStoreKey(_)))
        ));
        let store = open();
        unlock(&store, Some(&mine), None).unwrap();
        assert!(store.get(&"shop".parse().unwrap()).unwrap().is_some());
    }

    #[test]
    fn another_master_key_touches_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let (old, digits) = (unit(), MasterKey::generate().unwrap().to_hex());
        let new = || MasterKey::from_hex(&digits).unwrap();
        let store = KeyStore::open(dir.path()).unwrap();
        unlock(&store, Some(&old), None).unwrap();
        let stored = store.put(key("shop")).unwrap();
        let secret = store.rejection_secret().unwrap().to_vec();
        let both = old;
        assert!(both.accept(&new()));
        let wkid = both.other_wkid().unwrap();
        let wrapped = both.rewrap_store_key(&store.wrapped_key().unwrap().unwrap(), wkid).unwrap();
        store.set_wkid(EMBEDDED, wkid, Some(&wrapped)).unwrap();
        drop(store);

        let store = KeyStore::open(dir.path()).unwrap();
        assert!(matches!(unlock(&store, Some(&unit()), None), Err(StoreKeyError::Unwrap(..))));
        unlock(&store, Some(&Unit::new(new(), NonZeroUsize::MIN)), None).unwrap();
        assert_eq!(store.get(&stored.label).unwrap().unwrap().revision, stored.revision);
        assert_eq!(store.rejection_secret().unwrap(), secret, "the secret for implicit rejection stays");
    }

    #[test]
    fn a_daemon_without_a_master_key_has_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let open = || KeyStore::open(dir.path()).unwrap();
        assert!(matches!(unlock(&open(), None, None), Err(StoreKeyError::NotConfigured)));
        unlock(&open(), None, file()).unwrap();
        assert!(matches!(unlock(&open(), None, None), Err(StoreKeyError::NotNamed(_))));
        let unit = unit();
        assert!(matches!(unlock(&open(), Some(&unit), None), Err(StoreKeyError::NotNamed(_))));
        // From here on, the unit alone unlocks the store.
        unlock(&open(), Some(&unit), file()).unwrap();
        unlock(&open(), Some(&unit), None).unwrap();
    }
}
