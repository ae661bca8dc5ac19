//! The state of the daemon for people: [`metrics`], the [`log`], and the log lines that peers can
//! cause, limited for each user by [`lines`] or as a whole by [`throttle`].

pub(crate) mod lines;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod throttle;
