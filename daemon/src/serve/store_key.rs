//! Reads or unwraps the store key, which authenticates the key store.
//!
//! The master key of the embedded unit wraps the store key, and the store holds the wrapped key. A
//! daemon with remote units only has no master key: it reads the store key from a file or a
//! credential.

use std::io;
use std::path::{Path, PathBuf};

use keyward_unit::{Unit, UnitError};
use thiserror::Error;

use crate::config::Config;
use crate::config::EMBEDDED;
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::keys::{KeyStore, StoreError, StoreKey};
use crate::serve::options::Options;

/// Reads the store key for a daemon with these options. `None` with `--dev`, or without a file.
///
/// # Errors
/// See [`load`].
pub(crate) fn load_for(
    options: &Options,
    config: &Config,
    fresh: bool,
) -> Result<Option<StoreKey>, StoreKeyError> {
    match options.dev {
        true => Ok(None),
        false => load(config.store_key.as_deref(), &options.state_dir, fresh),
    }
}

/// Reads the store key from the configured file, or else from the credential `store-key`. `None` if
/// there is neither. `fresh` is true if no store was made with the key yet.
///
/// # Errors
/// [`StoreKeyError`] says what is wrong with the file.
pub(crate) fn load(
    configured: Option<&Path>,
    state_dir: &Path,
    fresh: bool,
) -> Result<Option<StoreKey>, StoreKeyError> {
    let found = master_key::load_named(configured, CREDENTIAL, Patterns::Refused)
        .map_err(|error| if fresh { error } else { error.of_existing_store() })
        .map_err(StoreKeyError::from_file)?;
    if let Some(path) = configured {
        refuse_beside_the_store(path, state_dir)?;
    }
    Ok(found.and_then(|key| StoreKey::from_hex(&key.to_hex())))
}

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

impl StoreKeyError {
    /// Turns an error of the file into one about the store key. The rules are those of a master key
    /// file.
    fn from_file(error: MasterKeyError) -> Self {
        Self::File(error.to_string().replace("master key", "store key"))
    }
}

fn unwrap_message(error: &UnitError) -> String {
    match error {
        UnitError::OtherMasterKey { blob, unit } => format!(
            "it was made with master key {blob}, but master key {unit} is configured; set master-key to the file of the former"
        ),
        _ => "its store key is damaged; restore the store from a backup".into(),
    }
}

fn refuse_beside_the_store(path: &Path, state_dir: &Path) -> Result<(), StoreKeyError> {
    let real = |path: &Path| path.canonicalize();
    let is_beside = || -> io::Result<bool> { Ok(real(path)?.starts_with(real(state_dir)?)) };
    // A state directory that does not exist yet has no file in it.
    match is_beside().unwrap_or(false) {
        true => Err(StoreKeyError::BesideTheStore(path.to_owned())),
        false => Ok(()),
    }
}

/// Name of the store key among the credentials of systemd.exec(5).
const CREDENTIAL: &str = "store-key";

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
        store.set_wkid(EMBEDDED, mine.wkid(), None).unwrap();
        store.put(key("shop")).unwrap();
        drop(store);
        let error = unlock(&open(), Some(&other), None).unwrap_err().to_string();
        assert!(
            error.contains(&mine.wkid().to_string()) && error.contains(&other.wkid().to_string()),
            "{error}"
        );
        let error = unlock(&open(), None, None).unwrap_err().to_string();
        assert!(error.contains(&mine.wkid().to_string()) && error.contains("master-key"), "{error}");
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
        assert!(both.accept(new()));
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

    #[test]
    fn a_key_beside_the_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (state, elsewhere) = (dir.path().join("state"), dir.path().join("store.key"));
        std::fs::create_dir(&state).unwrap();
        let digits = "ed80f61978894497bc3289752200b8e364d33ad36391ae6f0f7c831d58be79fd";
        for path in [state.join("store.key"), elsewhere.clone()] {
            std::fs::write(&path, digits).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        assert!(load(Some(&elsewhere), &state, true).unwrap().is_some());
        let refused = load(Some(&state.join("store.key")), &state, true);
        assert!(matches!(refused, Err(StoreKeyError::BesideTheStore(_))));
        let missing = |fresh| load(Some(Path::new("/no/such/key")), &state, fresh).unwrap_err().to_string();
        assert!(missing(true).contains("cannot read the store key in /no/such/key"), "{}", missing(true));
        assert!(missing(true).contains("openssl rand") && !missing(false).contains("openssl rand"));
    }
}
