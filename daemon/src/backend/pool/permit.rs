//! Permit of a request to use a unit. The end of the request updates the health and the latency of
//! the unit.

use std::sync::Arc;

use tokio::time::Instant;

use super::connections::Shared;
use super::driver::{Connection, Driver};
use super::failure::Failure;
use super::unit::Unit;

/// Permit of one request to use one unit. Dropping the permit ends the request.
pub(super) struct Permit<D: Driver> {
    pub(super) unit: Arc<Unit<D>>,
    since: Instant,
    generation: u64,
    /// True if the result of the request closes or opens a breaker that is half open.
    decides: bool,
    /// True if the request waits for the full timeout, to learn whether the unit answers at all.
    must_wait: bool,
    /// True after the result of the request was reported.
    reported: bool,
    /// True after the result was counted as a success or a failure of the unit.
    counted: bool,
}

impl<D: Driver> Permit<D> {
    /// Permit for a request that begins `now`; `None` if the limits of the unit are reached.
    pub(super) fn take(unit: &Arc<Unit<D>>, now: Instant, decides: bool) -> Option<Self> {
        let generation = unit.begin(now, decides)?;
        let unit = Arc::clone(unit);
        Some(Self {
            unit,
            since: now,
            generation,
            decides,
            must_wait: false,
            reported: false,
            counted: false,
        })
    }

    /// True if every recent answer of the unit was abandoned for a faster unit: the request must
    /// give this unit the full timeout, to learn whether it answers at all.
    pub(super) fn must_wait(&mut self) -> bool {
        let timeout = self.unit.settings.timeout;
        self.must_wait = self.unit.with(|state| state.health.needs_full_timeout(timeout, Instant::now()));
        self.must_wait
    }

    /// Reports that the unit did the operation of a peer.
    pub(super) fn operation_done(self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.since);
        self.unit.with(|state| state.latency.observe(took, now));
        self.other_work_done();
    }

    /// Reports that the unit did other work, whose time does not count for the latency.
    pub(super) fn other_work_done(mut self) {
        (self.reported, self.counted) = (true, true);
        self.unit.with(|state| state.health.request_succeeded(Instant::now()));
    }

    /// Reports that the unit failed, over this connection if there was one.
    pub(super) fn failed(mut self, failure: &Failure, connection: Option<&Shared<D::Connection>>) {
        self.reported = true;
        match failure {
            // A lost connection fails every request in progress, and counts as one failure. A new
            // connection shows whether the unit is healthy.
            Failure::Unit { severe: false, .. } if connection.is_some_and(|one| one.is_closed()) => {
                if connection.is_some_and(Shared::counts_as_lost) {
                    self.count(failure, false);
                }
            }
            Failure::Unit { severe, .. } => self.count(failure, *severe),
            Failure::Certificate(_) | Failure::NoMasterKey(_) | Failure::Credential(_) => {
                self.count(failure, true);
            }
            Failure::Timeout => {
                self.count(failure, self.must_wait);
                // Perhaps the unit is healthy, and only the connection of this thread is dead.
                self.forget(connection);
                let now = Instant::now();
                let took = now.saturating_duration_since(self.since);
                self.unit.with(|state| state.latency.observe(took, now));
            }
            // Perhaps the unit has another master key since this thread connected.
            Failure::OtherMasterKey(_) => self.forget(connection),
            // Not the fault of the unit. For a wrong signature, the next attempt shows whether the
            // unit or the key is at fault.
            Failure::Busy(_)
            | Failure::DeadlinePassed
            | Failure::NotOffered(_)
            | Failure::Refused { .. }
            | Failure::WrongSignature => {}
        }
    }

    fn count(&mut self, failure: &Failure, severe: bool) {
        self.unit.request_failed(failure, severe, Some(self.generation));
        self.counted = true;
    }

    fn forget(&self, connection: Option<&Shared<D::Connection>>) {
        if let Some(connection) = connection {
            self.unit.connections.forget(connection);
        }
    }
}

impl<D: Driver> Drop for Permit<D> {
    fn drop(&mut self) {
        let now = Instant::now();
        self.unit.with(|state| {
            state.in_flight = state.in_flight.saturating_sub(1);
            if !self.counted {
                if self.decides {
                    state.health.request_decided_nothing();
                }
                // The call would have taken at least as long as the request waited.
                let took = now.saturating_duration_since(self.since);
                if took.as_secs_f64() > state.latency.cost(0, now) {
                    state.latency.observe(took, now);
                }
            }
            if !self.reported {
                state.health.request_abandoned(self.since);
            }
        });
        self.unit.freed.notify_waiters();
    }
}
