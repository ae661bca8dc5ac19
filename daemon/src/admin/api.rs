//! What travels over the administrators' socket: JSON, the same on both ends.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{Label, Reference};
use serde::{Deserialize, Serialize};

use crate::backend::{Backend, Backends};
use crate::keys::certificates::{Certificate, first_to_expire};
use crate::keys::{Altered, Key, Repaired, StoreError, Version};

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
    /// Why nothing is known of it but its label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

impl KeyView {
    pub(crate) fn of(key: &Key, backends: &Backends) -> Self {
        Self {
            label: key.label.to_string(),
            state: key.state.name().into(),
            key_type: key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default(),
            uses: key.uses.iter().map(|u| u.name().into()).collect(),
            backend: key.backend.clone(),
            unit: backends.get(&key.backend).map_or("backend not configured", Backend::kind).into(),
            current: key.current,
            versions: key.versions.iter().map(VersionView::of).collect(),
            problem: None,
        }
    }

    /// A key whose record was altered, so that nothing that stands in it counts.
    pub(crate) fn altered(label: &Label, reason: &StoreError) -> Self {
        Self {
            label: label.to_string(),
            state: "altered".into(),
            key_type: String::new(),
            uses: Vec::new(),
            backend: String::new(),
            unit: String::new(),
            current: 0,
            versions: Vec::new(),
            problem: Some(reason.to_string()),
        }
    }

    /// The public key of a version: a SubjectPublicKeyInfo in DER.
    pub(crate) fn public_key(&self, number: u32) -> Option<Vec<u8>> {
        let version = self.versions.iter().find(|version| version.number == number)?;
        STANDARD.decode(&version.public_key).ok()
    }

    /// The certificate in use: that of the newest version that has one.
    pub(crate) fn certified(&self) -> Option<(u32, &CertificateView)> {
        let certified = self.versions.iter().filter(|version| version.certificate.is_some());
        let newest = certified.max_by_key(|version| version.number)?;
        Some((newest.number, newest.certificate.as_ref()?))
    }

    /// The reference to a version; `None` if the daemon sent something that makes none.
    pub(crate) fn reference(&self, version: u32) -> Option<Reference> {
        Reference::new(self.label.parse().ok()?, version, self.public_key(version)?).ok()
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
    /// None where none is attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<CertificateView>,
}

impl VersionView {
    fn of(version: &Version) -> Self {
        Self {
            number: version.number,
            key_type: version.key_type.to_string(),
            created: version.created,
            public_key: STANDARD.encode(&version.spki),
            certificate: CertificateView::of(version),
        }
    }
}

/// A version of a key that has a certificate.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Certified {
    pub(crate) label: String,
    pub(crate) version: u32,
    /// Whether it is the current one.
    pub(crate) current: bool,
    #[serde(flatten)]
    pub(crate) certificate: CertificateView,
}

impl Certified {
    /// Those of a key.
    pub(crate) fn all_of(key: KeyView) -> impl Iterator<Item = Self> {
        let (label, current) = (key.label, key.current);
        key.versions.into_iter().filter_map(move |version| {
            Some(Self {
                label: label.clone(),
                version: version.number,
                current: version.number == current,
                certificate: version.certificate?,
            })
        })
    }
}

/// The certificate of a version of a key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct CertificateView {
    /// In the form of RFC 4514.
    pub(crate) subject: String,
    /// In the form of RFC 4514.
    pub(crate) issuer: String,
    /// Of its SubjectAltName.
    pub(crate) names: Vec<String>,
    /// In seconds since 1970.
    pub(crate) not_before: u64,
    /// In seconds since 1970.
    pub(crate) not_after: u64,
    /// SHA-256 of it, in hexadecimal digits.
    pub(crate) fingerprint: String,
    /// How many certificates are sent, with itself.
    pub(crate) chain: usize,
    /// The one of the others that expires before it and before all others, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_before: Option<IssuerView>,
}

/// One of the certificates that are sent with that of a key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct IssuerView {
    /// Number of the certificate in the chain, from 1, the certificate of the key.
    pub(crate) number: usize,
    /// In the form of RFC 4514.
    pub(crate) subject: String,
    /// In seconds since 1970.
    pub(crate) not_before: u64,
    /// In seconds since 1970.
    pub(crate) not_after: u64,
}

