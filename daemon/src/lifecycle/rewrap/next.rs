//! The next master key of a backend, as its keys and its units have it.

use keyward_unit::{Header, Unit};

use super::is_wrapped_by;
use crate::backend::{Backend, BackendError, UnitHealth};
use crate::daemon::Daemon;
use crate::ground::master_key;
use crate::keys::{Key, Version};
use crate::lifecycle::Error;

/// The next master key for some keys. Remote units cannot be asked for it, so one blob is rewrapped
/// and its header read. `None` if no key has to be wrapped.
pub(super) async fn of_keys(
    daemon: &Daemon,
    backend: &Backend,
    keys: &[Key],
    old: &str,
) -> Result<Option<String>, Error> {
    match backend.embedded_unit() {
        Some(unit) => configured(daemon, unit.map_err(BackendError::from)?, old).map(Some),
        None => Ok(rewrapped_by(backend, keys, old).await?),
    }
}

/// The next master key of the embedded unit: the one that is configured now, since the next start
/// must find it.
fn configured(daemon: &Daemon, unit: &Unit, old: &str) -> Result<String, Error> {
    let file = daemon.config().embedded.next_master_key.clone();
    let next = master_key::load_next(file.as_deref())?.ok_or_else(|| Error::NoNextMasterKey(old.into()))?;
    let wkid = next.wkid();
    if wkid.to_string() == old {
        return Err(Error::NextMasterKeyInForce(old.into()));
    }
    match wkid == unit.wkid() || unit.accept(next) {
        true => Ok(wkid.to_string()),
        false => Err(Error::ThirdMasterKey { next: wkid, old: old.into() }),
    }
}

/// The master key that the units wrap keys by.
async fn rewrapped_by(backend: &Backend, keys: &[Key], old: &str) -> Result<Option<String>, BackendError> {
    let versions = keys.iter().flat_map(|key| &key.versions);
    let by_old: Vec<_> = versions.filter(|version| is_wrapped_by(&version.blob, old)).collect();
    let Some(first) = by_old.first() else { return Ok(None) };
    let error = match backend.rewrap(&first.blob, None).await {
        Ok(blob) => return Ok(wkid_of(&blob)),
        Err(error) => error,
    };
    // Units that have the next master key in force cannot wrap anything by it any more.
    let next = first
        .next_blob
        .as_deref()
        .and_then(wkid_of)
        .filter(|next| backend.units().iter().filter_map(in_force).any(|wkid| wkid == *next));
    let is_done = |version: &&Version, next: &str| {
        version.next_blob.as_ref().is_some_and(|blob| is_wrapped_by(blob, next))
    };
    match next {
        Some(next) if by_old.iter().all(|version| is_done(version, &next)) => Ok(Some(next)),
        _ => Err(error),
    }
}

/// The units of a backend as they were at one moment.
pub(super) enum Units<'a> {
    Embedded(&'a Unit),
    Remote { backend: &'a str, units: Vec<UnitHealth> },
}

impl<'a> Units<'a> {
    pub(super) async fn probe(backend: &'a Backend) -> Result<Self, Error> {
        if let Some(unit) = backend.embedded_unit() {
            return Ok(Self::Embedded(unit.map_err(BackendError::from)?));
        }
        backend.probe().await;
        Ok(Self::Remote { backend: backend.name(), units: backend.units() })
    }

    /// The next master key, as keys and units have it.
    pub(super) fn next(&self, daemon: &Daemon, keys: &[Key], old: &str) -> Result<String, Error> {
        let (backend, units) = match self {
            Self::Embedded(unit) => return configured(daemon, unit, old),
            Self::Remote { backend, units } => (backend, units),
        };
        // If all keys are settled, or there are none, the units have it in force.
        let blobs =
            keys.iter().flat_map(|key| &key.versions).filter_map(|version| version.next_blob.as_deref());
        let of_units = || units.iter().filter_map(in_force).find(|wkid| wkid != old);
        blobs
            .filter_map(wkid_of)
            .next()
            .or_else(of_units)
            .ok_or_else(|| Error::NothingRewrapped { backend: (*backend).into(), wkid: old.into() })
    }

    /// Refuses while a unit has another master key than the new one, or no unit is known to have
    /// it.
    pub(super) fn refuse_others(&self, new: &str) -> Result<(), Error> {
        let Self::Remote { backend, units } = self else { return Ok(()) };
        let other = |unit: &UnitHealth| unit.wkid.map(|wkid| wkid.to_string()).filter(|wkid| *wkid != new);
        let others: Vec<_> = (units.iter())
            .filter_map(|unit| Some(format!("{} has {}", unit.address, other(unit)?)))
            .collect();
        if !others.is_empty() {
            return Err(Error::OtherMasterKeyAtUnits { wkid: new.into(), units: others.join(", ") });
        }
        match units.iter().any(|unit| in_force(unit).as_deref() == Some(new)) {
            true => Ok(()),
            false => Err(Error::NoUnit { backend: (*backend).into(), wkid: new.into() }),
        }
    }
}

/// The store key, wrapped by the new master key of the embedded unit.
pub(super) async fn store_key(
    daemon: &Daemon,
    backend: &Backend,
    new: &str,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(unit) = backend.embedded_unit() else { return Ok(None) };
    let (Some(wrapped), Ok(new)) = (daemon.keys.wrapped_store_key().await?, new.parse()) else {
        return Ok(None);
    };
    let unit = unit.map_err(BackendError::from)?;
    Ok(Some(unit.rewrap_store_key(&wrapped, new).map_err(BackendError::from)?))
}

/// The master key of a healthy unit.
fn in_force(unit: &UnitHealth) -> Option<String> {
    unit.wkid_in_force().map(|wkid| wkid.to_string())
}

fn wkid_of(blob: &[u8]) -> Option<String> {
    Header::read(blob).map(|header| header.wkid().to_string())
}
