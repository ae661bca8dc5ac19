//! The look at every key after a start: altered records, and keys of other master keys.
//!
//! The daemon waits for the result, but not for long: with very many keys it serves meanwhile. Each
//! record is authenticated again when it is read, so nothing is served that the look would refuse.

use core::time::Duration;
use std::sync::Arc;

use keyward_unit::Wkid;

use crate::config::EMBEDDED;
use crate::daemon::Daemon;
use crate::keys::StoreError;
use crate::lifecycle;

/// Looks at every key, and logs the problems. Goes on in the background after [`PATIENCE`].
pub(super) async fn survey(daemon: &Arc<Daemon>) {
    daemon.set_surveyed(false);
    let looking = tokio::spawn(look_at_all(Arc::clone(daemon)));
    match tokio::time::timeout(PATIENCE, looking).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!("the records of the key store cannot be checked: {error}"),
        Err(_) => {
            tracing::info!("the records of the key store are being checked; the daemon serves meanwhile");
        }
    }
}

async fn look_at_all(daemon: Arc<Daemon>) {
    // A store that is locked is checked when it is unlocked.
    if daemon.keys.is_locked() {
        return;
    }
    while let Err(error) = look(&daemon).await {
        tracing::error!("the records of the key store cannot be checked: {error}");
        tokio::time::sleep(RETRY).await;
    }
    daemon.set_surveyed(true);
}

async fn look(daemon: &Daemon) -> Result<(), StoreError> {
    if let Some((problem, advice)) = daemon.keys.check().await?.problem() {
        tracing::error!("{problem}; {advice}");
    }
    let Some(wkids) = wkids(daemon) else { return Ok(()) };
    let left = lifecycle::left_behind(&daemon.keys.left_behind(wkids.clone()).await?);
    // After a change of the master key, the change has looked at the keys.
    if self::wkids(daemon).is_some_and(|now| now == wkids) {
        if let Some(problem) = &left {
            tracing::error!("{problem}");
        }
        daemon.set_unusable_keys(left);
    }
    Ok(())
}

/// The master keys of the embedded unit; `None` without a unit that can be used.
fn wkids(daemon: &Daemon) -> Option<Vec<Wkid>> {
    let unit = daemon.backends.get(EMBEDDED)?.embedded_unit()?.ok()?;
    Some([unit.wkid(), unit.other_wkid()].into_iter().flatten().collect())
}

/// Time after a failure.
const RETRY: Duration = Duration::from_secs(60);
/// Longest time that a start waits: some 100,000 keys can be looked at.
const PATIENCE: Duration = Duration::from_millis(500);