impl CertificateView {
    /// Whom it is for, for a person.
    pub(crate) fn names_or_subject(&self) -> String {
        if self.names.is_empty() { self.subject.clone() } else { self.names.join(", ") }
    }

    /// When the first certificate of the chain expires, in seconds since 1970.
    pub(crate) fn expires(&self) -> u64 {
        self.expires_before.as_ref().map_or(self.not_after, |first| first.not_after)
    }

    fn of(version: &Version) -> Option<Self> {
        let certificate = Certificate::from_der(version.certificates.first()?).ok()?;
        let first = first_to_expire(&version.certificates).filter(|(number, _)| *number > 1);
        let expires_before = first.map(|(number, first)| IssuerView {
            number,
            subject: first.subject(),
            not_before: first.not_before(),
            not_after: first.not_after(),
        });
        Some(Self {
            expires_before,
            subject: certificate.subject(),
            issuer: certificate.issuer(),
            names: certificate.names().to_vec(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            fingerprint: certificate.fingerprint(),
            chain: version.certificates.len(),
        })
    }
}

/// Whether grants let a user use a key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct AccessView {
    /// Each kind of handshake that the key is for.
    pub(crate) uses: Vec<UseAccessView>,
    /// Why the daemon cannot tell services from each other, if it cannot and there are grants by
    /// service.
    pub(crate) obstacle: Option<String>,
    /// The names of the uses that grants for this user and key have, whatever those of the key.
    pub(crate) granted: Vec<String>,
}

/// The user whom [`AccessView`] is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The supplementary groups of a process; none to go by the group database.
    pub(crate) groups: Option<Vec<u32>>,
    /// The service of a process, empty if it runs in none; none to try each that grants name.
    pub(crate) service: Option<String>,
}

/// Whether a user may put a key to a use.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct UseAccessView {
    /// The name of the use.
    pub(crate) r#use: String,
    /// The name of the outcome that a handshake would have; none if it would succeed.
    pub(crate) refusal: Option<String>,
    /// The service of systemd outside of which no grant lets the user; none if the service does not matter.
    pub(crate) service: Option<String>,
}

/// A certificate request is signed.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RequestSignature {
    /// The version of the key that signed.
    pub(crate) version: u32,
    /// The name of the scheme, as in RFC 8446, 4.2.3.
    pub(crate) scheme: String,
    /// In base64.
    pub(crate) signature: String,
}

/// A page of the list of keys.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Page {
    pub(crate) keys: Vec<KeyView>,
    /// Whether there are keys behind the last one.
    pub(crate) more: bool,
    /// Alterations of the key store that are known.
    #[serde(default)]
    pub(crate) altered: Altered,
}

/// The daemon as it is.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StatusView {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: u64,
    /// Whether it runs with `--dev`.
    pub(crate) dev: bool,
    pub(crate) backends: Vec<BackendView>,
    /// Where the keys are stored.
    #[serde(default)]
    pub(crate) state_dir: PathBuf,
    pub(crate) keys: u64,
    /// When the key store was made, in seconds since 1970; none if a version before this one made
    /// it.
    #[serde(default)]
    pub(crate) store_created: Option<u64>,
    /// How many grants there are in the configuration.
    #[serde(default)]
    pub(crate) grants: usize,
    /// The configuration file, if there is one.
    #[serde(default)]
    pub(crate) config_file: Option<PathBuf>,
    /// SHA-256 of the configuration with all defaults, as `serve --check-config` prints it; none
    /// from a version before this one.
    #[serde(default)]
    pub(crate) config: Option<String>,
    /// The settings of the configuration that take effect with a restart.
    #[serde(default)]
    pub(crate) waiting_for_restart: Vec<String>,
    /// Alterations of the key store that are known.
    #[serde(default)]
    pub(crate) altered: Altered,
    /// Reasons why the daemon cannot sign with keys that it has, or had.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
    pub(crate) connections: usize,
    /// Requests of every kind on the peers' sockets, since the start.
    pub(crate) requests: u64,
    /// Requests for signatures by outcome, since the start.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Requests for the decryption of a premaster secret by outcome, since the start.
    pub(crate) decryption_outcomes: BTreeMap<String, u64>,
    /// When a request for a private key last ended with each outcome but the good one, in seconds
    /// since 1970; `None` from a version before this one.
    #[serde(default)]
    pub(crate) last_refusals: Option<BTreeMap<String, u64>>,
    /// Requests for signatures by the purpose of the message, since the start.
    pub(crate) purposes: BTreeMap<String, u64>,
    /// Connections closed because a request was malformed, since the start.
    pub(crate) closed_for_malformed: u64,
    /// Connections closed because a limit was reached, since the start.
    pub(crate) closed_for_limit: u64,
}

