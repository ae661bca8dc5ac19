//! The key that signs the audit trail.

use keyward_proto::{KeyType, Use};

use super::Error;
use super::placement::Placement;
use crate::daemon::Daemon;
use crate::keys::AuditKey;

/// The key that signs the audit trail. The default backend makes one if there is none yet. `None`
/// before the first key of that backend: the first key decides the master key, and no peer can have
/// used a key by then.
///
/// # Errors
/// [`Error`] says why there is no such key, and no unit makes one.
pub(crate) async fn audit_key(daemon: &Daemon) -> Result<Option<AuditKey>, Error> {
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
    let key = AuditKey { backend: placement.backend.name().to_owned(), spki: made.spki, blob: made.blob };
    daemon.keys.set_audit_key(key.clone()).await?;
    Ok(Some(key))
}
