//! Metrics of the audit trail.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the audit trail. They are set when a page of metrics is read.
#[derive(Debug, Default)]
pub(crate) struct AuditMetrics {
    failed: Gauge,
    unwritten: Counter,
    summaries: Gauge,
    last: Gauge,
    signed: Gauge,
}

/// The audit trail, for its metrics.
pub(crate) struct AuditLook {
    /// True if records cannot be written.
    pub(crate) has_failed: bool,
    /// Uses of keys without a record since the start.
    pub(crate) unwritten: u64,
    /// True if uses go into summaries.
    pub(crate) has_summaries: bool,
    /// Number of the last record.
    pub(crate) last: u64,
    /// Number of the last record that a checkpoint covers.
    pub(crate) signed: u64,
}

impl AuditMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Whether records of the audit trail cannot be written";
        registry.register("audit_failed", help, self.failed.clone());
        let help = "Uses of keys without a record in the audit trail";
        registry.register("audit_unwritten", help, self.unwritten.clone());
        let help = "Whether uses of keys go into summaries in the audit trail";
        registry.register("audit_summaries", help, self.summaries.clone());
        let help = "Number of the last record of the audit trail";
        registry.register("audit_last_record", help, self.last.clone());
        let help = "Number of the last record of the audit trail that is signed";
        registry.register("audit_signed_record", help, self.signed.clone());
    }

    /// Sets all of them.
    pub(crate) fn set(&self, look: &AuditLook) {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.failed.set(look.has_failed.into());
        self.unwritten.inc_by(look.unwritten.saturating_sub(self.unwritten.get()));
        self.summaries.set(look.has_summaries.into());
        self.last.set(number(look.last));
        self.signed.set(number(look.signed));
    }
}
