//! Metrics of the daemon. Every name is declared here, and docs/metrics.md explains the metrics.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::{Outcome, Scheme};
use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter as PlainCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::observe::audit_metrics::AuditMetrics;
use crate::observe::expiries::Expiries;
use crate::observe::renewals::RenewalMetrics;
use crate::observe::sharded::{Counter, Histogram};

/// Metrics since the start of the daemon. Shared by reference between tasks.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Counter,
    without_public_key: Counter,
    signatures: Family<SignatureLabels, Counter>,
    decryptions: Family<DecryptionLabels, Counter>,
    /// Time of the last request for a private key with each outcome except success, in seconds
    /// since 1970. The index is the number of the outcome.
    refused: [AtomicU64; OUTCOMES],
    times: Family<TimeLabels, Times>,
    /// Counters of [`Self::signatures`] for signed messages. The index is that of the purpose.
    signed: Vec<OnceLock<Counter>>,
    /// Names of the purposes of messages.
    purposes: Vec<&'static str>,
    /// Histograms of [`Self::times`] for successful signatures, by backend and scheme.
    success_times: Vec<(Arc<str>, [PhaseHistograms; Scheme::ALL.len()])>,
    closed: Family<ClosedLabels, PlainCounter>,
    // The following metrics are set when a page of metrics is read.
    connections: Gauge,
    keys: Gauge,
    altered: Gauge,
    checked: Gauge,
    not_final: Gauge,
    ready: Family<BackendLabels, Gauge>,
    waiting: Family<BackendLabels, Gauge>,
    token: Family<BackendLabels, Gauge<f64, AtomicU64>>,
    unusable: Family<BackendLabels, Gauge>,
    up: Family<UnitLabels, Gauge>,
    in_flight: Family<UnitLabels, Gauge>,
    latency: Family<UnitLabels, Gauge<f64, AtomicU64>>,
    calls: Family<UnitLabels, PlainCounter>,
    failures: Family<UnitLabels, PlainCounter>,
    /// Metrics of the audit trail.
    pub(crate) audit: AuditMetrics,
    /// Metrics of the plans of certificates.
    pub(crate) renewals: RenewalMetrics,
    /// Expiry times of certificates. The caller keeps them up to date.
    pub(crate) expiries: Arc<Expiries>,
}

/// Access to a remote backend, for its metrics.
pub(crate) struct Access {
    /// Requests that wait for a unit.
    pub(crate) waiting: usize,
    /// True if the TLS files cannot be used as they are now.
    pub(crate) files_unusable: bool,
    /// Time for which the access token is still valid, if there is a token.
    pub(crate) token_valid_for: Option<Duration>,
}

/// Load of a remote unit, for its metrics.
pub(crate) struct UnitLoad {
    /// Calls under way.
    pub(crate) in_flight: usize,
    /// Expected time of a call.
    pub(crate) latency: Duration,
    /// Calls since the start of the daemon.
    pub(crate) calls: u64,
    /// Failures since the start of the daemon.
    pub(crate) failures: u64,
}

/// Times of a signature.
pub(crate) struct SignatureTimes {
    /// Time at the unit, in the queue, on the network and for the verification: see [`PHASES`].
    pub(crate) phases: [Duration; PHASES.len()],
    /// True for a remote backend, whose signatures have all four phases.
    pub(crate) remote: bool,
}

/// Histogram of times.
type Times = Histogram<{ BUCKETS.len() }>;

