//! Metrics of the daemon: [`metrics`], with the [`expiries`] of certificates.

pub(crate) mod audit_metrics;
pub(crate) mod expiries;
pub(crate) mod metrics;
pub(crate) mod renewals;
mod sharded;

#[cfg(test)]
mod tests;
