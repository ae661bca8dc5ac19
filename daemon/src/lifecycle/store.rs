//! Acts on the key store as a whole.

use std::fs::File;

use super::Error;
use super::event::{Act, Actor, Event};
use crate::daemon::Daemon;
use crate::keys::Repaired;

/// Copies the key store into a file without a name. Returns the file, and the number of keys in it.
///
/// # Errors
/// [`Error::Store`] if the store cannot be read, or there is no space for the copy.
pub(crate) async fn backup(daemon: &Daemon, actor: Actor) -> Result<(File, u64), Error> {
    let (file, keys) = daemon.keys.copy().await?;
    Event { act: Act::Backup { keys }, label: None, version: None, actor }.record(daemon).await;
    Ok((file, keys))
}

/// Rebuilds the altered lists of the index of the key store. Disables the keys of these lists, and
/// removes keys whose records were altered.
///
/// # Errors
/// [`Error::Store`] if the store cannot be read or written.
pub(crate) async fn repair(daemon: &Daemon, actor: Actor) -> Result<Repaired, Error> {
    let repaired = daemon.keys.repair().await?;
    Event { act: Act::Repair(&repaired), label: None, version: None, actor }.record(daemon).await;
    Ok(repaired)
}
