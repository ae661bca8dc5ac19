//! Opens the embedded unit: with a master key of its owners, or with one from a file.

use std::sync::Arc;

use keyward_unit::administration::{Custodian, CustodyError, KeepingSecret, State};
use keyward_unit::{MasterKey, Unit};

use crate::backend::{Embedded, Unusable};
use crate::config::Config;
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::ground::unit_state::UnitStateFile;
use crate::keys::KeyStore;
use crate::serve::error::ServeError;
use crate::serve::options::Options;
use crate::serve::upgrade;

/// Opens the unit. `None` for a daemon that has no embedded unit and never had one. A unit with
/// owners is sealed until they bring their parts.
///
/// # Errors
/// [`ServeError`] if a file cannot be used, or the store cannot be read.
pub(super) fn backend(
    options: &Options,
    config: &Config,
    store: &KeyStore,
) -> Result<Option<Embedded>, ServeError> {
    let file = UnitStateFile::of(&options.state_dir);
    let backend = match is_owned(options, config, &file)? {
        true => {
            let unit = Arc::new(Unit::sealed(config.embedded.cached_keys));
            let text = file.read()?;
            let text = text.as_deref().map(String::as_str);
            let custodian = Custodian::open(Arc::clone(&unit), text, Box::new(file))?;
            take_over(&custodian);
            unseal(&custodian, config)?;
            let embedded = Embedded::owned(unit, Arc::new(custodian));
            if let Ok(embedded) = &embedded {
                embedded.set_needed(store.master_key()?);
            }
            Some(embedded)
        }
        false => open(options, config, store)?.map(Embedded::of_file),
    };
    backend.transpose().map_err(ServeError::Runtime)
}

