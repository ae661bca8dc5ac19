//! Answers on the administrators' socket in JSON, for the daemon and for the client.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyward_proto::{KeyType, Label, Reference};
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::daemon::Daemon;
use crate::keys::certificates::{Certificate, first_to_expire};
use crate::keys::{Altered, Approval, Deletion, Key, Life, PeerUsage, Repaired, StoreError, Version, now};

/// A key, without its blobs.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct KeyView {
    pub(crate) label: String,
    pub(crate) state: String,
    #[serde(rename = "type")]
    pub(crate) key_type: String,
    pub(crate) uses: Vec<String>,
    pub(crate) backend: String,
    /// The kind of unit that holds the key.
    pub(crate) unit: String,
    pub(crate) current: u32,
    pub(crate) versions: Vec<VersionView>,
    /// Standing of the key in the words of NIST SP 800-57; none from an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<String>,
    /// Time from which the key signs, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<u64>,
    /// Time from which the key signs no more, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_after: Option<u64>,
    /// The deletion of a deleted key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deletion: Option<Deletion>,
    /// True if two users must ask for the deletion.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) dual: bool,
    /// Request of the first of two users, while a second user can delete the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) approval: Option<ApprovalView>,
    /// Time of the last use by a peer, in seconds since 1970; none if no use is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_used: Option<u64>,
    /// Time from which the last use is known, in seconds since 1970; none from an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage_since: Option<u64>,
    /// The peers that used the key lately, the last user first. Empty in a list of keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) peers: Vec<PeerUsage>,
    /// Reason why only the label of the key is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
    /// True if the key store was locked: another program may have written everything here.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) unverified: bool,
    /// True if the state holds in memory only: a restart of the daemon undoes the last change.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) unwritten: bool,
}

impl KeyView {
    pub(crate) fn of(key: &Key, daemon: &Daemon) -> Self {
        let (now, usage, backends) = (now(), daemon.keys.usage(), &daemon.backends);
        let (standing, peers) = (key.standing(now), usage.of_key(key.label.as_str()));
        let Life { not_before, not_after, deletion, dual, approval } = key.life;
        Self {
            label: key.label.to_string(),
            state: standing.state_name().into(),
            standing: Some(standing.name().into()),
            not_before,
            not_after,
            deletion,
            dual,
            approval: approval.map(ApprovalView::of).filter(|approval| now < approval.until),
            last_used: peers.first().map(|peer| peer.last),
            usage_since: Some(usage.since(key.label.as_str())),
            peers,
            key_type: key.version(0).map(|version| version.key_type.to_string()).unwrap_or_default(),
            uses: key.uses.iter().map(|u| u.name().into()).collect(),
            backend: key.backend.clone(),
            unit: backends.get(&key.backend).map_or("backend not configured", Backend::unit_kind).into(),
            current: key.current,
            versions: key.versions.iter().map(VersionView::of).collect(),
            problem: None,
            unverified: key.unverified,
            unwritten: daemon.keys.is_pending(&key.label),
        }
    }

    /// A key whose record was altered, so that only the label can be trusted.
    pub(crate) fn altered(label: &Label, reason: &StoreError) -> Self {
        Self {
            label: label.to_string(),
            state: "altered".into(),
            problem: Some(reason.to_string()),
            ..Self::default()
        }
    }

    /// The public key of a version: a SubjectPublicKeyInfo in DER.
    pub(crate) fn public_key(&self, number: u32) -> Option<Vec<u8>> {
        let version = self.versions.iter().find(|version| version.number == number)?;
        STANDARD.decode(&version.public_key).ok()
    }

    /// Certificate in use: the certificate of the newest version that has one.
    pub(crate) fn certified(&self) -> Option<(u32, &CertificateView)> {
        let certified = self.versions.iter().filter(|version| version.certificate.is_some());
        let newest = certified.max_by_key(|version| version.number)?;
        Some((newest.number, newest.certificate.as_ref()?))
    }

    /// The reference to a version; `None` if the daemon sent an invalid label or public key.
    pub(crate) fn reference(&self, version: u32) -> Option<Reference> {
        Reference::new(self.label.parse().ok()?, version, self.public_key(version)?).ok()
    }
}

