//! Makes purges final: after a key was destroyed, the other keys are wrapped by a new shred secret,
//! and the old secret is erased. Also hands out the recovery file.

use core::time::Duration;
use std::time::Instant;

use tokio::time::sleep;

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use crate::daemon::Daemon;
use crate::keys::shred::{Named, Recovery, lists};

/// Makes purges final, now and whenever a key was destroyed. Never returns.
pub(crate) async fn follow_purges(daemon: &Daemon) {
    loop {
        let done = make_final(daemon).await;
        if done.is_ok() {
            daemon.shredding.end();
        }
        let wait = if done.is_ok() { LOOK } else { RETRY };
        daemon.set_not_final(done.err().map(|error| {
            format!(
                "purges are not final: {error}; until they are, purged keys can come back from copies of the key store; the daemon tries again every minute"
            )
        }));
        tokio::select! {
            () = daemon.shredding.is_wanted() => {}
            () = sleep(wait) => {}
        }
    }
}

/// Makes every purge final that was asked for by now. Leaves them if the store is locked: its unit
/// has no master key yet.
async fn make_final(daemon: &Daemon) -> Result<(), Error> {
    while !daemon.keys.is_locked() && daemon.keys.shred().await?.needs_round() {
        daemon.keys.renew_secret().await?;
        daemon.shredding.begin(daemon.keys.count().await?);
        for list in lists() {
            let started = Instant::now();
            let keys = daemon.keys.rewrap_list(list).await?;
            daemon.shredding.advance(keys);
            // Other changes of the store take turns with this one.
            let taken = started.elapsed();
            if taken > SHORT {
                sleep(taken.min(LONGEST_PAUSE)).await;
            }
        }
        let shred = daemon.keys.shred().await?;
        let begun = begin(daemon, Actor::Daemon, Action::EraseSecret, None).await?;
        let others = begun.result(daemon.keys.erase_old_secret().await).await?;
        let others = others.iter().map(ToString::to_string).collect();
        let act = Act::EraseSecret { erased: shred.old, others, in_force: shred.in_force };
        begun.done(act, None).await?;
    }
    Ok(())
}

/// Writes the files of shred secrets again that another program has removed or changed. Returns the
/// reason why the next start would not find a secret.
pub(crate) async fn mend_secrets(daemon: &Daemon) -> Option<String> {
    let mended = daemon.keys.mend_secrets().await;
    for id in mended.iter().flatten() {
        tracing::error!(
            "another program had removed or changed the file of the secret {id} in the directory shred of the state directory: the daemon has written the file again"
        );
    }
    let problem = mended.err().map(|error| error.to_string());
    daemon.set_secrets(problem.as_ref().map(|error| {
        format!("{error}; without the file, the next start fails; the daemon tries again every 10 seconds")
    }));
    problem
}

/// The secrets for a recovery file.
///
/// # Errors
/// [`Error::NoSecret`] before the first key; [`Error::Store`] if the store is locked, or cannot be
/// written.
pub(crate) async fn recovery(daemon: &Daemon, actor: Actor) -> Result<Recovery, Error> {
    let begun = begin(daemon, actor, Action::CopySecret, None).await?;
    let recovery = daemon.keys.recovery().await.map_err(Error::from);
    let recovery = begun.result(recovery.and_then(|recovery| recovery.ok_or(Error::NoSecret))).await?;
    begun.done(Act::CopySecret(&recovery), None).await?;
    Ok(recovery)
}

/// Notes that a recovery file with `secret` is on a disk, and that the file has the secret before
/// too, if `has_old`.
///
/// # Errors
/// [`Error::SecretReplaced`] if the secret is not in force; [`Error::Store`] if the store is
/// locked, or cannot be written.
pub(crate) async fn note_recovery(
    daemon: &Daemon,
    actor: Actor,
    secret: Named,
    has_old: bool,
) -> Result<(), Error> {
    let begun = begin(daemon, actor, Action::NoteRecovery, None).await?;
    let noted = daemon.keys.note_recovery(secret, has_old).await.map_err(Error::from);
    begun.result(noted.and_then(|noted| noted.then_some(()).ok_or(Error::SecretReplaced))).await?;
    begun.done(Act::NoteRecovery { secret, has_old }, None).await
}

/// Longest time between two looks whether a purge is not final.
const LOOK: Duration = Duration::from_secs(10);
/// Time after a failure.
const RETRY: Duration = Duration::from_secs(60);
/// Time for a list of the index after which other changes take their turn.
const SHORT: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
