//! What travels over the administrators' socket: JSON, the same on both ends.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::Reference;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::keys::{Key, Version};

/// A request for a new key.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewKey {
    pub(crate) label: String,
    #[serde(rename = "type")]
    pub(crate) key_type: String,
    pub(crate) uses: Vec<String>,
}

/// A request to change a key.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) uses: Option<Vec<String>>,
}

/// A key, without its blobs.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct KeyView {
    pub(crate) label: String,
    pub(crate) state: String,
    #[serde(rename = "type")]
    pub(crate) key_type: String,
    pub(crate) uses: Vec<String>,
    pub(crate) backend: String,
    /// What kind of unit holds it.
    pub(crate) unit: String,
    pub(crate) current: u32,
    pub(crate) versions: Vec<VersionView>,
}

impl KeyView {
    pub(crate) fn of(key: &Key, backend: &Backend) -> Self {
        Self {
            label: key.label.to_string(),
            state: key.state.name().into(),
            key_type: key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default(),
            uses: key.uses.iter().map(|u| u.name().into()).collect(),
            backend: key.backend.clone(),
            unit: if key.backend == backend.name() { backend.kind() } else { "unknown unit" }.into(),
            current: key.current,
            versions: key.versions.iter().map(VersionView::of).collect(),
        }
    }

    /// The reference to the current version; `None` if the daemon sent something that makes none.
    pub(crate) fn reference(&self) -> Option<Reference> {
        let version = self.versions.iter().find(|version| version.number == self.current)?;
        let spki = STANDARD.decode(&version.public_key).ok()?;
        Reference::new(self.label.parse().ok()?, version.number, spki).ok()
    }
}

/// A version of a key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct VersionView {
    pub(crate) number: u32,
    #[serde(rename = "type")]
    pub(crate) key_type: String,
    /// In seconds since 1970.
    pub(crate) created: u64,
    /// SubjectPublicKeyInfo in DER, in base64.
    pub(crate) public_key: String,
}

impl VersionView {
    fn of(version: &Version) -> Self {
        Self {
            number: version.number,
            key_type: version.key_type.to_string(),
            created: version.created,
            public_key: STANDARD.encode(&version.spki),
        }
    }
}

/// A page of the list of keys.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Page {
    pub(crate) keys: Vec<KeyView>,
    /// Whether there are keys behind the last one.
    pub(crate) more: bool,
}

/// The daemon as it is.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StatusView {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: u64,
    /// Whether it runs with `--dev`.
    pub(crate) dev: bool,
    pub(crate) backend: String,
    pub(crate) unit: String,
    /// Name of the master key.
    pub(crate) wkid: String,
    pub(crate) keys: u64,
    pub(crate) connections: usize,
    /// Requests of every kind on the peers' sockets, since the start.
    pub(crate) requests: u64,
    /// Requests for signatures by outcome, since the start.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Requests for signatures by the purpose of the message, since the start.
    pub(crate) purposes: BTreeMap<String, u64>,
    /// Connections closed because of garbage, since the start.
    pub(crate) closed_for_garbage: u64,
    /// Connections closed because there were too many, since the start.
    pub(crate) closed_for_crowding: u64,
}

/// Why a request was refused.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// Longest key file that is taken, in bytes (64 KiB): an RSA key of 8192 bits in PEM has 6 KiB.
pub(crate) const MAX_KEY_FILE: usize = 64 * 1024;

/// Most keys on one page.
pub(crate) const MAX_PAGE: usize = 1000;