/// Request of the first of two users for a deletion. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct ApprovalView {
    /// User id of the administrator.
    pub(crate) by: u32,
    /// Time of the request.
    pub(crate) at: u64,
    /// Time until which a second user can delete the key.
    pub(crate) until: u64,
}

impl ApprovalView {
    fn of(approval: Approval) -> Self {
        Self { by: approval.by, at: approval.at, until: approval.until() }
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
    /// The certificate that is attached, if there is one.
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
    /// True for the current version of the key.
    pub(crate) current: bool,
    /// State of the key; empty from an older daemon.
    #[serde(default)]
    pub(crate) state: String,
    #[serde(flatten)]
    pub(crate) certificate: CertificateView,
}

impl Certified {
    /// The version of a key whose certificate servers use: the newest one that has certificates, of
    /// an enabled key.
    pub(crate) fn in_use(key: KeyView) -> Option<Self> {
        let is_enabled = key.state == "enabled";
        Self::all_of(key).filter(|_| is_enabled).max_by_key(|certified| certified.version)
    }

    /// The versions of a key that have certificates.
    pub(crate) fn all_of(key: KeyView) -> impl Iterator<Item = Self> {
        let (label, current, state) = (key.label, key.current, key.state);
        key.versions.into_iter().filter_map(move |version| {
            Some(Self {
                label: label.clone(),
                version: version.number,
                current: version.number == current,
                state: state.clone(),
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
    /// Names in the SubjectAltName.
    pub(crate) names: Vec<String>,
    /// In seconds since 1970.
    pub(crate) not_before: u64,
    /// In seconds since 1970.
    pub(crate) not_after: u64,
    /// SHA-256 of the certificate, in hexadecimal digits.
    pub(crate) fingerprint: String,
    /// Number of certificates that a server sends, this one included.
    pub(crate) chain: usize,
    /// The certificate of the chain that expires first, if that is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_before: Option<IssuerView>,
}

/// A certificate that a server sends after the certificate of the key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct IssuerView {
    /// Number of the certificate in the chain; the certificate of the key is number 1.
    pub(crate) number: usize,
    /// In the form of RFC 4514.
    pub(crate) subject: String,
    /// In seconds since 1970.
    pub(crate) not_before: u64,
    /// In seconds since 1970.
    pub(crate) not_after: u64,
}

impl CertificateView {
    /// The names of the certificate, or else its subject, as text for a person.
    pub(crate) fn names_or_subject(&self) -> String {
        if self.names.is_empty() { self.subject.clone() } else { self.names.join(", ") }
    }

    /// Time when the first certificate of the chain expires, in seconds since 1970.
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

/// The access of a user to a key.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct AccessView {
    /// Each kind of handshake that the uses of the key name.
    pub(crate) uses: Vec<UseAccessView>,
    /// Reason why the daemon cannot find out services, if grants depend on the service.
    pub(crate) obstacle: Option<String>,
    /// Names of the uses that grants allow this user for this key, whatever the uses of the key.
    pub(crate) granted: Vec<String>,
    /// True if the key store was locked: another program may have written the uses of the key.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) unverified: bool,
}

/// The user in a request for an [`AccessView`].
#[derive(Clone, Debug, Default)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups of a process; none stands for those in the group database.
    pub(crate) groups: Option<Vec<u32>>,
    /// Service of a process, empty outside of all services; none stands for each service that a
    /// grant names.
    pub(crate) service: Option<String>,
}

/// The access of a user to a key, for one use.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct UseAccessView {
    /// Name of the use.
    pub(crate) r#use: String,
    /// Name of the outcome of a handshake; none if the handshake would succeed.
    pub(crate) refusal: Option<String>,
    /// Service of systemd outside of which the user has no access; none if the service does not
    /// matter.
    pub(crate) service: Option<String>,
}

/// The signature of a certificate request.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RequestSignature {
    /// The version of the key that has signed.
    pub(crate) version: u32,
    /// Name of the scheme (RFC 8446, 4.2.3).
    pub(crate) scheme: String,
    /// In base64.
    pub(crate) signature: String,
}

/// A page of the list of keys.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Page {
    pub(crate) keys: Vec<KeyView>,
    /// True if there are keys after the last one.
    pub(crate) more: bool,
    /// Known alterations of the key store.
    #[serde(default)]
    pub(crate) altered: Altered,
}

/// Result for one of several new keys.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Made {
    /// The key.
    Key(Box<KeyView>),
    /// The status and the message of the refusal.
    Refused { status: u16, error: String },
}

