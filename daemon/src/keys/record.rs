//! The record of a key in the store: JSON, with binary fields in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{Fingerprint, Label};
use serde::{Deserialize, Serialize};

use super::state::Life;
use super::{Key, State, Version};

/// Encodes a key without its label; `None` if that is impossible.
pub(super) fn encode(key: &Key) -> Option<Vec<u8>> {
    let record = Record {
        revision: key.revision,
        state: word_of(key),
        life: Some(key.life.clone()).filter(|life| *life != Life::default()),
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
    // The word says whether there is a life. This program wrote no record that disagrees.
    let (state, has_life) = match record.state.strip_prefix(WITH_LIFE) {
        Some(word) => (State::of_name(word)?, true),
        None => (State::of_name(&record.state)?, false),
    };
    if has_life != record.life.is_some() {
        return None;
    }
    let ascending = versions.is_sorted_by(|a, b| a.number < b.number);
    let key = Key {
        label,
        state,
        life: record.life.unwrap_or_default(),
        uses: record.uses.iter().map(|u| u.parse().ok()).collect::<Option<_>>()?,
        backend: record.backend,
        current: record.current,
        versions,
        revision: record.revision,
        unverified: false,
    };
    (ascending && key.version(0).is_some()).then_some(key)
}

/// Word for the state of a key. Older versions of Keyward do not know the words of keys with a
/// [`Life`] and of compromised keys. So they refuse such a record, and do not sign with a key that
/// is deleted or outside its dates.
fn word_of(key: &Key) -> String {
    let prefix = if key.life == Life::default() { "" } else { WITH_LIFE };
    format!("{prefix}{}", key.state.name())
}

/// Prefix of the word of a key that has a [`Life`].
const WITH_LIFE: &str = "life:";

#[derive(Deserialize, Serialize)]
struct Record {
    revision: u64,
    state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    life: Option<Life>,
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
    use super::super::state::{Approval, Deletion};
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
    fn a_life_is_read_as_it_was_written_and_older_versions_refuse_it() {
        let deletion = Some(Deletion { by: 7, at: 3, destroy_at: 4 });
        let approval = Some(Approval { by: 8, at: 5, wait: 3600 });
        let lives = [
            Life { not_before: Some(1), ..Life::default() },
            Life { not_after: Some(2), ..Life::default() },
            Life { deletion, ..Life::default() },
            Life { dual: true, approval, ..Life::default() },
            Life { not_before: Some(1), not_after: Some(2), deletion, dual: true, approval },
        ];
        // The words that the versions without a life know.
        let known = ["\"state\":\"enabled\"", "\"state\":\"disabled\""];
        let is_known =
            |record: &[u8]| known.iter().any(|word| String::from_utf8_lossy(record).contains(word));
        for (life, state) in lives.iter().flat_map(|life| State::ALL.map(|state| (life, state))) {
            let key = Key { state, life: life.clone(), ..key("shop") };
            let record = encode(&key).unwrap();
            let read = decode(key.label.clone(), &record).unwrap();
            assert_eq!((read.state, &read.life), (state, life));
            assert!(!is_known(&record), "{}", String::from_utf8_lossy(&record));
        }
        assert!(!is_known(&encode(&Key { state: State::Compromised, ..key("shop") }).unwrap()));
        let plain = encode(&key("shop")).unwrap();
        assert!(is_known(&plain) && !String::from_utf8_lossy(&plain).contains("life"));
    }

    #[test]
    fn a_word_and_a_life_belong_together() {
        let life = Life { not_after: Some(2), ..Life::default() };
        let key = Key { life, ..key("shop") };
        let record = String::from_utf8(encode(&key).unwrap()).unwrap();
        assert!(decode(key.label.clone(), record.as_bytes()).is_some());
        for (from, to) in [
            ("life:enabled", "enabled"),
            ("life:enabled", "life:"),
            (",\"life\":{\"not_after\":2}", ""),
            ("not_after", "not_ever"),
        ] {
            let other = record.replace(from, to);
            assert_ne!(other, record);
            assert!(decode(key.label.clone(), other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_record_without_its_current_version_is_refused() {
        let key = Key { current: 2, ..key("shop") };
        assert!(decode(key.label.clone(), &encode(&key).unwrap()).is_none());
        assert!(decode(key.label, b"{}").is_none());
    }
}
