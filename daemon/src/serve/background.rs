//! Background tasks of the daemon.

use core::time::Duration;
use std::sync::Arc;

use sd_notify::NotifyState;

use crate::daemon::Daemon;
use crate::ground::service_manager::{self, notify};
use crate::ground::sweep;
use crate::keys::{WRITTEN, expiry};
use crate::lifecycle;
use crate::peers::shared::Shared;

/// Starts the background tasks. The tasks run until the runtime ends.
pub(super) fn spawn(peers: &Arc<Shared>) {
    let daemon = &peers.daemon;
    if let Some(unit) = daemon.backends.embedded_unit() {
        drop(tokio::spawn(sweep::sweep(unit)));
    }
    let follower = Arc::clone(daemon);
    drop(tokio::spawn(async move {
        expiry::follow(&follower.metrics.expiries, &follower.keys).await;
    }));
    drop(tokio::spawn(write_pending(Arc::clone(daemon))));
    let deadlines = Arc::clone(daemon);
    drop(tokio::spawn(async move { lifecycle::follow_deadlines(&deadlines).await }));
    let purges = Arc::clone(daemon);
    drop(tokio::spawn(async move { lifecycle::follow_purges(&purges).await }));
    let starts = Arc::clone(daemon);
    drop(tokio::spawn(async move { lifecycle::follow_next_start(&starts).await }));
    if let Some(interval) = service_manager::watchdog_interval() {
        drop(tokio::spawn(watchdog(Arc::clone(peers), interval)));
    }
    let peers = Arc::clone(peers);
    // The drain logs the rest of the withheld lines.
    drop(tokio::spawn(async move { peers.log_limits.log_withheld().await }));
}

/// Tells systemd that the threads that serve peers answer. Never returns.
async fn watchdog(peers: Arc<Shared>, interval: Duration) {
    loop {
        peers.reactors.answered().await;
        notify(&[NotifyState::Watchdog]);
        // As sd_watchdog_enabled(3) recommends.
        tokio::time::sleep(interval / 2).await;
    }
}

/// Writes disabled and deleted states of keys that could not be written before, and the state of
/// the unit and the secrets of the key store if another program has removed them. Tries again every
/// [`WRITE_INTERVAL`]. Never returns.
async fn write_pending(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(WRITE_INTERVAL).await;
        write_pending_now(&daemon).await;
        lifecycle::mend_state(&daemon).await;
        lifecycle::mend_secrets(&daemon).await;
    }
}

/// Writes disabled and deleted states of keys that could not be written before.
pub(super) async fn write_pending_now(daemon: &Daemon) {
    for label in daemon.keys.write_pending().await {
        tracing::info!(key = label.as_str(), "{WRITTEN}");
        // The change may be a destruction.
        daemon.shredding.want();
    }
}

/// Interval between two attempts. The error of the failed change names this interval to the
/// administrator.
const WRITE_INTERVAL: Duration = Duration::from_secs(10);