/// A unit of a backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct UnitView {
    pub(crate) backend: String,
    /// Address of the unit; `in this process` for the embedded unit.
    pub(crate) address: String,
    /// `up`, `down`, or `probing` after a probe has succeeded again and before a request has
    /// succeeded.
    pub(crate) health: String,
    /// State of the breaker: `closed`, `half-open` or `open`; none for the embedded unit.
    pub(crate) breaker: Option<String>,
    /// Expected time of a call, in microseconds.
    pub(crate) latency_us: Option<u64>,
    /// Calls in progress.
    pub(crate) in_flight: Option<usize>,
    /// Since the start.
    pub(crate) calls: Option<u64>,
    /// Since the start.
    pub(crate) failures: Option<u64>,
    /// Name of the master key of the unit.
    pub(crate) wkid: Option<String>,
    /// True if another master key wraps the keys of the backend.
    pub(crate) other_master_key: bool,
    /// True if the unit has the next master key, which wraps the keys as well.
    pub(crate) next_master_key: bool,
    /// Names of the mechanisms that the unit offers.
    pub(crate) mechanisms: Vec<String>,
    /// Reason why the unit cannot sign, or may soon not sign.
    pub(crate) problem: Option<String>,
}

/// Result of rewrapping some keys of a backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Rewrapped {
    /// Number of keys that this request has read, of every backend.
    pub(crate) looked_at: u64,
    /// Number of keys of the backend among these.
    pub(crate) keys: u64,
    /// Number of blobs that this request has wrapped.
    pub(crate) wrapped: u64,
    /// Label to pass as `after` for the next batch; absent after the last one.
    pub(crate) next: Option<String>,
}

/// Result of putting the next master key of a backend in force.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Finished {
    pub(crate) backend: String,
    pub(crate) wkid: String,
    /// Number of keys whose old blobs were deleted.
    pub(crate) keys: u64,
}

/// Result of a reload of the configuration.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Reloaded {
    /// Names of changed settings that take effect only with a restart.
    pub(crate) waiting_for_restart: Vec<String>,
    /// Sockets that are not there, and problems of files of the backends.
    pub(crate) problems: Vec<String>,
}

/// Result of rebuilding altered lists of the index.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct RepairedView {
    /// Number of lists that were rebuilt.
    pub(crate) lists: usize,
    /// Labels of the keys of these lists that were disabled.
    pub(crate) disabled: Vec<String>,
    /// Labels of the keys of these lists that were removed, because their records were altered.
    pub(crate) removed: Vec<String>,
    /// Number of removed records whose names were not labels.
    pub(crate) nameless: usize,
    /// Known alterations that remain.
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

/// An answer that refuses a request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// Begin of the problem that the last reload was refused. The reason follows.
pub(crate) const REFUSED_RELOAD: &str = "the last reload was refused, so an older configuration is in force";

/// Most keys of a type that a request makes. Keys that take long to make would wait for each other,
/// and other requests for their threads.
pub(crate) fn most_labels(key_type: KeyType) -> usize {
    match key_type {
        KeyType::Rsa(_) | KeyType::RsaPss(_) => 1,
        _ => 200,
    }
}

/// Longest key file that the daemon reads, in bytes (64 KiB). An RSA key of 8192 bits in PEM has 6
/// KiB.
pub(crate) const MAX_KEY_FILE: usize = 64 * 1024;

/// Longest answer that a client reads, in bytes (16 MiB).
pub(crate) const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Longest page of more than one key, in bytes (12 MiB).
pub(crate) const MAX_PAGE_LENGTH: usize = MAX_ANSWER / 4 * 3;

/// Maximum number of keys on one page.
pub(crate) const MAX_PAGE: usize = 1000;

/// Header with the number of keys in a copy of the key store.
pub(crate) const KEYS_IN_BACKUP: &str = "keyward-keys";
