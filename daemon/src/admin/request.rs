//! Bodies and queries of requests on the administrators' socket, for the daemon and for the client.

use keyward_proto::{KeyType, Label, Use};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use crate::keys::State;

/// A request to generate several keys that have all but their labels in common.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GenerateAll {
    #[serde(with = "labels")]
    pub(crate) labels: Vec<Label>,
    #[serde(rename = "type", with = "key_type")]
    pub(crate) key_type: KeyType,
    #[serde(with = "uses")]
    pub(crate) uses: Vec<Use>,
    /// True if the administrator accepts that each RSA key signs and decrypts.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) sign_and_decrypt: bool,
    /// The backend whose unit makes the keys; none for the default backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<String>,
}

/// A request to generate a key.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Generate {
    #[serde(with = "label")]
    pub(crate) label: Label,
    #[serde(rename = "type", with = "key_type")]
    pub(crate) key_type: KeyType,
    #[serde(with = "uses")]
    pub(crate) uses: Vec<Use>,
    /// True if the administrator accepts that one RSA key signs and decrypts.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) sign_and_decrypt: bool,
    /// The backend whose unit makes the key; none for the default backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<String>,
}

/// A request to adopt a key that a unit has wrapped for another program.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adopt {
    /// In base64.
    #[serde(with = "base64")]
    pub(crate) blob: Vec<u8>,
    /// SubjectPublicKeyInfo in DER, or the form of the unit; in base64.
    #[serde(with = "base64")]
    pub(crate) public_key: Vec<u8>,
    #[serde(with = "uses")]
    pub(crate) uses: Vec<Use>,
    /// True if the administrator accepts that one RSA key signs and decrypts.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) sign_and_decrypt: bool,
    /// The backend whose units unwrap the blob; none for the default backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backend: Option<String>,
}

/// A request to change a key, by one act. `None` leaves a property unchanged.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    #[serde(default, skip_serializing_if = "Option::is_none", with = "state")]
    pub(crate) state: Option<State>,
    /// Time from which the key signs, in seconds since 1970; null removes the time.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "date")]
    pub(crate) not_before: Option<Option<u64>>,
    /// Time from which the key signs no more, in seconds since 1970; null removes the time.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "date")]
    pub(crate) not_after: Option<Option<u64>>,
    /// True for a key that two users must ask to delete. No key loses this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dual: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_uses")]
    pub(crate) uses: Option<Vec<Use>>,
    /// True if the administrator accepts that one RSA key signs and decrypts.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) sign_and_decrypt: bool,
}

/// The query of a request to delete a key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delete {
    /// Waiting period in seconds; none for the default.
    #[serde(default, deserialize_with = "seconds")]
    pub(crate) after: Option<u64>,
    /// True if the key is deleted even though a peer has used it lately.
    #[serde(default)]
    pub(crate) force: bool,
}

/// A number in a query.
fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(|_| D::Error::custom("after is not a number of seconds"))
}

/// The query of a request to import a key. The body is the key file.
///
/// `use` may be repeated, so the query is read as a list of pairs.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Vec<(String, String)>")]
pub(crate) struct Import {
    pub(crate) uses: Vec<Use>,
    /// True if the administrator accepts that one RSA key signs and decrypts.
    pub(crate) sign_and_decrypt: bool,
    /// The backend whose unit holds the key; none for the default backend.
    pub(crate) backend: Option<String>,
    /// True if the file becomes a new version of a key, which keeps its uses and its backend.
    pub(crate) new_version: bool,
}

impl Import {
    /// The parameters of the query.
    pub(crate) fn parameters(&self) -> Vec<(&'static str, &str)> {
        let uses = self.uses.iter().map(|one| (USE, one.name()));
        let backend = self.backend.iter().map(|name| (BACKEND, name.as_str()));
        let flags = [(SIGN_AND_DECRYPT, self.sign_and_decrypt), (NEW_VERSION, self.new_version)];
        let flags = flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, "true"));
        uses.chain(backend).chain(flags).collect()
    }
}

impl TryFrom<Vec<(String, String)>> for Import {
    type Error = String;

    fn try_from(parameters: Vec<(String, String)>) -> Result<Self, String> {
        let mut import = Self::default();
        for (name, value) in parameters {
            let flag = || value.parse().map_err(|_| format!("{name} is neither true nor false"));
            match name.as_str() {
                USE => import.uses.push(one_use(&value)?),
                BACKEND => import.backend = Some(value),
                SIGN_AND_DECRYPT => import.sign_and_decrypt = flag()?,
                NEW_VERSION => import.new_version = flag()?,
                _ => return Err(format!("unknown parameter {name}")),
            }
        }
        let names_property = !import.uses.is_empty() || import.backend.is_some() || import.sign_and_decrypt;
        match import.new_version && names_property {
            true => Err("a new version has the uses and the backend of its key; name none".into()),
            false => Ok(import),
        }
    }
}

const USE: &str = "use";
const BACKEND: &str = "backend";
const SIGN_AND_DECRYPT: &str = "sign-and-decrypt";
const NEW_VERSION: &str = "new-version";

fn one_use(word: &str) -> Result<Use, String> {
    word.parse().map_err(|_| {
        let known = Use::ALL.map(Use::name).join(", ");
        format!("no such use: {word:?}; the uses are {known}")
    })
}

