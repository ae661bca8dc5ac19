//! Reads the store key, which authenticates the key store, from a file or a credential.
//!
//! The master key of the embedded unit wraps the store key, and the store holds the wrapped key:
//! see [`keys::unlock`](crate::keys::unlock). A daemon with remote units only has no master key.

use std::io;
use std::path::Path;

use crate::config::Config;
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::keys::{StoreKey, StoreKeyError};
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
        .map_err(of_file)?;
    if let Some(path) = configured {
        refuse_beside_the_store(path, state_dir)?;
    }
    Ok(found.and_then(|key| StoreKey::from_hex(&key.to_hex())))
}

/// Turns an error of the file into one about the store key. The rules are those of a master key
/// file.
fn of_file(error: MasterKeyError) -> StoreKeyError {
    StoreKeyError::File(error.to_string().replace("master key", "store key"))
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
    use super::*;

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
