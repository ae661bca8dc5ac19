//! Audit trail: who used which key, and who did what to it.
//!
//! A trail is a directory of files with one record on each line, in JSON. Each record has the hash
//! of the record before it, and a key in a crypto unit signs the newest hash at intervals. So a
//! record that is missing, changed, inserted or out of order is found, up to the last signature.
//!
//! - [`Trail`] takes records and has a thread of its own write them.
//! - [`Reader`] reads them again, compressed or not.
//! - [`verify()`] checks a directory with the public key alone.
//!
//! Root can stop a trail, or have the unit sign another one. A copy of the file `head` elsewhere
//! shows whether the records up to that copy were changed: see [`verify()`].

#![forbid(unsafe_code)]

mod acts;
mod checkpoint;
mod compression;
mod copy;
mod disk;
mod files;
mod filter;
mod hash;
mod housekeeper;
mod line;
mod policy;
mod read;
mod reading;
mod record;
mod refusals;
mod removals;
mod reserve;
mod retention;
mod shards;
mod signing;
mod space;
mod status;
mod summaries;
mod surroundings;
mod trail;
mod use_line;
mod verify;
mod writer;

#[cfg(test)]
mod tests;

pub use checkpoint::{AuditKey, Checkpoint, NoAuditKey, Signer};
pub use copy::Copy;
pub use files::{TrailError, files};
pub use filter::{Filter, Party, Record, time_text};
pub use hash::Hash;
pub use policy::{Policy, Signatures};
pub use read::{Line, Reader};
pub use record::{Act, Actor, KeyUse, Name, Peer, Phase};
pub use signing::Signing;
pub use status::{Extent, Status, Summed};
pub use trail::{Settings, Trail, Unwritten};
pub use verify::{Fault, Head, Place, Report, verify};
