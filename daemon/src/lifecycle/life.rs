//! The life of a key: compromise, deletion, restoration and destruction.

use std::sync::Arc;

use keyward_proto::Label;

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use crate::backend::Embedded;
use crate::daemon::Daemon;
use crate::keys::{Effect, Key, StoreError, Verb, now};

/// A request to delete a key.
#[derive(Debug, Default)]
pub(crate) struct Delete {
    /// Waiting period in seconds; none stands for [`DEFAULT_WAIT`].
    pub(crate) wait: Option<u64>,
    /// True if the key is deleted even though a peer has used it lately.
    pub(crate) force: bool,
}

/// Keeps a key from signing for ever. Every standing of a key admits this.
///
/// # Errors
/// [`Error::Store`] if there is no such key, or the store cannot be written.
pub(crate) async fn compromise(daemon: &Daemon, actor: Actor, label: &Label) -> Result<Arc<Key>, Error> {
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, Action::Compromise, Some(label)).await?;
    let key = begun.result(stop(daemon, label, Verb::Compromise).await).await?;
    begun.done(Act::Compromise(&key), None).await?;
    Ok(key)
}

/// Carries out a verb that stops a key. While the unit is sealed and the key store is locked, the
/// key is stopped in memory only, and the result is unverified: who must stop a key must be able
/// to.
pub(super) async fn stop(daemon: &Daemon, label: &Label, verb: Verb) -> Result<Arc<Key>, Error> {
    let stopped = daemon.keys.update(label, |key| carry_out(key, verb)).await;
    let has_owners = daemon.backends.embedded().is_some_and(Embedded::is_of_owners);
    // A unit without owners gets its master key at a restart, which would lose the change.
    if !has_owners || !matches!(stopped, Err(Error::Store(StoreError::Locked(_)))) {
        return stopped.map(|(key, _)| key);
    }
    daemon.keys.stop_unverified(label, move |key| carry_out(key, verb).map(drop)).await
}

/// Deletes a key, which signs no more from now on, and is destroyed after the waiting period.
/// Records only the request if the key needs a second user. A key whose record was altered is
/// destroyed at once, because nothing in the record can be trusted: the result is none then.
///
/// # Errors
/// [`Error`] says why the key is not deleted.
pub(crate) async fn delete(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    request: Delete,
) -> Result<Option<Arc<Key>>, Error> {
    let wait = request.wait.unwrap_or(DEFAULT_WAIT);
    if wait < MIN_WAIT {
        return Err(Error::ShortWait(label.clone()));
    }
    if wait > MAX_WAIT {
        return Err(Error::LongWait(label.clone()));
    }
    let verb = Verb::Delete { by: actor.uid(), wait };
    let apply = |key: &mut Key| {
        let effect = carry_out(key, verb)?;
        if effect == Effect::Done && !request.force {
            refuse_lately_used(daemon, key, request.wait)?;
        }
        Ok(effect)
    };
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, Action::Delete, Some(label)).await?;
    let deleted = daemon.keys.update(label, apply).await;
    if let Err(Error::Store(StoreError::Altered(_) | StoreError::Unlisted(_))) = deleted {
        begun.result(daemon.keys.delete(label).await).await?;
        daemon.shredding.want();
        begun.done(Act::Destroy, None).await?;
        return Ok(None);
    }
    let (key, effect) = begun.result(deleted).await?;
    let act = if effect == Effect::Approved { Act::ApproveDeletion(&key) } else { Act::Delete(&key) };
    begun.done(act, None).await?;
    Ok(Some(key))
}

/// Undoes the deletion of a key, which is as it was before; or withdraws the request of the first
/// of two users.
///
/// # Errors
/// [`Error::NotDeleted`] if there is nothing to undo.
pub(crate) async fn restore(daemon: &Daemon, actor: Actor, label: &Label) -> Result<Arc<Key>, Error> {
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, Action::Restore, Some(label)).await?;
    let restored = daemon.keys.update(label, |key| carry_out(key, Verb::Restore)).await;
    let (key, effect) = begun.result(restored).await?;
    let act = if effect == Effect::Withdrawn { Act::WithdrawDeletion } else { Act::Restore(&key) };
    begun.done(act, None).await?;
    Ok(key)
}

