//! Reasons why a session ends.

use core::time::Duration;
use std::io;

use keyward_proto::frame::FrameError;
use thiserror::Error;

use crate::peers::shared::Shared;
use crate::policy::authorise::Peer;

/// Reason why a session ends before the daemon closes the connection.
#[derive(Debug, Error)]
pub(super) enum SessionEnd {
    /// The peer has closed the connection after its last request.
    #[error("it hung up")]
    Closed,
    /// A peer without a grant has sent nothing for the idle limit.
    #[error("it has no grant, and has sent no request for some time")]
    Idle,
    #[error("its connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] FrameError),
    /// A frame that had begun to arrive was not complete by its deadline.
    #[error("it did not complete a frame in time")]
    Stalled,
    #[error("it hung up in the middle of a frame")]
    Truncated,
    #[error("it did not read its answers for {0:?}")]
    UnreadAnswers(Duration),
}

impl SessionEnd {
    /// Counts and logs the end of a session.
    pub(super) fn record(&self, shared: &Shared, peer: &Peer) {
        let reason = match self {
            Self::Closed => return,
            Self::Idle => {
                shared.daemon.metrics.idle();
                return;
            }
            Self::Io(_) => {
                tracing::debug!(uid = peer.uid, pid = peer.pid, "peer is gone: {self}");
                return;
            }
            Self::Malformed(_) => "malformed",
            Self::Stalled => "stalled",
            Self::Truncated => "truncated",
            Self::UnreadAnswers(_) => "unread-answers",
        };
        shared.daemon.metrics.malformed();
        if let Some(times) = shared.log_limits.malformed.admit(peer, reason) {
            let service = peer.service.as_deref();
            tracing::warn!(
                uid = peer.uid,
                service,
                pid = peer.pid,
                times,
                "closed the connection of a peer: {self}"
            );
        }
    }
}
