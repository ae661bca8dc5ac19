//! Metrics of the daemon: [`metrics`], with the [`expiries`] of certificates.

pub(crate) mod expiries;
pub(crate) mod metrics;
