//! The answer of `GET /v1/status` in JSON, for the daemon and for the client.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::admin::purge_view::{PurgesView, RecoveryView};
use crate::admin::trail_view::AuditView;
use crate::ground::confinement::Measure;
use crate::keys::Altered;
use crate::peers::refusals::Refusal;

/// The daemon as it is at the moment.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct StatusView {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: u64,
    /// Time of the start in seconds since 1970; none from an older version.
    #[serde(default)]
    pub(crate) started: Option<u64>,
    /// True if every backend can sign, and uses of keys are recorded as far as they must be; none
    /// from an older version.
    #[serde(default)]
    pub(crate) can_sign: Option<bool>,
    /// Everything that an administrator must know of, the worst first; none from an older version.
    #[serde(default)]
    pub(crate) findings: Option<Vec<FindingView>>,
    /// True while the key store is locked: keys and certificates are not verified.
    #[serde(default)]
    pub(crate) locked: bool,
    /// True if the daemon runs with `--dev`.
    pub(crate) dev: bool,
    pub(crate) backends: Vec<BackendView>,
    /// Directory of the key store.
    #[serde(default)]
    pub(crate) state_dir: PathBuf,
    pub(crate) keys: u64,
    /// Number of keys in each state; none from an older version.
    #[serde(default)]
    pub(crate) keys_by_state: Option<BTreeMap<String, u64>>,
    /// Number of enabled keys that cannot sign now; none from an older version.
    #[serde(default)]
    pub(crate) unusable_keys: Option<u64>,
    /// The certificates in use; none from an older version.
    #[serde(default)]
    pub(crate) certificates: Option<CertificatesView>,
    /// Time when the key store was made, in seconds since 1970; none for a store of an older
    /// version.
    #[serde(default)]
    pub(crate) store_created: Option<u64>,
    /// Number of grants in the configuration.
    #[serde(default)]
    pub(crate) grants: usize,
    /// The configuration file, if there is one.
    #[serde(default)]
    pub(crate) config_file: Option<PathBuf>,
    /// SHA-256 of the configuration with all defaults, as `serve --check-config` prints it; none
    /// from an older version.
    #[serde(default)]
    pub(crate) config: Option<String>,
    /// Changed settings that take effect with a restart.
    #[serde(default)]
    pub(crate) waiting_for_restart: Vec<String>,
    /// Known alterations of the key store.
    #[serde(default)]
    pub(crate) altered: Altered,
    /// Whether purges are final; none from an older version.
    #[serde(default)]
    pub(crate) purges: Option<PurgesView>,
    /// The recovery file; none from an older version, and before the first key.
    #[serde(default)]
    pub(crate) recovery: Option<RecoveryView>,
    /// Reasons why the daemon cannot sign with some of its keys.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
    /// The measures that confine the process, as the kernel has them now; none from an older
    /// version.
    #[serde(default)]
    pub(crate) confinement: Vec<MeasureView>,
    pub(crate) connections: usize,
    /// The audit trail; none from an older version.
    #[serde(default)]
    pub(crate) audit: Option<AuditView>,
    /// Requests of every kind on the peers' sockets, since the start.
    pub(crate) requests: u64,
    /// Requests for signatures by outcome, since the start.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Requests for the decryption of a premaster secret by outcome, since the start.
    pub(crate) decryption_outcomes: BTreeMap<String, u64>,
    /// Time of the last request for a private key that ended with each outcome except success, in
    /// seconds since 1970; none from an older version.
    #[serde(default)]
    pub(crate) last_refusals: Option<BTreeMap<String, u64>>,
    /// The newest refusals of requests for private keys; none from an older version.
    #[serde(default)]
    pub(crate) refusals: Option<Vec<RefusalView>>,
    /// Requests for signatures by the purpose of the message, since the start.
    pub(crate) purposes: BTreeMap<String, u64>,
    /// Connections closed for a malformed frame, a frame that was not complete in time, a hang-up
    /// within a frame, or answers that the peer did not read, since the start.
    pub(crate) closed_for_malformed: u64,
    /// Connections closed because a limit was reached, since the start.
    pub(crate) closed_for_limit: u64,
}

/// Requests of one user for one key that ended with the same outcome.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct RefusalView {
    /// Label in the request. There need be no such key.
    pub(crate) key: String,
    /// Name of the outcome.
    pub(crate) outcome: String,
    pub(crate) uid: u32,
    /// The systemd service, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) service: Option<String>,
    /// Time of the last request, in seconds since 1970.
    pub(crate) last: u64,
    pub(crate) count: u64,
}

impl RefusalView {
    pub(super) fn of(refusal: Refusal) -> Self {
        Self {
            key: refusal.key,
            outcome: refusal.outcome.name().into(),
            uid: refusal.uid,
            service: refusal.service.map(|service| service.to_string()),
            last: refusal.last,
            count: refusal.count,
        }
    }
}

/// A finding of the status.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct FindingView {
    pub(crate) severity: Severity,
    /// One sentence, with the command that helps if there is one.
    pub(crate) text: String,
}

/// Severity of a finding. The worst finding decides the exit status of `keyward status`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Severity {
    /// Something is to be done, and nothing is wrong.
    Note,
    /// There is a problem, or nobody knows whether there is one; keys sign.
    Warning,
    /// A backend cannot sign, or uses of keys must be recorded and cannot be.
    CannotSign,
}

/// The certificates in use.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct CertificatesView {
    /// Number of certificates of active keys.
    pub(crate) total: usize,
    /// Number of these that have expired.
    pub(crate) expired: usize,
    /// Number of these that are valid, and should have been renewed by now.
    pub(crate) soon: usize,
    /// Certificates that have expired, then the next ones to expire; five at most.
    pub(crate) first: Vec<ExpiringView>,
}

/// A certificate in use. Times are in seconds since 1970.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct ExpiringView {
    /// Label of the key.
    pub(crate) key: String,
    pub(crate) version: u32,
    /// Names in the SubjectAltName; the subject if there are none.
    pub(crate) names: Vec<String>,
    /// Start of the validity of the certificate of the chain that expires first.
    pub(crate) not_before: u64,
    /// End of that validity.
    pub(crate) not_after: u64,
    /// Name of the plan that renews the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<String>,
    /// Time of the next renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) renewal: Option<u64>,
}

/// A measure that confines the process of the daemon.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct MeasureView {
    /// `memory`, `dumps`, `privileges`, `calls`, `files` or `network`.
    pub(crate) measure: String,
    /// True if the measure is in force.
    pub(crate) in_force: bool,
    /// The state in words.
    pub(crate) detail: String,
}

impl MeasureView {
    pub(super) fn of(measure: Measure) -> Self {
        Self { measure: measure.name.into(), in_force: measure.in_force, detail: measure.detail }
    }
}

impl StatusView {
    /// Warning for a person if there are keys, and no recovery file for them.
    pub(crate) fn recovery_warning(&self) -> Option<String> {
        self.recovery.as_ref().filter(|_| !self.dev && self.keys > 0)?.warning()
    }
}

/// A backend.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct BackendView {
    pub(crate) name: String,
    /// The kind of its units.
    pub(crate) unit: String,
    /// Name of the master key that wraps the keys of the backend, if there are keys.
    pub(crate) wkid: Option<String>,
    /// True if the backend could sign now.
    pub(crate) ready: bool,
    /// The way in which the embedded unit gets its master key after a start: `owners`,
    /// `credential`, `passphrase`, `unprotected` or `dev`. None for remote units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) opening: Option<String>,
    /// True if the next start cannot open the embedded unit in that way.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub(crate) next_start_fails: bool,
}
