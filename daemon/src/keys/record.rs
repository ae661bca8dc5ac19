//! The record of a key in the store: JSON, with binary fields in base64. A shred secret wraps the
//! blobs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{Fingerprint, Label};
use serde::{Deserialize, Serialize};

use super::shred::{Place, Secrets, ShredSecret};
use super::state::Life;
use super::{Key, State, Version};

/// Encodes a key without its label; `None` if that is impossible. The secret wraps the blobs.
pub(super) fn encode(key: &Key, secret: &ShredSecret) -> Option<Vec<u8>> {
    encode_with(key, |place, blob| secret.wrap(place, blob))
}

/// Decodes the output of [`encode`]; `None` for any other bytes. The secrets unwrap the blobs.
pub(super) fn decode(label: Label, bytes: &[u8], secrets: &Secrets) -> Option<Key> {
    decode_with(label, bytes, |place, wrapped| secrets.unwrap(place, &wrapped))
}

/// Decodes the output of [`encode`] without the blobs, for a key that only is shown.
pub(super) fn decode_without_blobs(label: Label, bytes: &[u8]) -> Option<Key> {
    decode_with(label, bytes, |_, _| Some(Vec::new()))
}

/// Decodes a record of a format without shred secrets.
pub(super) fn decode_bare(label: Label, bytes: &[u8]) -> Option<Key> {
    decode_with(label, bytes, |_, blob| Some(blob))
}

/// Encodes a key as the formats without shred secrets do.
pub(super) fn encode_bare(key: &Key) -> Option<Vec<u8>> {
    encode_with(key, |_, blob| Some(blob.to_vec()))
}

/// Every blob in a record as it is there; nothing for other bytes.
pub(super) fn blobs(bytes: &[u8]) -> Vec<Vec<u8>> {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return Vec::new() };
    let blobs = record.versions.into_iter().flat_map(|version| [Some(version.blob), version.next_blob]);
    blobs.flatten().filter_map(|blob| STANDARD.decode(blob).ok()).collect()
}

fn encode_with(key: &Key, wrap: impl Fn(Place<'_>, &[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let of = |version: &Version| {
        VersionRecord::of(version, &|is_next, blob| wrap(place(&key.label, version.number, is_next), blob))
    };
    let record = Record {
        revision: key.revision,
        state: word_of(key),
        life: Some(key.life.clone()).filter(|life| *life != Life::default()),
        uses: key.uses.iter().map(|u| u.name().into()).collect(),
        backend: key.backend.clone(),
        current: key.current,
        versions: key.versions.iter().map(of).collect::<Option<_>>()?,
    };
    serde_json::to_vec(&record).ok()
}

