//! The key store in one file of redb.

pub(crate) mod file;
pub(crate) mod look;
pub(crate) mod tables;
