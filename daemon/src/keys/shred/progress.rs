//! How far the purges are that are being made final.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// State of the purges that are being made final.
#[derive(Debug, Default)]
pub(crate) struct Shredding {
    destroyed: Notify,
    /// Keys that are left to wrap anew, plus one; 0 while none are wrapped.
    left: AtomicU64,
}

impl Shredding {
    /// Has the purges made final, since a key was destroyed.
    pub(crate) fn want(&self) {
        self.destroyed.notify_one();
    }

    /// Waits for [`Self::want`].
    pub(crate) async fn is_wanted(&self) {
        self.destroyed.notified().await;
    }

    /// Begins to wrap some keys anew.
    pub(crate) fn begin(&self, keys: u64) {
        self.left.store(keys.saturating_add(1), Ordering::Relaxed);
    }

    /// Counts keys that are wrapped anew. A key that was made since the beginning is not among
    /// these that are left.
    pub(crate) fn advance(&self, keys: u64) {
        self.begin(self.left().unwrap_or_default().saturating_sub(keys));
    }

    /// Ends the wrapping, when all is done.
    pub(crate) fn end(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Number of keys that are left; `None` while none are wrapped.
    pub(crate) fn left(&self) -> Option<u64> {
        self.left.load(Ordering::Relaxed).checked_sub(1)
    }
}
