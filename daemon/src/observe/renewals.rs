//! Metrics of the plans of certificates, set when a page of metrics is read.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the plans.
#[derive(Debug, Default)]
pub(crate) struct RenewalMetrics {
    due: Family<PlanLabels, Gauge>,
    served: Family<PlanLabels, Gauge>,
    failures: Family<PlanLabels, Gauge>,
    success: Family<PlanLabels, Gauge>,
}

/// A plan as it is at the moment. Times are in seconds since 1970.
pub(crate) struct PlanLook {
    pub(crate) plan: String,
    pub(crate) due: u64,
    /// True if every listener shows the certificate; none if nobody has looked.
    pub(crate) is_served: Option<bool>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    pub(crate) renewed_at: Option<u64>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PlanLabels {
    plan: String,
}

impl RenewalMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Time at which the certificate of a plan is renewed, since 1970";
        registry.register_with_unit("certificate_renewal_timestamp", help, Unit::Seconds, self.due.clone());
        let help = "Whether every listener of a plan shows its certificate";
        registry.register("certificate_served", help, self.served.clone());
        let help = "Failures of a plan since its last success";
        registry.register("certificate_renewal_failures", help, self.failures.clone());
        let help = "Time of the last success of a plan, since 1970";
        registry.register_with_unit(
            "certificate_last_success_timestamp",
            help,
            Unit::Seconds,
            self.success.clone(),
        );
    }

    /// Replaces all values.
    pub(crate) fn set(&self, looks: Vec<PlanLook>) {
        for family in [&self.due, &self.served, &self.failures, &self.success] {
            family.clear();
        }
        let time = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        for PlanLook { plan, due, is_served, failures, renewed_at } in looks {
            let labels = PlanLabels { plan };
            self.due.get_or_create(&labels).set(time(due));
            self.failures.get_or_create(&labels).set(failures.into());
            if let Some(is_served) = is_served {
                self.served.get_or_create(&labels).set(is_served.into());
            }
            if let Some(at) = renewed_at {
                self.success.get_or_create(&labels).set(time(at));
            }
        }
    }
}
