//! Watch over one unit: probes while the unit is down, a look while no request goes there, and
//! examinations where a signature did not verify.

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

/// Connection of a probe, and the facts that the probe found.
type Probe<D> = (<D as Driver>::Connection, <D as Driver>::Found);

impl<D: Driver> Unit<D> {
    /// Watches over the unit; never returns. Notifies `first` after the first probe.
    pub(super) async fn watch(self: &Arc<Self>, first: &Notify) {
        match self.probe().await {
            Ok(probe) => self.probe_succeeded(probe),
            Err(failure) => self.report(&failure),
        }
        first.notify_one();
        loop {
            self.look_while_up().await;
            sleep(self.with(|state| state.health.pause())).await;
            let probe = self.probe_until_up().await;
            self.probe_succeeded(probe);
        }
    }

    /// Looks after the unit while requests may go there; returns when the unit is down.
    async fn look_while_up(&self) {
        while !self.is_down() {
            tokio::select! {
                () = self.opened.notified() => {}
                () = sleep(self.settings.keepalive) => {
                    if self.with(|state| state.health.is_idle(self.settings.keepalive, Instant::now())) {
                        self.look().await;
                    }
                }
                // A unit that hangs up may be gone for good, or come back with another master key.
                () = self.hung_up() => {
                    self.look().await;
                    sleep(PROBE).await;
                }
            }
        }
    }

    /// Probes until a probe succeeds. Probes that hang do not keep others from being tried, so the
    /// unit is found healthy soon after it is.
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

    /// Finds out how the unit is now.
    pub(super) async fn look(&self) {
        match self.probe().await {
            Ok(probe) => self.probe_succeeded(probe),
            Err(failure) => {
                if self.with(|state| state.health.failed(true)) {
                    self.is_down_for(&failure);
                }
            }
        }
    }

    async fn probe(&self) -> Result<Probe<D>, Failure> {
        self.in_time(self.driver.probe()).await
    }

    /// Keeps the connection and the facts of a probe: a new master key is noticed by them.
    fn probe_succeeded(&self, (connection, found): Probe<D>) {
        let wkid = connection.wkid();
        self.connected(&connection);
        self.connections.keep(Arc::new(Shared::new(connection)));
        // Before requests are admitted, which need the facts.
        self.driver.learn(found, self.is_down());
        if !self.with(|state| state.health.probe_succeeded(Instant::now())) {
            return;
        }
        self.freed.notify_waiters();
        if let Some(times) = self.log.healthy.admit() {
            let unit = self.driver.address();
            tracing::info!(backend = &*self.backend, unit, %wkid, times, "unit is in order");
        }
    }

    /// Waits until the connection of this thread ends.
    async fn hung_up(&self) {
        match self.connections.current() {
            Some(connection) => connection.closed().await,
            None => core::future::pending().await,
        }
    }

    /// Examines the unit, unless that was done recently: has the unit make a key and sign with it.
    /// If that signature does not verify either, the unit is down; else the key of the request is
    /// damaged.
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
                    "it signs with a new key as it should, so the key is damaged".into()
                }
                Err(failure @ Failure::WrongSignature) => {
                    unit.request_failed(&failure, true, Some(generation));
                    return;
                }
                Err(failure) => format!("whether it or the key is damaged cannot be found out: {failure}"),
            };
            let address = unit.driver.address();
            tracing::warn!(backend = &*unit.backend, unit = address, "a signature did not verify; {found}");
        });
    }
}

/// Time limit of an examination: longer than for a signature, since a key is made and a connection
/// may have to be opened.
const EXAMINATION: Duration = Duration::from_secs(10);
