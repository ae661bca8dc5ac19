//! The key store on disk.

pub(crate) mod altered;
pub(crate) mod error;
pub(crate) mod index;
pub(crate) mod metadata;
pub(crate) mod redb;
pub(crate) mod room;
pub(crate) mod store_key;
pub(crate) mod witness;
