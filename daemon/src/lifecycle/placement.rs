//! The backend and the master key of a new key.

use keyward_unit::{NewKey, Wkid};
use tokio::sync::RwLockReadGuard;

use super::Error;
use crate::backend::{Backend, BackendError};
use crate::daemon::Daemon;
use crate::keys::StoreError;

/// The backend of a new key, and the master key that wraps the key.
pub(super) struct Placement<'a> {
    pub(super) backend: &'a Backend,
    /// The master key of the other keys of the backend; none before the first key.
    pub(super) wkid: Option<Wkid>,
    /// Keeps the master key from changing until the new key is stored.
    _locked: RwLockReadGuard<'a, ()>,
}

impl<'a> Placement<'a> {
    /// The backend of this name, or else the configured default, or else the only backend.
    ///
    /// # Errors
    /// [`Error`] says which backends there are, or why the unit is not usable.
    pub(super) async fn of(daemon: &'a Daemon, name: Option<&str>) -> Result<Self, Error> {
        let backend = chosen(daemon, name)?;
        backend.usable().map_err(BackendError::from)?;
        let other = backend.master_key_lock().read().await;
        if let Some(wkid) = daemon.keys.wkid(backend.name()).await? {
            return Ok(Self { backend, wkid: Some(wkid), _locked: other });
        }
        drop(other);
        // The first key decides the master key. Another caller waits here until the first key is
        // stored.
        let first = backend.master_key_lock().write().await;
        Ok(Self { backend, wkid: daemon.keys.wkid(backend.name()).await?, _locked: first.downgrade() })
    }

    /// Records the master key of the first key of the backend, before that key is stored.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub(super) async fn record_master_key(&self, daemon: &Daemon, made: &NewKey) -> Result<(), StoreError> {
        match (self.wkid, self.backend.master_key_of(&made.blob)) {
            (None, Some(wkid)) => daemon.keys.set_wkid(self.backend.name(), wkid, None).await,
            _ => Ok(()),
        }
    }
}

fn chosen<'a>(daemon: &'a Daemon, name: Option<&str>) -> Result<&'a Backend, Error> {
    let backends = &daemon.backends;
    let config = daemon.config();
    let known = || backends.iter().map(Backend::name).collect::<Vec<_>>().join(", ");
    let Some(name) = name.or(config.default_backend.as_deref()) else {
        return backends.only().ok_or_else(|| Error::SeveralBackends(known()));
    };
    backends.get(name).ok_or_else(|| match config.grep11.contains_key(name) {
        true => Error::BackendAfterRestart { name: name.into(), known: known() },
        false => Error::UnknownBackend { name: name.into(), known: known() },
    })
}