/// Destroys a deleted key before its waiting period ends. The key can come back from copies of the
/// key store until [`follow_purges`](super::follow_purges) has made the purge final.
///
/// # Errors
/// [`Error::NotDeletedYet`] if the key is not deleted.
pub(crate) async fn purge(daemon: &Daemon, actor: Actor, label: &Label) -> Result<(), Error> {
    let check = |key: &Key| key.admits(Verb::Purge).map_err(|_| Error::NotDeletedYet(key.label.clone()));
    refuse_unknown(daemon, label).await?;
    let begun = begin(daemon, actor, Action::Purge, Some(label)).await?;
    begun.result(daemon.keys.destroy(label, check).await).await?;
    daemon.shredding.want();
    begun.done(Act::Purge, None).await
}

/// Destroys a key whose waiting period has ended.
///
/// # Errors
/// [`StoreError::Changed`] if the waiting period has not ended.
pub(super) async fn destroy_overdue(daemon: &Daemon, label: &Label) -> Result<(), Error> {
    let now = now();
    let check = move |key: &Key| match key.life.deletion {
        Some(deletion) if deletion.destroy_at <= now => Ok(()),
        _ => Err(Error::Store(StoreError::Changed(key.label.clone()))),
    };
    let begun = begin(daemon, Actor::Daemon, Action::Destroy, Some(label)).await?;
    begun.result(daemon.keys.destroy(label, check).await).await?;
    daemon.shredding.want();
    begun.done(Act::Destroy, None).await
}

/// Carries a verb out, now.
pub(super) fn carry_out(key: &mut Key, verb: Verb) -> Result<Effect, Error> {
    key.apply(verb, now()).map_err(|reason| Error::inadmissible(key, reason))
}

/// Refuses a label without a key before a record is written: records of such acts would fill the
/// audit trail. A key whose record was altered is no such label.
pub(super) async fn refuse_unknown(daemon: &Daemon, label: &Label) -> Result<(), Error> {
    match daemon.keys.look(label).await {
        Ok(None) => Err(StoreError::Unknown(label.clone()).into()),
        // The act itself fails, or gets by without the record of the key.
        Ok(Some(_)) | Err(_) => Ok(()),
    }
}

/// Refuses a verb that the key does not admit, before a unit spends time on it.
pub(super) fn check(key: &Key, verb: Verb) -> Result<(), Error> {
    key.admits(verb).map_err(|reason| Error::inadmissible(key, reason))
}

/// Refuses a key that a peer has used within [`LATELY`], and a key of which this is not known.
/// `wait` is the waiting period that the actor has asked for.
fn refuse_lately_used(daemon: &Daemon, key: &Key, wait: Option<u64>) -> Result<(), Error> {
    let (usage, now, label) = (daemon.keys.usage(), now(), key.label.clone());
    // A clock that was set back makes a use of the future, which counts as a use of this moment.
    let is_late = |time| now.saturating_sub(time) < LATELY;
    let since = usage.since(label.as_str());
    match usage.of_key(label.as_str()).into_iter().next() {
        Some(peer) if is_late(peer.last) => {
            let ago = now.saturating_sub(peer.last);
            Err(Error::InUse { label, peer, ago, wait })
        }
        // A key that was made since cannot have been used before.
        _ if is_late(since) && key.created() < since => Err(Error::UseNotKnown { label, since, wait }),
        _ => Ok(()),
    }
}

/// Waiting period of a deletion without another one, in seconds.
pub(crate) const DEFAULT_WAIT: u64 = 30 * 86_400;
/// Shortest waiting period, in seconds.
pub(crate) const MIN_WAIT: u64 = 3600;
/// Longest waiting period, in seconds: 10 years as `--after 10y` counts them.
const MAX_WAIT: u64 = 10 * 31_557_600;
/// Time in which a used key is not deleted, in seconds.
const LATELY: u64 = 3600;
