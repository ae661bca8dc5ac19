//! Watches one unit: probes the unit while it is down or idle, and examines the unit after a
//! signature that did not verify.

use core::time::Duration;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::connections::Shared;
use super::driver::{Connection, Driver};
use super::failure::Failure;
use super::health::PROBE;
use super::unit::Unit;

/// Connection and additional result of a probe.
type Probe<D> = (<D as Driver>::Connection, <D as Driver>::Found);

impl<D: Driver> Unit<D> {
    /// Watches the unit; never returns. Notifies `first` after the first probe.
    pub(super) async fn watch(self: &Arc<Self>, first: &Notify) {
        match self.probe().await {
            Ok(probe) => self.probe_succeeded(probe),
            Err(failure) => self.report(&failure),
        }
        first.notify_one();
        loop {
            self.watch_while_up().await;
            sleep(self.with(|state| state.health.pause())).await;
            let probe = self.probe_until_up().await;
            self.probe_succeeded(probe);
        }
    }

    /// Probes the unit when it is idle or closes a connection; returns when the unit is down.
    async fn watch_while_up(&self) {
        while !self.is_down() {
            tokio::select! {
                () = self.opened.notified() => {}
                () = sleep(self.settings.keepalive) => {
                    if self.with(|state| state.health.is_idle(self.settings.keepalive, Instant::now())) {
                        self.probe_once().await;
                    }
                }
                // A unit that closes a connection may be down, or return with another master key.
                () = self.connection_closed() => {
                    self.probe_once().await;
                    sleep(PROBE).await;
                }
            }
        }
    }

    /// Probes until a probe succeeds. A new probe starts while earlier probes get no answer, so the
    /// recovery of the unit is noticed within [`PROBE`].
    async fn probe_until_up(self: &Arc<Self>) -> Probe<D> {
        let mut probes = JoinSet::new();
        loop {
            let unit = Arc::clone(self);
            probes.spawn(async move { unit.probe().await });
            let pause = sleep(PROBE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(probed) = probes.join_next() => match probed {
                        Ok(Ok(probe)) => return probe,
                        Ok(Err(failure)) => self.report(&failure),
                        Err(_) => {}
                    },
                }
            }
        }
    }

    /// Probes the unit now. A failure opens the breaker, except for a refused certificate while
    /// another connection is open.
    pub(super) async fn probe_once(&self) {
        let probed = match self.probe().await {
            Err(refused @ Failure::Certificate(_)) => {
                let Err(refused) = self.connection_of_another_thread(refused) else { return };
                Err(refused)
            }
            probed => probed,
        };
        match probed {
            Ok(probe) => self.probe_succeeded(probe),
            Err(failure) => {
                if self.with(|state| state.health.failed(true)) {
                    self.went_down(&failure);
                }
            }
        }
    }

    async fn probe(&self) -> Result<Probe<D>, Failure> {
        self.in_time(self.driver.probe()).await
    }

    /// Keeps the connection and the result of a probe. The connection shows the master key.
    fn probe_succeeded(&self, (connection, found): Probe<D>) {
        let wkid = connection.wkid();
        self.connected(&connection);
        self.connections.keep(Arc::new(Shared::new(connection)));
        // Before requests are admitted, because requests need the result.
        self.driver.learn(found, self.is_down());
        if !self.with(|state| state.health.probe_succeeded(Instant::now())) {
            return;
        }
        self.freed.notify_waiters();
        if let Some(times) = self.log.healthy.admit() {
            let unit = self.driver.address();
            tracing::info!(backend = &*self.backend, unit, %wkid, times, "unit is healthy");
        }
    }

    /// Waits until the connection of this thread is closed.
    async fn connection_closed(&self) {
        match self.connections.current() {
            Some(connection) => connection.closed().await,
            None => core::future::pending().await,
        }
    }

    /// Examines the unit, unless the last examination was recent. The unit makes a key and signs
    /// with the key. If this signature does not verify either, the unit goes down. If it verifies,
    /// the key of the request is damaged.
    pub(super) fn examine(self: &Arc<Self>) {
        let Some(generation) = self.with(|state| state.health.examination_begins(Instant::now())) else {
            return;
        };
        // In a task: the request has its answer already.
        let unit = Arc::clone(self);
        tokio::spawn(async move {
            let examined = tokio::time::timeout(EXAMINATION, async {
                let connection = unit.connection().await?;
                unit.driver.examine(&connection).await
            });
            let found = match examined.await.unwrap_or(Err(Failure::Timeout)) {
                Ok(()) => {
                    unit.with(|state| state.health.examination_passed(Instant::now()));
                    "the unit signs correctly with a new key, so the key of the request is damaged".into()
                }
                Err(failure @ Failure::WrongSignature) => {
                    unit.request_failed(&failure, true, Some(generation));
                    return;
                }
                Err(failure) => format!("cannot find out whether the unit or the key is at fault: {failure}"),
            };
            let address = unit.driver.address();
            tracing::warn!(backend = &*unit.backend, unit = address, "a signature did not verify; {found}");
        });
    }
}

/// Time limit of an examination. It is longer than for a signature, since the unit makes a key, and
/// a connection may have to be opened.
const EXAMINATION: Duration = Duration::from_secs(10);
