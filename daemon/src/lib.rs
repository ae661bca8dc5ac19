//! The Keyward daemon and its command line.
//!
//! The path of one signature: [`peers`] accepts a peer, takes its credentials from the kernel, cuts what
//! arrives into requests and decides each. [`policy`] says what the message is and whether this peer may have
//! it signed, [`keys`] finds the blob, [`backend`] has the unit sign with it. [`serve`] starts all that and takes
//! it down, [`config`] says how; [`admin`] makes and changes keys, and [`cli`] is its client. The crate
//! keyward-unit-server is apart from all that: the software crypto unit alone.

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
pub mod serve;
mod store;

pub(crate) use keyward_ground as ground;
