//! Servers, daemons and units that fail, restart or slow down while clients keep them busy.
//!
//! A program of its own: these tests have deadlines, so they must not share the processors with
//! other tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod cost;
mod faults;
mod outages;
mod renewal;
mod rustls_tokio;
mod tokens;