/// Labels as texts.
mod labels {
    use keyward_proto::Label;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(labels: &[Label], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(labels.iter().map(Label::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Label>, D::Error> {
        let parse = |text: String| {
            text.parse().map_err(|error| D::Error::custom(format_args!("{text:?} is {error}")))
        };
        Vec::<String>::deserialize(from)?.into_iter().map(parse).collect()
    }
}

/// A label as text.
mod label {
    use keyward_proto::Label;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(label: &Label, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(label.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Label, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|error| D::Error::custom(format_args!("{text:?} is {error}")))
    }
}

/// The type of a key to generate, as a word.
mod key_type {
    use keyward_proto::KeyType;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(key_type: &KeyType, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(key_type)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<KeyType, D::Error> {
        let word = String::deserialize(from)?;
        let known = word.parse().ok().filter(|known| KeyType::GENERATED.contains(known));
        known.ok_or_else(|| {
            let types = KeyType::GENERATED.map(|key_type| key_type.to_string()).join(", ");
            D::Error::custom(format_args!("cannot generate a key of type {word:?}: the types are {types}"))
        })
    }
}

/// Uses as a list of words.
mod uses {
    use keyward_proto::Use;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(uses: &[Use], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(uses.iter().map(|one| one.name()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Use>, D::Error> {
        let words: Vec<String> = Vec::deserialize(from)?;
        words.iter().map(|word| super::one_use(word).map_err(D::Error::custom)).collect()
    }
}

/// Uses that may be absent.
mod optional_uses {
    use keyward_proto::Use;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(uses: &Option<Vec<Use>>, to: S) -> Result<S::Ok, S::Error> {
        super::uses::serialize(uses.as_deref().unwrap_or_default(), to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Use>>, D::Error> {
        #[derive(Deserialize)]
        struct Uses(#[serde(with = "super::uses")] Vec<Use>);
        Ok(Option::<Uses>::deserialize(from)?.map(|Uses(uses)| uses))
    }
}

/// The state of a key as a word, which may be absent.
mod state {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::keys::State;

    pub(super) fn serialize<S: Serializer>(state: &Option<State>, to: S) -> Result<S::Ok, S::Error> {
        state.map(State::name).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<State>, D::Error> {
        let Some(name) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let unknown = || D::Error::custom(format_args!("no such state: {name:?}"));
        State::of_name(&name).map(Some).ok_or_else(unknown)
    }
}

/// A time that may be absent, and that null removes.
mod date {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(date: &Option<Option<u64>>, to: S) -> Result<S::Ok, S::Error> {
        date.flatten().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
        Option::<u64>::deserialize(from).map(Some)
    }
}

/// Bytes in base64.
mod base64 {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(|_| D::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn import(parameters: &[(&str, &str)]) -> Result<Import, String> {
        let owned = parameters.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Import::try_from(owned.collect::<Vec<_>>())
    }

    #[test]
    fn an_import_is_read_as_it_was_written() {
        let written = Import {
            uses: vec![Use::RsaKeyExchange, Use::Csr],
            sign_and_decrypt: true,
            backend: Some("hsm".into()),
            new_version: false,
        };
        let read = import(&written.parameters()).unwrap();
        assert_eq!((read.uses, read.sign_and_decrypt), (written.uses, true));
        assert_eq!((read.backend.as_deref(), read.new_version), (Some("hsm"), false));
        assert!(import(&Import { new_version: true, ..Import::default() }.parameters()).unwrap().new_version);
    }

    #[test]
    fn an_import_names_the_wrong_parameter() {
        for (parameters, reason) in [
            (&[("use", "tls")][..], "no such use: \"tls\"; the uses are "),
            (&[("sign-and-decrypt", "yes")], "sign-and-decrypt is neither true nor false"),
            (&[("index", "1")], "unknown parameter index"),
            (
                &[("use", "csr"), ("new-version", "true")],
                "a new version has the uses and the backend of its key",
            ),
        ] {
            let refused = import(parameters).unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn documents_are_read_as_they_were_written() {
        let written = Generate {
            label: "shop".parse().unwrap(),
            key_type: KeyType::P256,
            uses: vec![Use::TlsServer],
            sign_and_decrypt: false,
            backend: None,
        };
        let written = serde_json::to_value(written).unwrap();
        assert_eq!(written, json!({"label": "shop", "type": "p256", "uses": ["tls-server"]}));
        assert_eq!(serde_json::from_value::<Generate>(written).unwrap().uses, [Use::TlsServer]);
        let disable = Change { state: Some(State::Disabled), ..Change::default() };
        assert_eq!(serde_json::to_value(disable).unwrap(), json!({"state": "disabled"}));
        let empty: Change = serde_json::from_value(json!({"state": null})).unwrap();
        assert!(empty.state.is_none() && empty.uses.is_none() && empty.not_after.is_none());
        let dates = Change { not_before: Some(None), not_after: Some(Some(7)), ..Change::default() };
        let dates = serde_json::to_value(dates).unwrap();
        assert_eq!(dates, json!({"not_before": null, "not_after": 7}));
        let dates: Change = serde_json::from_value(dates).unwrap();
        assert_eq!((dates.not_before, dates.not_after), (Some(None), Some(Some(7))));
    }

    #[test]
    fn a_document_names_the_wrong_word() {
        let generate = |label: &str, key_type: &str, one: &str| {
            let document = json!({"label": label, "type": key_type, "uses": [one]});
            serde_json::from_value::<Generate>(document).unwrap_err().to_string()
        };
        assert!(generate("a b", "p256", "csr").starts_with("\"a b\" is "));
        assert!(generate("shop", "rsa1024", "csr").starts_with("cannot generate a key of type \"rsa1024\""));
        assert!(generate("shop", "p256", "tls").starts_with("no such use: \"tls\"; the uses are tls-server"));
        let state = serde_json::from_value::<Change>(json!({"state": "gone"})).unwrap_err().to_string();
        assert_eq!(state, "no such state: \"gone\"");
    }
}
