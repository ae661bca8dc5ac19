//! Metrics of the plans of certificates, set when a page of metrics is read, and counters of their
//! failures.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the plans.
#[derive(Debug, Default)]
pub(crate) struct RenewalMetrics {
    due: Family<CertificateLabels, Gauge>,
    served: Family<PlanLabels, Gauge>,
    served_until: Family<ListenerLabels, Gauge>,
    looked: Family<PlanLabels, Gauge>,
    agent_seen: Gauge,
    failures: Family<PlanLabels, Gauge>,
    success: Family<PlanLabels, Gauge>,
    success_at: Family<IssuerLabels, Gauge>,
    failed: Family<FailureLabels, Counter>,
    watched_from: Family<WatchLabels, Gauge>,
    watched_until: Family<WatchLabels, Gauge>,
    watched_found: Family<WatchLabels, Gauge>,
    missing: Family<PlanLabels, Gauge>,
}

/// A plan as it is at the moment. Times are in seconds since 1970.
pub(crate) struct PlanLook {
    pub(crate) plan: String,
    pub(crate) key: String,
    /// The authority, or the program, that issues.
    pub(crate) issuer: String,
    /// Version of the key with the certificate of the plan; `None` before the first one.
    pub(crate) version: Option<u32>,
    pub(crate) due: u64,
    /// True if every listener shows the certificate; `None` if nobody has looked.
    pub(crate) is_served: Option<bool>,
    /// Time at which the deployer has last looked; `None` for a plan without servers here.
    pub(crate) looked_at: Option<u64>,
    /// Each listener that shows a certificate, and the end of that certificate.
    pub(crate) listeners: Vec<(String, u64)>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    pub(crate) renewed_at: Option<u64>,
}

/// A certificate that somebody else renews, and its validity.
pub(crate) struct WatchLook {
    pub(crate) watch: String,
    /// None if the certificate was not found within the last minutes.
    pub(crate) validity: Option<(u64, u64)>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PlanLabels {
    plan: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CertificateLabels {
    plan: String,
    key: String,
    version: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ListenerLabels {
    plan: String,
    listener: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct IssuerLabels {
    ca: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FailureLabels {
    ca: String,
    error: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct WatchLabels {
    watch: String,
}

impl RenewalMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Time at which the certificate of a plan is renewed, since 1970";
        registry.register_with_unit("certificate_renewal_timestamp", help, Unit::Seconds, self.due.clone());
        let help = "End of the certificate that a listener of a plan shows, since 1970";
        let name = "certificate_served_not_after_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, self.served_until.clone());
        let help = "Time at which the deployer has last looked at the listeners of a plan, since 1970";
        registry.register_with_unit("certificate_looked_timestamp", help, Unit::Seconds, self.looked.clone());
        let help = "Time at which the agent has last asked for work, since 1970";
        registry.register_with_unit(
            "acme_agent_seen_timestamp",
            help,
            Unit::Seconds,
            self.agent_seen.clone(),
        );
        let help = "Time of the last success of a plan, since 1970";
        let name = "certificate_last_success_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, self.success.clone());
        let help = "Time at which an authority or a program has last issued a certificate, since 1970";
        registry.register_with_unit(
            "acme_last_success_timestamp",
            help,
            Unit::Seconds,
            self.success_at.clone(),
        );
        let help = "First time at which a certificate that somebody else renews is valid, since 1970";
        let name = "watched_certificate_not_before_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, self.watched_from.clone());
        let help = "End of a certificate that somebody else renews, since 1970";
        let name = "watched_certificate_not_after_timestamp";
        registry.register_with_unit(name, help, Unit::Seconds, self.watched_until.clone());
        let help = "Whether a certificate that somebody else renews was found within the last minutes";
        registry.register("watched_certificate_found", help, self.watched_found.clone());
        let help = "1 while a plan has no certificate for its names";
        registry.register("certificate_missing", help, self.missing.clone());
        let help = "Whether every listener of a plan shows its certificate";
        registry.register("certificate_served", help, self.served.clone());
        let help = "Failures of a plan since its last success";
        registry.register("certificate_renewal_failures", help, self.failures.clone());
        let help =
            "Attempts to renew a certificate that have failed, by their issuer and the type of the error";
        registry.register("acme_failures", help, self.failed.clone());
    }

    /// Counts a failure. An error that ACME does not know counts as `other`: the agent must not
    /// make metrics without end.
    pub(crate) fn failure(&self, issuer: &str, kind: &str) {
        let error = KINDS.into_iter().find(|known| *known == kind).unwrap_or("other");
        self.failed.get_or_create(&FailureLabels { ca: issuer.to_owned(), error }).inc();
    }

    /// Replaces all values that are not counted. Of very many plans, those that are due first are
    /// shown.
    pub(crate) fn set(&self, mut looks: Vec<PlanLook>, watched: Vec<WatchLook>, agent_seen: Option<u64>) {
        self.agent_seen.set(agent_seen.map_or(0, |at| i64::try_from(at).unwrap_or(i64::MAX)));
        self.due.clear();
        self.served_until.clear();
        for family in [&self.served, &self.looked, &self.failures, &self.success, &self.missing] {
            family.clear();
        }
        self.success_at.clear();
        for family in [&self.watched_from, &self.watched_until, &self.watched_found] {
            family.clear();
        }
        let time = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        let mut successes = BTreeMap::new();
        for look in &looks {
            let last = successes.entry(look.issuer.clone()).or_insert(0);
            *last = look.renewed_at.unwrap_or_default().max(*last);
        }
        for (ca, at) in successes.into_iter().filter(|(_, at)| *at > 0) {
            self.success_at.get_or_create(&IssuerLabels { ca }).set(time(at));
        }
        looks.sort_by_key(|look| look.due);
        for look in looks.into_iter().take(MAX_PLANS) {
            let PlanLook { plan, key, version, due, is_served, looked_at, listeners, failures, .. } = look;
            let labels = PlanLabels { plan: plan.clone() };
            self.missing.get_or_create(&labels).set(version.is_none().into());
            if let Some(version) = version {
                let labels = CertificateLabels { plan: plan.clone(), key, version: version.to_string() };
                self.due.get_or_create(&labels).set(time(due));
            }
            for (listener, until) in listeners {
                let labels = ListenerLabels { plan: plan.clone(), listener };
                self.served_until.get_or_create(&labels).set(time(until));
            }
            self.failures.get_or_create(&labels).set(failures.into());
            if let Some(is_served) = is_served {
                self.served.get_or_create(&labels).set(is_served.into());
            }
            if let Some(at) = looked_at {
                self.looked.get_or_create(&labels).set(time(at));
            }
            if let Some(at) = look.renewed_at {
                self.success.get_or_create(&labels).set(time(at));
            }
        }
        for WatchLook { watch, validity } in watched {
            let labels = WatchLabels { watch };
            self.watched_found.get_or_create(&labels).set(validity.is_some().into());
            let Some((from, until)) = validity else { continue };
            self.watched_from.get_or_create(&labels).set(time(from));
            self.watched_until.get_or_create(&labels).set(time(until));
        }
    }
}

/// Most plans on a page of metrics.
const MAX_PLANS: usize = 1000;
/// Types of errors of ACME (RFC 8555, 6.7; RFC 9773, 7.4), and words of the agent.
const KINDS: [&str; 40] = [
    "accountDoesNotExist",
    "alreadyReplaced",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "invalidProfile",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
    "authority",
    "chain",
    "clock",
    "daemon",
    "directory",
    "dns-key",
    "names",
    "network",
    "order",
    "program",
    "root",
    "slow",
    "unit",
    "webroot",
];
