//! The record of a key in the store: JSON, with binary fields in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{Fingerprint, Label};
use serde::{Deserialize, Serialize};

use super::{Key, State, Version};

/// Encodes a key without its label; `None` if that is impossible.
pub(super) fn encode(key: &Key) -> Option<Vec<u8>> {
    let record = Record {
        revision: key.revision,
        state: key.state.name().into(),
        uses: key.uses.iter().map(|u| u.name().into()).collect(),
        backend: key.backend.clone(),
        current: key.current,
        versions: key.versions.iter().map(VersionRecord::of).collect(),
    };
    serde_json::to_vec(&record).ok()
}

/// Decodes the output of [`encode`]; `None` for any other bytes.
pub(super) fn decode(label: Label, bytes: &[u8]) -> Option<Key> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    let versions: Vec<_> = record.versions.into_iter().map(VersionRecord::read).collect::<Option<_>>()?;
    let ascending = versions.is_sorted_by(|a, b| a.number < b.number);
    let key = Key {
        label,
        state: State::of_name(&record.state)?,
        uses: record.uses.iter().map(|u| u.parse().ok()).collect::<Option<_>>()?,
        backend: record.backend,
        current: record.current,
        versions,
        revision: record.revision,
    };
    (ascending && key.version(0).is_some()).then_some(key)
}

#[derive(Deserialize, Serialize)]
struct Record {
    revision: u64,
    state: String,
    uses: Vec<String>,
    backend: String,
    current: u32,
    versions: Vec<VersionRecord>,
}

#[derive(Deserialize, Serialize)]
struct VersionRecord {
    number: u32,
    #[serde(rename = "type")]
    key_type: String,
    blob: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_blob: Option<String>,
    public_key: String,
    created: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<String>,
}

impl VersionRecord {
    fn of(version: &Version) -> Self {
        Self {
            number: version.number,
            key_type: version.key_type.to_string(),
            blob: STANDARD.encode(&version.blob),
            next_blob: version.next_blob.as_ref().map(|blob| STANDARD.encode(blob)),
            public_key: STANDARD.encode(&version.spki),
            created: version.created,
            certificates: version
                .certificates
                .iter()
                .map(|certificate| STANDARD.encode(certificate))
                .collect(),
        }
    }

    fn read(self) -> Option<Version> {
        let spki = STANDARD.decode(self.public_key).ok()?;
        Some(Version {
            number: self.number,
            key_type: self.key_type.parse().ok()?,
            blob: STANDARD.decode(self.blob).ok()?,
            next_blob: self.next_blob.map(|blob| STANDARD.decode(blob)).transpose().ok()?,
            fingerprint: Fingerprint::of(&spki),
            spki,
            created: self.created,
            certificates: self
                .certificates
                .iter()
                .map(|text| STANDARD.decode(text).ok())
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::key;
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let mut key = Key { revision: 9, state: State::Disabled, ..key("shop") };
        key.versions[0].next_blob = Some(vec![9]);
        key.versions[0].certificates = vec![vec![1], vec![2, 3]];
        let read = decode(key.label.clone(), &encode(&key).unwrap()).unwrap();
        assert_eq!((read.revision, read.state, &read.uses), (9, State::Disabled, &key.uses));
        assert_eq!(read.versions[0].blob, key.versions[0].blob);
        assert_eq!(read.versions[0].next_blob, key.versions[0].next_blob);
        assert_eq!(read.versions[0].spki, key.versions[0].spki);
        assert_eq!(read.versions[0].certificates, key.versions[0].certificates);
    }

    #[test]
    fn a_record_without_its_current_version_is_refused() {
        let key = Key { current: 2, ..key("shop") };
        assert!(decode(key.label.clone(), &encode(&key).unwrap()).is_none());
        assert!(decode(key.label, b"{}").is_none());
    }
}