fn decode_with(
    label: Label,
    bytes: &[u8],
    unwrap: impl Fn(Place<'_>, Vec<u8>) -> Option<Vec<u8>>,
) -> Option<Key> {
    let record: Record = serde_json::from_slice(bytes).ok()?;
    let read = |version: VersionRecord| {
        let number = version.number;
        version.read(&|is_next, blob| unwrap(place(&label, number, is_next), blob))
    };
    let versions: Vec<_> = record.versions.into_iter().map(read).collect::<Option<_>>()?;
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

fn place(label: &Label, version: u32, is_next: bool) -> Place<'_> {
    Place { label: label.as_str(), version, is_next }
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

/// Wraps a blob, which is the one of the next master key if the first parameter is true.
type Wrap<'w> = dyn Fn(bool, &[u8]) -> Option<Vec<u8>> + 'w;

impl VersionRecord {
    fn of(version: &Version, wrap: &Wrap<'_>) -> Option<Self> {
        let next_blob = version.next_blob.as_ref().map(|blob| wrap(true, blob).ok_or(()));
        Some(Self {
            number: version.number,
            key_type: version.key_type.to_string(),
            blob: STANDARD.encode(wrap(false, &version.blob)?),
            next_blob: next_blob.transpose().ok()?.map(|blob| STANDARD.encode(blob)),
            public_key: STANDARD.encode(&version.spki),
            created: version.created,
            certificates: version
                .certificates
                .iter()
                .map(|certificate| STANDARD.encode(certificate))
                .collect(),
        })
    }

    /// `unwrap` undoes the function of [`Self::of`].
    fn read(self, unwrap: &dyn Fn(bool, Vec<u8>) -> Option<Vec<u8>>) -> Option<Version> {
        let spki = STANDARD.decode(self.public_key).ok()?;
        let next_blob = match self.next_blob {
            Some(blob) => Some(unwrap(true, STANDARD.decode(blob).ok()?)?),
            None => None,
        };
        Some(Version {
            number: self.number,
            key_type: self.key_type.parse().ok()?,
            blob: unwrap(false, STANDARD.decode(self.blob).ok()?)?,
            next_blob,
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
        let read = decode_bare(key.label.clone(), &encode_bare(&key).unwrap()).unwrap();
        assert_eq!((read.revision, read.state, &read.uses), (9, State::Disabled, &key.uses));
        assert_eq!(read.versions[0].blob, key.versions[0].blob);
        assert_eq!(read.versions[0].next_blob, key.versions[0].next_blob);
        assert_eq!(read.versions[0].spki, key.versions[0].spki);
        assert_eq!(read.versions[0].certificates, key.versions[0].certificates);
    }

    #[test]
    fn no_blob_is_in_a_record_as_the_unit_made_it() {
        let mut key = key("shop");
        (key.versions[0].blob, key.versions[0].next_blob) = (vec![0xa5; 40], Some(vec![0x5a; 40]));
        let secret = ShredSecret::generate().unwrap();
        let record = encode(&key, &secret).unwrap();
        let in_record = blobs(&record);
        assert_eq!(in_record.len(), 2);
        for blob in in_record {
            assert!(!blob.windows(8).any(|part| part == [0xa5; 8] || part == [0x5a; 8]));
        }
        let label = || key.label.clone();
        let shown = decode_without_blobs(label(), &record).unwrap();
        assert!(shown.versions[0].blob.is_empty() && shown.versions[0].spki == key.versions[0].spki);
        let other = Secrets(vec![ShredSecret::generate().unwrap().into()]);
        assert!(decode(label(), &record, &other).is_none());
        let read = decode(label(), &record, &Secrets(vec![secret.into()])).unwrap();
        assert_eq!(read.versions[0].blob, key.versions[0].blob);
        assert_eq!(read.versions[0].next_blob, key.versions[0].next_blob);
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
            let record = encode_bare(&key).unwrap();
            let read = decode_bare(key.label.clone(), &record).unwrap();
            assert_eq!((read.state, &read.life), (state, life));
            assert!(!is_known(&record), "{}", String::from_utf8_lossy(&record));
        }
        assert!(!is_known(&encode_bare(&Key { state: State::Compromised, ..key("shop") }).unwrap()));
        let plain = encode_bare(&key("shop")).unwrap();
        assert!(is_known(&plain) && !String::from_utf8_lossy(&plain).contains("life"));
    }

    #[test]
    fn a_word_and_a_life_belong_together() {
        let life = Life { not_after: Some(2), ..Life::default() };
        let key = Key { life, ..key("shop") };
        let record = String::from_utf8(encode_bare(&key).unwrap()).unwrap();
        assert!(decode_bare(key.label.clone(), record.as_bytes()).is_some());
        for (from, to) in [
            ("life:enabled", "enabled"),
            ("life:enabled", "life:"),
            (",\"life\":{\"not_after\":2}", ""),
            ("not_after", "not_ever"),
        ] {
            let other = record.replace(from, to);
            assert_ne!(other, record);
            assert!(decode_bare(key.label.clone(), other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_record_without_its_current_version_is_refused() {
        let key = Key { current: 2, ..key("shop") };
        assert!(decode_bare(key.label.clone(), &encode_bare(&key).unwrap()).is_none());
        assert!(decode_bare(key.label, b"{}").is_none());
    }
}
