//! Acts on the key store as a whole.

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use crate::daemon::Daemon;
use crate::keys::{CopyFile, Repaired};

/// Copies the key store into a file without a name. Returns the file, and the number of keys in it.
///
/// # Errors
/// [`Error::Store`] if the store cannot be read, or there is no space for the copy.
pub(crate) async fn backup(daemon: &Daemon, actor: Actor) -> Result<(CopyFile, u64), Error> {
    let begun = begin(daemon, actor, Action::Backup, None).await?;
    let (file, keys) = begun.result(daemon.keys.copy().await).await?;
    begun.done(Act::Backup { keys }, None).await?;
    Ok((file, keys))
}

/// Rebuilds the altered lists of the index of the key store. Disables the keys of these lists, and
/// removes keys whose records were altered.
///
/// # Errors
/// [`Error::Store`] if the store cannot be read or written.
pub(crate) async fn repair(daemon: &Daemon, actor: Actor) -> Result<Repaired, Error> {
    let begun = begin(daemon, actor, Action::Repair, None).await?;
    let repaired = begun.result(daemon.keys.repair().await).await?;
    daemon.shredding.want();
    begun.done(Act::Repair(&repaired), None).await?;
    Ok(repaired)
}