/// Takes over the master keys of the program before an upgrade, if there are any.
fn take_over(custodian: &Custodian) {
    let taken = match upgrade::handed_over_keys() {
        Ok(None) => return,
        Ok(Some(keys)) => custodian.take_over(&keys).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = taken {
        tracing::error!("cannot take over the master key of the program before: {error}");
    }
}

/// Reads the unseal key. `None` if there is none.
///
/// # Errors
/// A sentence says what is wrong with the file.
pub(crate) fn load_unseal_key(config: &Config) -> Result<Option<KeepingSecret>, String> {
    let key = master_key::load_unseal_key(config.embedded.unseal_key.as_deref());
    let key = key.map_err(|error| match error {
        MasterKeyError::Missing(path) => format!(
            "cannot read the unseal key in {}: there is no such file; the owners of the master key can bring their parts all the same",
            path.display()
        ),
        error => error.to_string().replace("master key", "unseal key"),
    })?;
    Ok(key.and_then(|key| KeepingSecret::random(key.to_hex().as_bytes())))
}

/// Unseals a unit with owners by a secret of the configuration, if there is one. From then on, the
/// secret also keeps the master keys that owners load.
fn unseal(custodian: &Custodian, config: &Config) -> Result<(), ServeError> {
    let key = match load_unseal_key(config) {
        Ok(key) => key,
        // The owners can still bring their parts.
        Err(error) => {
            tracing::error!("{error}");
            return Ok(());
        }
    };
    let Some(secret) = key else { return Ok(()) };
    match custodian.keep_by(&secret) {
        Ok(true) => tracing::info!("the unseal key has unsealed the unit"),
        Ok(false) => tracing::warn!(
            "the unseal key keeps no master key yet: it will from the next time that the owners bring their parts"
        ),
        // The owners can still bring their parts.
        Err(error @ CustodyError::OtherKeeper) => tracing::error!("{error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// True if the master key of the unit has owners, or is to get them: it comes from no file.
///
/// # Errors
/// [`ServeError::OwnersAndFile`] if the unit has owners, and a file is named too.
fn is_owned(options: &Options, config: &Config, file: &UnitStateFile) -> Result<bool, ServeError> {
    let configured = master_key::load(config.embedded.master_key.as_deref(), Patterns::Accepted);
    if options.dev || !matches!(configured, Err(MasterKeyError::NotConfigured)) {
        let has_owners = || file.read().ok().flatten().is_some_and(|text| has_owners(&text));
        return match file.exists() && has_owners() {
            true => Err(ServeError::OwnersAndFile(file.path().to_owned())),
            false => Ok(false),
        };
    }
    Ok(file.exists() || config.grep11.is_empty())
}

/// True if somebody has claimed the unit whose state this is.
fn has_owners(text: &str) -> bool {
    let state = text.lines().next().and_then(|line| State::from_json(line).ok());
    state.is_some_and(|state| !state.is_unowned())
}

/// Opens the unit with the master key of the store, which may be the configured master key or the
/// next master key. `None` for a daemon that has no embedded unit and never had one.
///
/// # Errors
/// [`ServeError`] if a file has no valid master key, or the store cannot be read.
pub(crate) fn open(
    options: &Options,
    config: &Config,
    store: &KeyStore,
) -> Result<Option<Result<Unit, Unusable>>, ServeError> {
    let needed = store.master_key()?;
    let noted = store.noted_master_key();
    let key = master_key(options, config, needed.is_none() && noted.is_none());
    let next = master_key::load_next(config.embedded.next_master_key.as_deref());
    let unit = |key: MasterKey| {
        if let Some(warning) = master_key::warning(&key) {
            tracing::error!("{warning}");
        }
        Unit::new(key, config.embedded.cached_keys)
    };
    let with_next = |key: MasterKey, next: Option<MasterKey>| {
        let unit = unit(key);
        if let Some(next) = next.filter(|next| Some(next.wkid()) != unit.wkid()) {
            unit.accept(&next);
        }
        Some(Ok(unit))
    };
    let Some(needed) = needed else {
        let key = key.map_err(|error| match noted {
            Some(noted) => ServeError::MasterKey(format!("{error}; the master key is {noted}")),
            None => error.into(),
        });
        return Ok(key?.and_then(|key| with_next(key, or_logged(next))));
    };
    let is_needed = |key: &MasterKey| key.wkid() == needed;
    let found = match key {
        Ok(Some(key)) if is_needed(&key) => return Ok(with_next(key, or_logged(next))),
        Ok(key) => Ok(key),
        Err(error @ (MasterKeyError::Lost(_) | MasterKeyError::NotPassed)) => Err(error),
        Err(error) => return Err(error.into()),
    };
    if let Some(next) = or_logged(next).filter(is_needed) {
        tracing::info!(
            "the next master key, {needed}, is the master key of the key store: set master-key to its file, and remove next-master-key from the configuration"
        );
        return Ok(Some(Ok(unit(next))));
    }
    Ok(Some(Err(match found {
        Ok(Some(other)) => Unusable::Other { needed, has: other.wkid() },
        Ok(None) => Unusable::Missing { needed, why: MasterKeyError::NotPassed.to_string() },
        Err(error) => Unusable::Missing { needed, why: error.to_string() },
    })))
}

/// Returns the next master key, or logs why it cannot be read. The daemon works without it.
fn or_logged(next: Result<Option<MasterKey>, MasterKeyError>) -> Option<MasterKey> {
    next.unwrap_or_else(|error| {
        tracing::error!("{error}");
        None
    })
}

/// Reads the master key of the embedded unit. `None` without a configured key beside remote units.
/// `fresh` is true for a store without a master key.
///
/// # Errors
/// [`MasterKeyError`] if the key is missing or cannot be used.
pub(crate) fn master_key(
    options: &Options,
    config: &Config,
    fresh: bool,
) -> Result<Option<MasterKey>, MasterKeyError> {
    let patterns = if fresh { Patterns::Refused } else { Patterns::Accepted };
    let loaded = match options.dev {
        true => master_key::load_dev(&options.state_dir, fresh),
        false => master_key::load(config.embedded.master_key.as_deref(), patterns),
    };
    match loaded {
        Err(MasterKeyError::NotConfigured) if !config.grep11.is_empty() => Ok(None),
        Err(error) if !fresh => Err(error.of_existing_store()),
        loaded => loaded.map(Some),
    }
}
