//! Users who take as much as they can get, and others who must keep their share.
//!
//! A program of its own: each test measures, so it takes a `Turn` during which no other test of
//! this program runs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod connections;
mod fairness;
mod services;
