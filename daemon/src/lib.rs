//! The Keyward daemon and its command line.
//!
//! The path of one signature: [`peers`] accepts a peer, takes its credentials from the kernel, cuts what
//! arrives into requests and decides each. [`policy`] says what the message is and whether this peer may have
//! it signed, [`keys`] finds the blob, [`backend`] has the unit sign with it. [`run`] starts all that and takes
//! it down, [`config`] says how; [`admin`] makes and changes keys, and [`cli`] is its client. [`unit_server`]
//! is apart from all that: the software crypto unit alone.

#![deny(unsafe_code)]

mod admin;
mod admin_client;
mod allowance;
mod api;
mod backend;
mod backup;
mod causes;
pub mod certificates;
mod changes;
pub mod cli;
pub mod config;
mod daemon;
mod embedded_unit;
mod exit;
mod expiry;
mod fair;
mod ground;
pub mod keys;
mod lines;
mod log;
mod long_work;
mod master_key;
mod metrics;
mod migration;
mod peers;
pub mod policy;
pub mod run;
mod sockets;
mod store_key;
mod throttle;
mod tls_files;
mod unit_server;
mod upgrade;
