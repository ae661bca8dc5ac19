//! Connections to one unit, one for each thread. A thread reads the answers to its own requests, so
//! no answer has to wake another thread. Threads share a connection only while the unit or the
//! daemon refuses the certificate of the other.

use core::ops::Deref;
use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use tokio::sync::OnceCell;

use super::driver::Connection;

/// Open connection, shared by the requests of a thread.
pub(in crate::backend) struct Shared<C> {
    connection: C,
    /// True after the loss was counted.
    loss_counted: AtomicBool,
}

impl<C: Connection> Shared<C> {
    pub(super) fn new(connection: C) -> Self {
        Self { connection, loss_counted: AtomicBool::new(false) }
    }

    /// True if the connection is closed and the caller is the first to count the loss. A lost
    /// connection fails every request in progress, and counts as one failure of the unit.
    pub(super) fn counts_as_lost(&self) -> bool {
        self.is_closed() && !self.loss_counted.swap(true, Ordering::Relaxed)
    }
}

impl<C> Deref for Shared<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

/// Place of a connection that is open, or that the first request opens.
pub(super) type Slot<C> = Arc<OnceCell<Arc<Shared<C>>>>;

/// Connections to one unit.
pub(super) struct Connections<C>(Mutex<HashMap<ThreadId, Slot<C>>>);

impl<C: Connection> Connections<C> {
    pub(super) fn new() -> Self {
        Self(Mutex::default())
    }

    /// Slot of this thread, emptied if its connection is closed.
    pub(super) fn slot(&self) -> Slot<C> {
        let mut slots = self.lock();
        let slot = slots.entry(thread::current().id()).or_default();
        if slot.get().is_some_and(|connection| connection.is_closed()) {
            *slot = Arc::default();
        }
        Arc::clone(slot)
    }

    /// Connection of this thread, if open.
    pub(super) fn current(&self) -> Option<Arc<Shared<C>>> {
        self.lock().get(&thread::current().id())?.get().cloned()
    }

    /// An open connection of any thread.
    pub(super) fn open_one(&self) -> Option<Arc<Shared<C>>> {
        self.lock().values().filter_map(|slot| slot.get()).find(|one| !one.is_closed()).cloned()
    }

    /// Gives this thread a connection, unless the thread has an open connection.
    pub(super) fn keep(&self, connection: Arc<Shared<C>>) {
        let mut slots = self.lock();
        let slot = slots.entry(thread::current().id()).or_default();
        if slot.get().is_none_or(|old| old.is_closed()) {
            *slot = Arc::new(OnceCell::new_with(Some(connection)));
        }
    }

    /// Removes a connection, so that its thread connects again.
    pub(super) fn forget(&self, connection: &Shared<C>) {
        self.lock()
            .retain(|_, slot| !slot.get().is_some_and(|one| core::ptr::eq(&raw const **one, connection)));
    }

    /// Removes all connections, so that every thread connects again.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ThreadId, Slot<C>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
