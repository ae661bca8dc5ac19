//! Users who take what they can get, and others who must keep their share.
//!
//! A program of its own: each test measures, and so takes a `Turn` in which no other test of this
//! program runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod connections;
mod fairness;
mod services;
