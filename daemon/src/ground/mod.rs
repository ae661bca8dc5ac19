//! The ground on which every room stands.
//!
//! [`ownership`] says which files and directories a program may rely on, [`renewed`] reads files
//! again that have changed, [`tls_files`] and [`master_key`] read secrets. [`text`] and [`causes`]
//! make messages, [`exit`] has the statuses of processes. [`hardening`] and [`panics`] close a
//! process off. [`fair`], [`allowance`] and [`long_work`] share time between users.

pub(crate) mod allowance;
pub(crate) mod causes;
pub(crate) mod exit;
pub(crate) mod fair;
pub(crate) mod hardening;
pub(crate) mod long_work;
pub(crate) mod master_key;
pub(crate) mod ownership;
pub(crate) mod panics;
pub(crate) mod renewed;
pub(crate) mod text;
pub(crate) mod tls_files;
