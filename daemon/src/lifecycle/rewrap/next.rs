//! The next master key of a backend, found from its keys and its units.

use keyward_unit::{Unit, Wkid};

use super::is_wrapped_by;
use crate::backend::{Backend, BackendError, UnitHealth};
use crate::daemon::Daemon;
use crate::keys::{Key, Version};
use crate::lifecycle::Error;

/// The next master key for some keys. Remote units cannot be asked for it, so one blob is rewrapped
/// and its master key read. `None` if no key has to be wrapped.
pub(super) async fn of_keys(backend: &Backend, keys: &[Key], old: Wkid) -> Result<Option<Wkid>, Error> {
    match backend.embedded_unit() {
        Some(unit) => committed(unit.map_err(BackendError::from)?, old).map(Some),
        None => Ok(rewrapped_by(backend, keys, old).await?),
    }
}

/// The next master key of the embedded unit: the one that is committed in its new register.
fn committed(unit: &Unit, old: Wkid) -> Result<Wkid, Error> {
    unit.other_wkid().ok_or(Error::NothingCommitted(old))
}

/// Next master key at remote units, found by rewrapping one blob.
async fn rewrapped_by(backend: &Backend, keys: &[Key], old: Wkid) -> Result<Option<Wkid>, BackendError> {
    let versions = keys.iter().flat_map(|key| &key.versions);
    let by_old: Vec<_> = versions.filter(|version| is_wrapped_by(backend, &version.blob, old)).collect();
    let Some(first) = by_old.first() else { return Ok(None) };
    let error = match backend.rewrap(&first.blob, None).await {
        Ok(blob) => return Ok(backend.master_key_of(&blob)),
        Err(error) => error,
    };
    // Units that have put the next master key in force cannot rewrap by that master key any more.
    let next = first
        .next_blob
        .as_deref()
        .and_then(|blob| backend.master_key_of(blob))
        .filter(|next| backend.units().iter().filter_map(in_force).any(|wkid| wkid == *next));
    let is_done = |version: &&Version, next: Wkid| {
        version.next_blob.as_ref().is_some_and(|blob| is_wrapped_by(backend, blob, next))
    };
    match next {
        Some(next) if by_old.iter().all(|version| is_done(version, next)) => Ok(Some(next)),
        _ => Err(error),
    }
}

/// Units of a backend, as a probe has found them.
pub(super) enum Units<'a> {
    Embedded(&'a Unit),
    Remote { backend: &'a Backend, units: Vec<UnitHealth> },
}

impl<'a> Units<'a> {
    pub(super) async fn probe(backend: &'a Backend) -> Result<Self, Error> {
        if let Some(unit) = backend.embedded_unit() {
            return Ok(Self::Embedded(unit.map_err(BackendError::from)?));
        }
        backend.probe().await;
        Ok(Self::Remote { backend, units: backend.units() })
    }

    /// Next master key of the keys, or of a healthy unit if no key has a next blob.
    pub(super) fn next(&self, keys: &[Key], old: Wkid) -> Result<Wkid, Error> {
        let (backend, units) = match self {
            Self::Embedded(unit) => return committed(unit, old),
            Self::Remote { backend, units } => (backend, units),
        };
        // If all blobs were replaced already, or there are no keys, a unit has the next master key
        // in force.
        let blobs =
            keys.iter().flat_map(|key| &key.versions).filter_map(|version| version.next_blob.as_deref());
        let of_units = || units.iter().filter_map(in_force).find(|wkid| *wkid != old);
        blobs
            .filter_map(|blob| backend.master_key_of(blob))
            .next()
            .or_else(of_units)
            .ok_or_else(|| Error::NothingRewrapped { backend: backend.name().into(), wkid: old })
    }

    /// Refuses while a unit has another master key than the new one, or no healthy unit has the new
    /// one.
    pub(super) fn refuse_others(&self, new: Wkid) -> Result<(), Error> {
        let Self::Remote { backend, units } = self else { return Ok(()) };
        let other = |unit: &UnitHealth| unit.wkid.filter(|wkid| *wkid != new);
        let others: Vec<_> = (units.iter())
            .filter_map(|unit| Some(format!("{} has {}", unit.address, other(unit)?)))
            .collect();
        if !others.is_empty() {
            return Err(Error::OtherMasterKeyAtUnits { wkid: new, units: others.join(", ") });
        }
        match units.iter().any(|unit| in_force(unit) == Some(new)) {
            true => Ok(()),
            false => Err(Error::NoUnit { backend: backend.name().into(), wkid: new }),
        }
    }
}

/// The store key, wrapped by the new master key of the embedded unit.
pub(super) async fn store_key(
    daemon: &Daemon,
    backend: &Backend,
    new: Wkid,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(unit) = backend.embedded_unit() else { return Ok(None) };
    let Some(wrapped) = daemon.keys.wrapped_store_key().await? else { return Ok(None) };
    let unit = unit.map_err(BackendError::from)?;
    Ok(Some(unit.rewrap_store_key(&wrapped, new).map_err(BackendError::from)?))
}

/// The master key of a healthy unit.
fn in_force(unit: &UnitHealth) -> Option<Wkid> {
    unit.wkid_in_force()
}