/// A backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct BackendView {
    pub(crate) name: String,
    /// What kind of unit it has.
    pub(crate) unit: String,
    /// Name of the master key that its keys are wrapped by, if it has any.
    pub(crate) wkid: Option<String>,
    /// Whether it could sign now.
    pub(crate) ready: bool,
}

/// A unit of a backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct UnitView {
    pub(crate) backend: String,
    /// Where it is; `in this process` for the embedded one.
    pub(crate) address: String,
    /// `up`, `probing` after a probe has succeeded again and before a request has, or `down`.
    pub(crate) health: String,
    /// Of the breaker: `closed`, `half-open` or `open`; none for the embedded unit.
    pub(crate) breaker: Option<String>,
    /// What a call is expected to take, in microseconds.
    pub(crate) latency_us: Option<u64>,
    /// Calls under way.
    pub(crate) in_flight: Option<usize>,
    /// Since the start.
    pub(crate) calls: Option<u64>,
    /// Since the start.
    pub(crate) failures: Option<u64>,
    /// Name of its master key.
    pub(crate) wkid: Option<String>,
    /// Whether the keys of the backend are wrapped by another master key.
    pub(crate) other_master_key: bool,
    /// Whether it has the one that is to come, by which they are wrapped as well.
    pub(crate) next_master_key: bool,
    /// Names of the mechanisms that it offers.
    pub(crate) mechanisms: Vec<String>,
    /// What is wrong with it.
    pub(crate) problem: Option<String>,
}

/// How far the keys of a backend are on their way to another master key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Rewrapped {
    /// Keys that were looked at by this request, whatever their backend.
    pub(crate) looked_at: u64,
    /// Those of the backend among them.
    pub(crate) keys: u64,
    /// Blobs that were wrapped by this request.
    pub(crate) wrapped: u64,
    /// Whom to go on behind; none if these were the last.
    pub(crate) next: Option<String>,
}

/// The master key that a backend has now.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Finished {
    pub(crate) backend: String,
    pub(crate) wkid: String,
    /// Keys whose old blobs were given up.
    pub(crate) keys: u64,
}

/// The outcome of making altered lists of the index anew.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RepairedView {
    /// How many lists were made anew.
    pub(crate) lists: usize,
    /// Labels of keys of these lists that are left, and disabled.
    pub(crate) disabled: Vec<String>,
    /// Labels of keys of these lists that were removed, for their records were altered as well.
    pub(crate) removed: Vec<String>,
    /// How many records were removed that had names that no key can have.
    pub(crate) nameless: usize,
    /// Alterations that are left.
    pub(crate) altered: Altered,
}

impl RepairedView {
    pub(crate) fn of(repaired: &Repaired, altered: Altered) -> Self {
        let texts = |labels: &[Label]| labels.iter().map(Label::to_string).collect();
        Self {
            lists: repaired.lists,
            disabled: texts(&repaired.disabled),
            removed: texts(&repaired.removed),
            nameless: repaired.nameless,
            altered,
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// Longest key file that is taken, in bytes (64 KiB): an RSA key of 8192 bits in PEM has 6 KiB.
pub(crate) const MAX_KEY_FILE: usize = 64 * 1024;

/// Longest answer that a client reads, in bytes (16 MiB).
pub(crate) const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Longest page of more than one key, in bytes (12 MiB).
pub(crate) const MAX_PAGE_LENGTH: usize = MAX_ANSWER / 4 * 3;

/// Most keys on one page.
pub(crate) const MAX_PAGE: usize = 1000;

/// The header that says how many keys a copy of the key store has.
pub(crate) const KEYS_IN_BACKUP: &str = "keyward-keys";
