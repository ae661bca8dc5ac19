//! Servers, daemons and units that fail, restart or slow down while clients keep them busy.
//!
//! A program of its own, so that these tests share the processors with one another alone: they
//! have deadlines.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod faults;
mod outages;
mod renewal;
mod rustls_tokio;
