//! The ground on which every program of Keyward stands: the daemon, its command line, and the unit's
//! server.
//!
//! [`ownership`] says which files and directories a program may rely on, [`state_dir`] makes the one
//! for secrets, [`renewed`] reads files again that have changed, [`tls_files`] and [`master_key`]
//! read keys. [`text`] and [`causes`] make messages, [`log`] and [`throttle`] show them, [`exit`] has
//! the statuses of processes. [`signals`] and [`service_manager`] are the ways in which a server is
//! told to stop and tells that it runs. [`hardening`] and [`panics`] close a process off. [`fair`],
//! [`allowance`] and [`long_work`] share time between users. [`sweep`] wipes keys in memory.

#![forbid(unsafe_code)]

pub mod allowance;
pub mod causes;
pub mod exit;
pub mod fair;
pub mod hardening;
pub mod log;
pub mod long_work;
pub mod master_key;
pub mod ownership;
pub mod panics;
pub mod renewed;
pub mod service_manager;
pub mod signals;
pub mod state_dir;
pub mod sweep;
pub mod text;
pub mod throttle;
pub mod tls_files;
