//! The key that signs the audit trail.

use keyward_proto::{KeyType, Use};
use keyward_unit::Wkid;

use super::Error;
use super::placement::Placement;
use crate::backend::{Backend, BackendError, Unusable};
use crate::daemon::Daemon;
use crate::keys::{AuditKey, KeyStore, StoreError};

/// The key that signs the audit trail. The default backend makes one if there is none yet. `None`
/// before the first key of that backend: the first key decides the master key, and no peer can have
/// used a key by then.
///
/// # Errors
/// [`Error`] says why there is no such key, and no unit makes one.
pub(crate) async fn audit_key(daemon: &Daemon) -> Result<Option<AuditKey>, Error> {
    if daemon.keys.is_locked() {
        // Another program may have written the key that the store names.
        return Err(locked(daemon));
    }
    if let Some(key) = daemon.keys.audit_key().await? {
        return Ok(Some(key));
    }
    let placement = Placement::of(daemon, None).await?;
    if placement.wkid.is_none() {
        return Ok(None);
    }
    // The unit needs to know that the key signs. No grant can name the key, so the use does not
    // matter.
    let made = placement.backend.generate(KeyType::P256, &[Use::TlsServer], placement.wkid).await?;
    let backend = placement.backend.name().to_owned();
    let key = AuditKey { backend, spki: made.spki, blob: made.blob, next_blob: None };
    daemon.keys.set_audit_key(key.clone()).await?;
    Ok(Some(key))
}

/// Reason why the key store is locked. A unit that never had a master key says how it gets one.
pub(super) fn locked(daemon: &Daemon) -> Error {
    let usable = daemon.backends.embedded().map_or(Ok(()), |embedded| embedded.usable_unit().map(drop));
    match usable {
        Err(empty @ Unusable::Empty { .. }) => BackendError::from(empty).into(),
        _ => StoreError::Locked(daemon.keys.state_dir().join(KeyStore::FILE)).into(),
    }
}

/// Wraps the key by the next master key too, if it is a key of this backend. `None` stands for the
/// next master key of remote units.
///
/// # Errors
/// [`Error`] says why no unit wraps the key, or why the store cannot be written.
pub(super) async fn rewrap(daemon: &Daemon, backend: &Backend, new: Option<Wkid>) -> Result<(), Error> {
    let Some(key) = of(daemon, backend).await? else { return Ok(()) };
    let wrapped_by = |blob: &[u8]| backend.master_key_of(blob);
    let blobs = [Some(&key.blob), key.next_blob.as_ref()];
    if new.is_none() || blobs.into_iter().flatten().any(|blob| wrapped_by(blob) == new) {
        return Ok(());
    }
    let next_blob = Some(backend.rewrap(&key.blob, new).await?);
    Ok(daemon.keys.set_audit_key(AuditKey { next_blob, ..key }).await?)
}

/// Replaces the blob of the key by the one that the new master key has wrapped.
///
/// # Errors
/// [`Error`] says why no unit wraps the key, or why the store cannot be written.
pub(super) async fn replace_blob(daemon: &Daemon, backend: &Backend, new: Wkid) -> Result<(), Error> {
    rewrap(daemon, backend, Some(new)).await?;
    let Some(key) = of(daemon, backend).await? else { return Ok(()) };
    match key.next_blob {
        Some(blob) => Ok(daemon.keys.set_audit_key(AuditKey { blob, next_blob: None, ..key }).await?),
        None => Ok(()),
    }
}

/// The blob of the key, if it is a key of this backend.
///
/// # Errors
/// The store cannot be read.
pub(super) async fn blob(daemon: &Daemon, backend: &Backend) -> Result<Option<Vec<u8>>, Error> {
    Ok(of(daemon, backend).await?.map(|key| key.blob))
}

/// The key, if it is a key of this backend.
async fn of(daemon: &Daemon, backend: &Backend) -> Result<Option<AuditKey>, Error> {
    Ok(daemon.keys.audit_key().await?.filter(|key| key.backend == backend.name()))
}
