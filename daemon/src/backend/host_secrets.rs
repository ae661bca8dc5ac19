//! Files and credentials of this host that open the embedded unit without people.

use std::path::Path;

use keyward_unit::MasterKey;
use keyward_unit::administration::KeepingSecret;

use crate::config::{self, Config};
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::ground::opening::Opening;
use crate::ground::passphrase;

/// The way in which the unit gets its master key after a start.
pub(crate) fn opening(dev: bool, config: &Config) -> Opening {
    let config::Embedded { master_key, unseal_key, unseal_passphrase, .. } = &config.embedded;
    match dev {
        true => Opening::Development,
        false => Opening::of(master_key.as_deref(), unseal_key.as_deref(), unseal_passphrase.as_deref()),
    }
}

/// Reads the secrets that unseal the unit, the best one first: the unseal key and the unseal
/// passphrase, if there are any.
pub(crate) fn read(config: &Config) -> Vec<Result<KeepingSecret, MasterKeyError>> {
    let key = master_key::load_unseal_key(config.embedded.unseal_key.as_deref());
    let key = key.map(|key| key.map(|key| KeepingSecret::of_key(&key)));
    let passphrase = master_key::load_unseal_passphrase(config.embedded.unseal_passphrase.as_deref());
    let passphrase = passphrase.map(|text| text.and_then(|text| KeepingSecret::passphrase(&text)));
    [key, passphrase].into_iter().filter_map(Result::transpose).collect()
}

/// Warnings about the secrets of this host, which the daemon accepts all the same.
pub(crate) fn warnings(config: &Config, state_dir: &Path) -> Vec<String> {
    let config::Embedded { master_key, unseal_key, unseal_passphrase, .. } = &config.embedded;
    let passphrase = master_key::load_unseal_passphrase(unseal_passphrase.as_deref());
    let is_short = matches!(passphrase, Ok(Some(text)) if passphrase::is_short(&text));
    let short = is_short.then(|| {
        format!(
            "the unseal passphrase is short, so guesses may find it, and it opens every copy of the state directory; {}; docs/ceremony.md describes the change",
            passphrase::ADVICE
        )
    });
    let without_links = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let inside = [master_key, unseal_key, unseal_passphrase].into_iter().flatten();
    let inside = inside.filter(|file| without_links(file).starts_with(without_links(state_dir)));
    let inside = inside.map(|file| {
        format!(
            "the secret {} is in the state directory {}: one backup has both, and opens the keys; move the file to another place, and name that place in section [embedded] of the configuration",
            file.display(),
            state_dir.display()
        )
    });
    inside.chain(short).collect()
}

/// Reads the master key of a file. `None` if a daemon with remote units names none. `fresh` is true
/// for a store without a master key.
///
/// # Errors
/// [`MasterKeyError`] if the key is missing or cannot be used.
pub(crate) fn master_key(
    dev: bool,
    state_dir: &Path,
    config: &Config,
    fresh: bool,
) -> Result<Option<MasterKey>, MasterKeyError> {
    let patterns = if fresh { Patterns::Refused } else { Patterns::Accepted };
    let loaded = match dev {
        true => master_key::load_dev(state_dir, fresh),
        false => master_key::load(config.embedded.master_key.as_deref(), patterns),
    };
    match loaded {
        Err(MasterKeyError::NotConfigured) if !config.grep11.is_empty() => Ok(None),
        Err(error) if !fresh => Err(error.of_existing_store()),
        loaded => loaded.map(Some),
    }
}
