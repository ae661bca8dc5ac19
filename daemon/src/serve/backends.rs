//! Opens the backends of the daemon, and unlocks the key store.

use keyward_proto::Label;

use super::embedded_unit;
use super::error::ServeError;
use super::options::Options;
use super::store_key::{self, StoreKeyError};
use crate::backend::{Backend, Backends, Unusable};
use crate::config::{Config, EMBEDDED};
use crate::keys::KeyStore;

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
    let mut unit = embedded_unit::open(options, config, store)?;
    let usable = unit.as_ref().and_then(|unit| unit.as_ref().ok());
    match store_key::unlock(store, usable, store_key::load_for(options, config, is_new)?) {
        // The daemon starts, and its status says why it does not sign.
        Err(StoreKeyError::NoMasterKey(..)) if matches!(unit, Some(Err(_))) => {}
        unlocked => unlocked?,
    }
    if is_new {
        tracing::warn!(
            "made a new key store, {}, without any key: if there were keys in this state directory, restore the store from a backup",
            store.path().display()
        );
    }
    // If all keys are at remote units, the embedded unit is not needed any more.
    if matches!(unit, Some(Err(Unusable::Missing { .. })))
        && !store.is_locked()
        && !config.grep11.is_empty()
        && !store.has_keys_of(EMBEDDED)?
    {
        unit = None;
    }
    let mut backends = Vec::new();
    if let Some(unit) = unit {
        match &unit {
            Ok(unit) if store.wkid(EMBEDDED)?.is_none() => store.set_wkid(EMBEDDED, unit.wkid(), None)?,
            Ok(_) => {}
            Err(unusable) => tracing::error!("{unusable}"),
        }
        backends.push(Backend::embedded(unit).map_err(ServeError::Runtime)?);
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

/// Returns a message about keys that the embedded unit cannot unwrap, if there are any. An
/// unfinished change of the master key leaves such keys.
pub(super) fn keys_of_other_master_keys(
    store: &KeyStore,
    backends: &Backends,
) -> Result<Option<String>, ServeError> {
    let Some(backend) = backends.get(EMBEDDED) else { return Ok(None) };
    let Some(Ok(unit)) = backend.embedded_unit() else { return Ok(None) };
    let wkids: Vec<_> = [Some(unit.wkid()), unit.other_wkid()].into_iter().flatten().collect();
    let keys = store.left_behind(&wkids, |blob| backend.master_key_of(blob))?;
    let labels: Vec<_> = keys.iter().take(MAX_LABELS).map(Label::as_str).collect();
    Ok((!keys.is_empty()).then(|| {
        format!(
            "{} keys are wrapped by another master key than the unit has, and do not sign: {}{}; if a change of the master key has begun, set next-master-key to the other master key, restart, and finish the change: keyward key rewrap --backend {EMBEDDED}, then the same command with --finish",
            keys.len(),
            labels.join(", "),
            if keys.len() > MAX_LABELS { ", ..." } else { "" }
        )
    }))
}

/// Maximum number of labels in the message.
const MAX_LABELS: usize = 5;
