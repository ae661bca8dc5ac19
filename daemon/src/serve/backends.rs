//! Opens the backends of the daemon, and unlocks the key store.

use keyward_unit::UnitError;

use super::embedded_unit;
use super::error::ServeError;
use super::options::Options;
use super::store_key;
use crate::backend::{Backend, Backends, Unusable};
use crate::config::{Config, EMBEDDED};
use crate::keys::{KeyStore, StoreKeyError, unlock};

/// Opens the embedded unit, if there is a master key, and prepares the remote backends. Unlocks the
/// store.
///
/// # Errors
/// [`ServeError`] if the store cannot be unlocked, or a backend cannot be used as configured.
pub(super) fn open_backends(
    options: &Options,
    config: &Config,
    store: &KeyStore,
) -> Result<Backends, ServeError> {
    let made_with_dev = store.is_dev()?;
    check_dev(options, made_with_dev)?;
    let is_new = store.is_new()?;
    let mut embedded = embedded_unit::backend(options, config, store)?;
    let unusable = embedded.as_ref().and_then(|embedded| embedded.usable_unit().err());
    let usable = embedded.as_ref().map(|embedded| &**embedded.unit()).filter(|_| unusable.is_none());
    match unlock::unlock(store, usable, store_key::load_for(options, config, is_new)?) {
        // The daemon starts, and its status says why it does not sign.
        Err(StoreKeyError::NoMasterKey(..)) if unusable.is_some() => {}
        Err(error) => match &embedded {
            Some(embedded) if is_about_the_unit(&error) && (unusable.is_some() || embedded.is_owned()) => {
                if let (Some(needed), Some(has)) = (store.master_key()?, embedded.unit().wkid()) {
                    embedded.set_problem(Some(Unusable::Other { needed, has }));
                }
            }
            _ => return Err(error.into()),
        },
        Ok(()) => {}
    }
    // A unit that serves GREP11 has no keys of its own.
    if is_new && options.unit.is_none() {
        tracing::warn!(
            "made a new key store, {}, without any key: if there were keys in this state directory, restore the store from a backup",
            store.path().display()
        );
    }
    // If all keys are at remote units, the embedded unit is not needed any more.
    if matches!(unusable, Some(Unusable::Missing { .. }))
        && !store.is_locked()
        && !config.grep11.is_empty()
        && !store.has_keys_of(EMBEDDED)?
    {
        embedded = None;
    }
    let mut backends = Vec::new();
    if let Some(embedded) = embedded {
        match embedded.usable_unit() {
            Ok(unit) => {
                if let (None, Some(wkid)) = (store.wkid(EMBEDDED)?, unit.wkid()) {
                    store.set_wkid(EMBEDDED, wkid, None)?;
                }
            }
            Err(unusable) => tracing::error!("{unusable}"),
        }
        backends.push(Backend::embedded(embedded));
    }
    for (name, settings) in &config.grep11 {
        backends.push(Backend::grep11(name, settings)?);
    }
    for name in store.remote_backends()?.iter().filter(|name| !config.grep11.contains_key(*name)) {
        tracing::warn!(
            "there is no section [grep11.{name}] in the configuration: keys of that backend, if any, do not sign"
        );
    }
    if made_with_dev.is_none() && !store.is_locked() {
        store.set_dev(options.dev)?;
    }
    Ok(Backends::new(backends))
}

/// True for an error that a unit with owners can have at a start: it has no master key yet, or not
/// the one of the store.
fn is_about_the_unit(error: &StoreKeyError) -> bool {
    matches!(
        error,
        StoreKeyError::NotConfigured
            | StoreKeyError::NotNamed(_)
            | StoreKeyError::Unwrap(_, UnitError::OtherMasterKey { .. })
    )
}

/// Refuses a store that was made with the other value of `--dev`.
///
/// # Errors
/// [`ServeError::Dev`] for such a store.
pub(super) fn check_dev(options: &Options, made_with_dev: Option<bool>) -> Result<(), ServeError> {
    match made_with_dev.filter(|dev| *dev != options.dev) {
        Some(made_with_dev) => Err(ServeError::Dev(options.state_dir.clone(), made_with_dev)),
        None => Ok(()),
    }
}
