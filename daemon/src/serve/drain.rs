//! Drain: the daemon answers the received requests before it stops.

use core::time::Duration;

use tokio_util::sync::CancellationToken;

use super::accept::Tasks;
use crate::lifecycle;
use crate::peers::shared::Shared;

/// Answers the received requests, and accepts no further connection.
pub(super) async fn drain(peers: &Shared, tasks: &Tasks, stop: &CancellationToken) {
    let daemon = &peers.daemon;
    let drain_timeout = daemon.config().drain_timeout;
    stop.cancel();
    tasks.peers.close();
    tasks.administrators.close();
    let answered = tokio::time::timeout(drain_timeout, tasks.peers.wait()).await;
    // New peers wait meanwhile, and a backup by an administrator may take minutes. So these
    // requests get less time. The client of an unfinished request gets an error, and the store has
    // either the whole change or nothing of the change.
    let for_administrators = drain_timeout.min(MAX_FOR_ADMINISTRATORS);
    let administrators = tokio::time::timeout(for_administrators, tasks.administrators.wait()).await;
    daemon.keys.write_pending().await;
    lifecycle::mend_state(daemon).await;
    // A request without an answer may still become a use.
    daemon.keys.save_usage(answered.is_ok()).await;
    for label in daemon.keys.pending() {
        tracing::error!(
            key = label.as_str(),
            "cannot write to the key store that the key is disabled or deleted: the next start reverts the change"
        );
    }
    peers.log_limits.log_all_withheld();
    if administrators.is_err() {
        tracing::warn!("gave up requests of administrators; their clients got an error");
    }
    match answered {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("stopped with unanswered requests after {drain_timeout:?}"),
    }
}

/// Maximum time for the requests of administrators, after the end of the requests of peers.
const MAX_FOR_ADMINISTRATORS: Duration = Duration::from_secs(1);
