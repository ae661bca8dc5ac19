//! The Keyward daemon and its command line.
//!
//! The path of one signature: [`peers`] accepts a connection and reads a request. [`policy`] says
//! whether a grant covers the key, [`keys`] finds the key, [`policy`] classifies the message and
//! decides whether this peer may have the message signed, and [`backend`] lets a crypto unit sign.
//! ARCHITECTURE.md follows the path step by step.
//!
//! [`serve`] starts and stops the daemon, with the settings of [`config`]. [`admin`] is the HTTP
//! API that makes and changes keys, by the functions of [`lifecycle`]. [`cli`] is a client of the
//! API. [`servers`] knows the TLS servers of this host. The software crypto unit as a server is
//! another crate, keyward-unit-server.

#![deny(unsafe_code)]

mod admin;
mod backend;
pub mod cli;
pub mod config;
mod daemon;
pub mod keys;
mod lifecycle;
mod observe;
mod peers;
pub mod policy;
mod renewal;
pub mod serve;
pub mod servers;
mod store;

pub(crate) use keyward_audit as audit;
pub(crate) use keyward_ground as ground;