/// Histograms of one backend and scheme. Each is looked up by its labels only once.
type PhaseHistograms = [OnceLock<Times>; PHASES.len()];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct SignatureLabels {
    outcome: &'static str,
    purpose: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DecryptionLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TimeLabels {
    backend: Arc<str>,
    scheme: &'static str,
    outcome: &'static str,
    phase: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ClosedLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct BackendLabels {
    backend: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct UnitLabels {
    backend: String,
    unit: String,
}

impl Metrics {
    /// Content type of [`Self::text`]: the text format of Prometheus. More programs read this
    /// format than OpenMetrics, such as the textfile collector of node_exporter.
    pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Metrics of a daemon. `purposes` are the names of the purposes that messages can have,
    /// `backends` the names of the backends.
    pub(crate) fn new(purposes: Vec<&'static str>, backends: impl Iterator<Item = Arc<str>>) -> Self {
        let mut registry = Registry::with_prefix("keyward");
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build_info", "Version of the daemon", build);
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
        let help = "Start time of the daemon, since 1970";
        registry.register_with_unit("start_time", help, Unit::Seconds, started);
        let mut metrics = Self {
            registry,
            requests: Counter::default(),
            without_public_key: Counter::default(),
            signatures: Family::default(),
            decryptions: Family::default(),
            refused: Default::default(),
            times: Family::new_with_constructor(|| Times::new(&BUCKETS)),
            signed: purposes.iter().map(|_| OnceLock::new()).collect(),
            purposes,
            success_times: backends.map(|backend| (backend, Default::default())).collect(),
            closed: Family::default(),
            connections: Gauge::default(),
            keys: Gauge::default(),
            altered: Gauge::default(),
            checked: Gauge::default(),
            not_final: Gauge::default(),
            audit: AuditMetrics::default(),
            renewals: RenewalMetrics::default(),
            ready: Family::default(),
            waiting: Family::default(),
            token: Family::default(),
            unusable: Family::default(),
            up: Family::default(),
            in_flight: Family::default(),
            latency: Family::default(),
            calls: Family::default(),
            failures: Family::default(),
            expiries: Arc::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("requests", "Requests of every kind on the peers' sockets", self.requests.clone());
        let help =
            "Requests for private keys that do not name the public key, from servers with an older provider";
        registry.register("requests_without_public_key", help, self.without_public_key.clone());
        let help = "Requests for signatures, by outcome and by purpose of the message";
        registry.register("signatures", help, self.signatures.clone());
        let help = "Requests for premaster secrets of RSA key exchanges, by outcome";
        registry.register("decryptions", help, self.decryptions.clone());
        let help = "Time of signatures by phase: queue (waiting for a unit), network, unit, verify";
        registry.register_with_unit("signature", help, Unit::Seconds, self.times.clone());
        registry.register("connections", "Open connections of peers", self.connections.clone());
        registry.register("keys", "Keys in the key store", self.keys.clone());
        let help = "Keys, lists of keys and nameless records in the key store that were altered";
        registry.register("keys_altered", help, self.altered.clone());
        let help = "1 once every record of the key store was checked since the start";
        registry.register("keys_checked", help, self.checked.clone());
        let help = "1 while destroyed keys can come back from copies of the key store";
        registry.register("purges_not_final", help, self.not_final.clone());
        let help = "Connections of peers that the daemon closed: a frame was malformed, not complete in time or cut off by a hang-up, answers were not read, a limit was reached, or a user without a grant sent no request";
        registry.register("connections_closed", help, self.closed.clone());
        let help = "Whether a unit of the backend is healthy and has the master key of the keys";
        registry.register("backend_ready", help, self.ready.clone());
        let help = "Requests that wait for a unit of the backend";
        registry.register("backend_waiting", help, self.waiting.clone());
        let help = "Remaining validity of the access token of the backend";
        registry.register_with_unit("backend_token", help, Unit::Seconds, self.token.clone());
        let help = "Whether the TLS files of the backend cannot be used as they are now, so the old ones are in force";
        registry.register("backend_files_unusable", help, self.unusable.clone());
        let help = "Whether the unit gets requests: 0 while its circuit breaker is open";
        registry.register("unit_up", help, self.up.clone());
        registry.register("unit_in_flight", "Calls under way at the unit", self.in_flight.clone());
        let help = "Expected time of a call of the unit";
        registry.register_with_unit("unit_latency", help, Unit::Seconds, self.latency.clone());
        registry.register("unit_calls", "Calls of the unit", self.calls.clone());
        registry.register("unit_failures", "Failures of the unit", self.failures.clone());
        self.audit.register(registry);
        self.renewals.register(registry);
        registry.register_collector(Box::new(Arc::clone(&self.expiries)));
    }

    /// Counts a request of any kind.
    pub(crate) fn request(&self) {
        self.requests.inc();
    }

    /// Counts a request for a signature. `purpose` is the index of the purpose of the message, if
    /// that is known.
    pub(crate) fn signature(&self, outcome: Outcome, purpose: Option<usize>) {
        self.note_refusal(outcome);
        let counter = || {
            let purpose = purpose.and_then(|index| self.purposes.get(index)).copied().unwrap_or(UNKNOWN);
            let labels = SignatureLabels { outcome: outcome.name(), purpose };
            self.signatures.get_or_create_owned(&labels)
        };
        match purpose.filter(|_| outcome == Outcome::Done).and_then(|index| self.signed.get(index)) {
            Some(found) => found.get_or_init(counter).inc(),
            None => counter().inc(),
        };
    }

    /// Counts a request for a premaster secret. The outcome does not reveal whether the secret was
    /// valid.
    pub(crate) fn decryption(&self, outcome: Outcome) {
        self.note_refusal(outcome);
        self.decryptions.get_or_create(&DecryptionLabels { outcome: outcome.name() }).inc();
    }

    fn note_refusal(&self, outcome: Outcome) {
        let last = usize::try_from(i32::from(outcome)).ok().and_then(|number| self.refused.get(number));
        if let Some(last) = last.filter(|_| outcome != Outcome::Done) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            last.store(now, Ordering::Relaxed);
        }
    }

    /// Time of the last request for a private key with each outcome except success, in seconds
    /// since 1970.
    pub(crate) fn last_refusals(&self) -> BTreeMap<String, u64> {
        let times = (0..).zip(&self.refused).filter_map(|(number, last)| {
            let outcome = Outcome::try_from(number).ok()?;
            Some((outcome.name().to_owned(), last.load(Ordering::Relaxed))).filter(|(_, last)| *last > 0)
        });
        times.collect()
    }

    /// Observes the times of a signature of a backend, also of a failed signature.
    pub(crate) fn times(&self, backend: &str, scheme: Scheme, outcome: Outcome, times: &SignatureTimes) {
        let histograms = self.success_times(backend, scheme).filter(|_| outcome == Outcome::Done);
        let observe = |phase: usize| {
            let histogram = || {
                let (scheme, outcome, phase) = (scheme.name(), outcome.name(), PHASES[phase]);
                let labels = TimeLabels { backend: backend.into(), scheme, outcome, phase };
                self.times.get_or_create_owned(&labels)
            };
            let time = times.phases[phase];
            match histograms {
                Some(histograms) => histograms[phase].get_or_init(histogram).observe(time),
                None => histogram().observe(time),
            }
        };
        observe(0);
        // A signature of the embedded unit has this phase only if the unit was busy.
        if times.remote || !times.phases[1].is_zero() {
            observe(1);
        }
        if times.remote {
            observe(2);
            observe(3);
        }
    }

    fn success_times(&self, backend: &str, scheme: Scheme) -> Option<&PhaseHistograms> {
        let (_, by_scheme) = self.success_times.iter().find(|(name, _)| **name == *backend)?;
        by_scheme.get(Scheme::ALL.iter().position(|known| *known == scheme)?)
    }

    /// Counts a request for a private key that did not name the public key.
    pub(crate) fn without_public_key(&self) {
        self.without_public_key.inc();
    }

    /// Counts a connection that was closed for a malformed frame, a frame that was not complete in
    /// time, a hang-up within a frame, or answers that the peer did not read.
    pub(crate) fn malformed(&self) {
        self.closed.get_or_create(&MALFORMED).inc();
    }

    /// Counts a connection that was closed because a limit was reached.
    pub(crate) fn over_limit(&self) {
        self.closed.get_or_create(&LIMIT).inc();
    }

    /// Counts a connection that was closed because a user without a grant sent no request.
    pub(crate) fn idle(&self) {
        self.closed.get_or_create(&IDLE).inc();
    }

    /// Number of requests of every kind.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Number of signatures by outcome. Outcomes that did not occur are absent.
    pub(crate) fn outcomes(&self) -> BTreeMap<String, u64> {
        self.sums(|outcome, _| outcome)
    }

    /// Number of decryptions by outcome. Outcomes that did not occur are absent.
    pub(crate) fn decryption_outcomes(&self) -> BTreeMap<String, u64> {
        let count = |outcome| Some((outcome, self.decryptions.get(&DecryptionLabels { outcome })?.get()));
        outcomes().filter_map(count).map(|(outcome, count)| (outcome.to_owned(), count)).collect()
    }

    /// Number of signatures by purpose. Purposes that did not occur are absent.
    pub(crate) fn purposes(&self) -> BTreeMap<String, u64> {
        let mut purposes = self.sums(|_, purpose| purpose);
        purposes.remove(UNKNOWN);
        purposes
    }

    /// Number of connections closed with the reason `malformed`, and because of limits.
    pub(crate) fn closed(&self) -> (u64, u64) {
        let count = |labels| self.closed.get(labels).map_or(0, |count| count.get());
        (count(&MALFORMED), count(&LIMIT))
    }

    /// Page of metrics in the format of [`Self::CONTENT_TYPE`].
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _: fmt::Result = prometheus_text::encode(&mut text, &self.registry);
        text
    }

    /// Sets the number of open connections of peers.
    pub(crate) fn set_connections(&self, count: usize) {
        self.connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets the number of keys.
    pub(crate) fn set_keys(&self, count: u64) {
        self.keys.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets whether destroyed keys can come back from copies of the key store.
    pub(crate) fn set_final(&self, is_final: bool) {
        self.not_final.set((!is_final).into());
    }

    /// Sets whether every record was checked since the start.
    pub(crate) fn set_checked(&self, is_checked: bool) {
        self.checked.set(is_checked.into());
    }

    /// Sets the number of altered keys, lists and records.
    pub(crate) fn set_altered(&self, count: usize) {
        self.altered.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Sets whether a backend can sign with its keys.
    pub(crate) fn set_ready(&self, backend: &str, ready: bool) {
        self.ready.get_or_create(&BackendLabels { backend: backend.into() }).set(ready.into());
    }

    /// Sets the state of the access to a remote backend.
    pub(crate) fn set_access(&self, backend: &str, access: &Access) {
        let labels = BackendLabels { backend: backend.into() };
        self.waiting.get_or_create(&labels).set(i64::try_from(access.waiting).unwrap_or(i64::MAX));
        self.unusable.get_or_create(&labels).set(access.files_unusable.into());
        if let Some(time) = access.token_valid_for {
            self.token.get_or_create(&labels).set(time.as_secs_f64());
        }
    }

    /// Sets whether a unit of a backend gets requests, and its load.
    pub(crate) fn set_unit(&self, backend: &str, address: String, up: bool, load: Option<&UnitLoad>) {
        let labels = UnitLabels { backend: backend.into(), unit: address };
        self.up.get_or_create(&labels).set(up.into());
        let Some(load) = load else { return };
        self.in_flight.get_or_create(&labels).set(i64::try_from(load.in_flight).unwrap_or(i64::MAX));
        self.latency.get_or_create(&labels).set(load.latency.as_secs_f64());
        let catch_up =
            |counter: &PlainCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        catch_up(&self.calls.get_or_create(&labels), load.calls);
        catch_up(&self.failures.get_or_create(&labels), load.failures);
    }

    /// Number of signatures by one of their labels.
    fn sums(&self, by: impl Fn(&'static str, &'static str) -> &'static str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for outcome in outcomes() {
            let purposes = self.purposes.iter().copied().chain([UNKNOWN]);
            for purpose in purposes {
                if let Some(count) = self.signatures.get(&SignatureLabels { outcome, purpose }) {
                    *sums.entry(by(outcome, purpose).to_owned()).or_default() += count.get();
                }
            }
        }
        sums
    }
}

/// Names of all outcomes.
fn outcomes() -> impl Iterator<Item = &'static str> {
    // keyward.proto has fewer than 32 outcomes.
    (0..32).filter_map(|number| Outcome::try_from(number).ok()).map(Outcome::name)
}

/// Phases of a signature. A signature of the embedded unit has the first phase, and the second if
/// it waited in a queue.
const PHASES: [&str; 4] = ["unit", "queue", "network", "verify"];
/// Upper bound of the number of outcomes in keyward.proto.
const OUTCOMES: usize = 32;
/// Purpose of a message that was not classified.
const UNKNOWN: &str = "unknown";
const MALFORMED: ClosedLabels = ClosedLabels { reason: "malformed" };
const LIMIT: ClosedLabels = ClosedLabels { reason: "limit" };
const IDLE: ClosedLabels = ClosedLabels { reason: "idle" };

/// Upper bounds of the buckets, in seconds: from the time of a software unit to times for which no
/// client waits.
const BUCKETS: [f64; 17] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 5.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_summed_up_both_ways() {
        let metrics = Metrics::new(vec!["csr", "other"], core::iter::empty());
        metrics.signature(Outcome::Done, Some(1));
        metrics.signature(Outcome::Done, Some(0));
        metrics.signature(Outcome::NoGrant, None);
        let outcomes = metrics.outcomes();
        assert_eq!((outcomes["done"], outcomes["no-grant"], outcomes.len()), (2, 1, 2));
        let purposes = metrics.purposes();
        assert_eq!((purposes["other"], purposes["csr"], purposes.len()), (1, 1, 2));
        let refusals = metrics.last_refusals();
        assert!(refusals.len() == 1 && refusals["no-grant"] > 1_700_000_000, "{refusals:?}");
    }
}
