//! The Keyward daemon and its command line.
//!
//! The way of one signature: [`listener`] accepts a peer and takes its credentials from the kernel,
//! [`session`] cuts what arrives into requests, [`answer`] decides each: [`purpose`] says what the message
//! is, [`authorise`] whether this peer may have it signed, [`keys`] finds the blob, [`backend`] has the unit
//! sign with it. [`run`] starts all that and takes it down, [`config`] says how; [`admin`] makes and changes
//! keys, and [`cli`] is its client. [`unit_server`] is apart from all that: the software crypto unit alone.

#![deny(unsafe_code)]

mod admin;
mod admin_client;
mod answer;
mod api;
pub mod authorise;
mod backend;
mod causes;
pub mod certificates;
mod changes;
pub mod cli;
pub mod config;
mod daemon;
mod exit;
mod hardening;
pub mod keys;
mod listener;
mod log;
mod master_key;
mod metrics;
pub mod purpose;
mod reactors;
pub mod run;
mod session;
mod sockets;
mod stream;
mod throttle;
mod unit_server;
