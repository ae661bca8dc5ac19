//! The state of the daemon for people: [`metrics`] with the [`expiries`] of certificates, and
//! [`lines`] of the log that peers can cause, limited for each user.

pub(crate) mod expiries;
pub(crate) mod lines;
pub(crate) mod metrics;
