//! The backend and the master key of a new key.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::{Fingerprint, Label, Use};
use keyward_unit::{Header, NewKey, Wkid};
use tokio::sync::RwLockReadGuard;

use super::Error;
use crate::backend::{Backend, BackendError};
use crate::daemon::Daemon;
use crate::keys::{Key, State, StoreError, Version};

/// The backend of a new key, and the master key that wraps it.
pub(crate) struct Placement<'a> {
    pub(crate) backend: &'a Backend,
    /// The master key of the other keys of the backend; none before the first key.
    pub(crate) wkid: Option<Wkid>,
    /// Keeps the master key from changing until the new key is stored.
    _settling: RwLockReadGuard<'a, ()>,
}

impl<'a> Placement<'a> {
    /// The backend of this name, or else the configured default, or else the only backend.
    ///
    /// # Errors
    /// [`Error`] says which backends there are, or why the unit is not usable.
    pub(crate) async fn of(daemon: &'a Daemon, name: Option<&str>) -> Result<Self, Error> {
        let backend = chosen(daemon, name)?;
        if let Backend::Embedded(embedded) = backend {
            embedded.unit().map_err(BackendError::from)?;
        }
        let read = async || -> Result<Option<Wkid>, StoreError> {
            let wkid = daemon.keys.wkid(backend.name()).await?;
            Ok(wkid.and_then(|wkid| wkid.parse().ok()))
        };
        let other = backend.settling().read().await;
        if let Some(wkid) = read().await? {
            return Ok(Self { backend, wkid: Some(wkid), _settling: other });
        }
        drop(other);
        // The first key settles the master key. Another caller waits here until that key is stored.
        let first = backend.settling().write().await;
        Ok(Self { backend, wkid: read().await?, _settling: first.downgrade() })
    }

    /// Stores a key that was made here.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the label was taken in the meantime; other errors of the store.
    pub(crate) async fn store(
        &self,
        daemon: &Daemon,
        label: Label,
        uses: Vec<Use>,
        made: &NewKey,
    ) -> Result<Arc<Key>, Error> {
        let name = self.backend.name();
        if let (Backend::Grep11(_), None, Some(header)) = (self.backend, self.wkid, Header::read(&made.blob))
        {
            daemon.keys.set_wkid(name, header.wkid().to_string(), None).await?;
        }
        let version = version(1, made);
        let key = Key {
            label,
            state: State::Enabled,
            uses,
            backend: name.into(),
            current: version.number,
            versions: vec![version],
            revision: 0,
        };
        Ok(daemon.keys.put(key).await?)
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

/// A version that was made just now.
pub(super) fn version(number: u32, made: &NewKey) -> Version {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Version {
        number,
        key_type: made.key_type,
        blob: made.blob.clone(),
        next_blob: None,
        fingerprint: Fingerprint::of(&made.spki),
        spki: made.spki.clone(),
        created,
        certificates: Vec::new(),
    }
}
