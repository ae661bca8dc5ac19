//! Foundation of every program of Keyward: the daemon, its command line, and the GREP11 server.
//!
//! - Files: [`ownership`] checks which files and directories a program may trust. [`state_dir`]
//!   makes the directory for secrets. [`renewed`] reads changed files again. [`tls_files`] and
//!   [`master_key`] read keys. [`unit_state`] keeps the state of a software crypto unit.
//! - Messages: [`text`] and [`causes`] format text, [`log`] and [`throttle`] write the log,
//!   [`exit`] has the exit statuses.
//! - The process: [`signals`] receives signals, [`service_manager`] notifies systemd.
//!   [`hardening`], [`confinement`] and [`panics`] protect the process. [`names`] looks up users,
//!   groups and hosts. [`sweep`] wipes unused keys in memory. [`in_use`] waits for another process
//!   that is ending.
//! - Shares between users: [`fair`], [`allowance`] and [`long_work`]. Shares of threads: [`shard`].

#![forbid(unsafe_code)]

pub mod allowance;
pub mod causes;
pub mod confinement;
pub mod dig;
pub mod exit;
pub mod fair;
pub mod hardening;
pub mod in_use;
pub mod log;
pub mod long_work;
pub mod master_key;
pub mod names;
pub mod opening;
pub mod ownership;
pub mod panics;
pub mod passphrase;
pub mod program;
pub mod renewed;
pub mod replace;
pub mod service_manager;
pub mod shard;
pub mod signals;
pub mod state_dir;
pub mod sweep;
pub mod text;
pub mod throttle;
pub mod tls_files;
pub mod unit_state;
