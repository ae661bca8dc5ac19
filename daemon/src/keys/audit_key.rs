//! The key that signs the audit trail. It has no label, so no peer can use it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{KeyStore, Keys};
use crate::store::StoreError;
use crate::store::metadata::AUDIT_KEY;

/// A P-256 key that signs the audit trail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AuditKey {
    /// Name of the backend whose unit signs.
    pub(crate) backend: String,
    /// SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub(crate) spki: Vec<u8>,
    /// The private key, wrapped by the unit.
    pub(crate) blob: Vec<u8>,
    /// The private key, wrapped by the next master key, while the keys are being rewrapped.
    pub(crate) next_blob: Option<Vec<u8>>,
}

/// Form of the key in the metadata, with base64.
#[derive(Deserialize, Serialize)]
struct Stored {
    backend: String,
    spki: String,
    blob: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_blob: Option<String>,
}

impl KeyStore {
    fn audit_key(&self) -> Result<Option<AuditKey>, StoreError> {
        let altered = || StoreError::AlteredStore(self.path().to_owned());
        let Some(text) = self.store.metadata(AUDIT_KEY)? else { return Ok(None) };
        let stored: Stored = serde_json::from_str(&text).map_err(|_| altered())?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| altered());
        Ok(Some(AuditKey {
            spki: bytes(&stored.spki)?,
            blob: bytes(&stored.blob)?,
            next_blob: stored.next_blob.as_deref().map(bytes).transpose()?,
            backend: stored.backend,
        }))
    }

    fn set_audit_key(&self, key: AuditKey) -> Result<(), StoreError> {
        let AuditKey { backend, spki, blob, next_blob } = key;
        let stored = Stored {
            backend,
            spki: STANDARD.encode(spki),
            blob: STANDARD.encode(blob),
            next_blob: next_blob.map(|blob| STANDARD.encode(blob)),
        };
        let text = serde_json::to_string(&stored).unwrap_or_default();
        self.store.set_metadata(&[(AUDIT_KEY, Some(&text))])
    }
}

impl Keys {
    /// The key that signs the audit trail; `None` before the first start with a usable unit.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    pub(crate) async fn audit_key(&self) -> Result<Option<AuditKey>, StoreError> {
        self.in_store(KeyStore::audit_key).await
    }

    /// Stores the key that signs the audit trail.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written.
    pub(crate) async fn set_audit_key(&self, key: AuditKey) -> Result<(), StoreError> {
        self.in_store(move |store| store.set_audit_key(key)).await
    }
}
