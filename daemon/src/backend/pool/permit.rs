//! A request's place at a unit, and what its end says of that.

use std::sync::Arc;
use std::time::Instant;

use super::failure::Failure;
use super::unit::Unit;
use crate::backend::grep11::connection::Connection;

/// A request's place at a unit, which it leaves when this is dropped.
pub(in crate::backend) struct Seat {
    pub(in crate::backend) unit: Arc<Unit>,
    begin: Instant,
    epoch: u64,
    /// Whether it tries out a unit that is half open.
    trial: bool,
    /// Whether the request is to find out if the unit answers at all.
    doubt: bool,
    /// Whether it was told how the request ended.
    told: bool,
    /// Whether that counts for the unit or against it.
    settled: bool,
}

impl Seat {
    /// A place that was taken `now`, in the epoch of the unit.
    pub(in crate::backend) fn new(unit: &Arc<Unit>, epoch: u64, trial: bool, now: Instant) -> Self {
        let unit = Arc::clone(unit);
        Self { unit, begin: now, epoch, trial, doubt: false, told: false, settled: false }
    }

    /// Whether the unit must be given its time now: so long nobody has waited for its answers, since others were faster,
    /// that it may give none at all.
    pub(in crate::backend) fn is_to_find_out(&mut self) -> bool {
        let (unit, now) = (&self.unit, Instant::now());
        self.doubt = unit.with(|state| {
            let long = |since| now.saturating_duration_since(since) >= unit.timeout;
            let doubt = state.unanswered.is_some_and(long);
            if doubt {
                // One request at a time is enough.
                state.unanswered = Some(now);
            }
            doubt
        });
        self.doubt
    }

    /// The unit signed.
    pub(in crate::backend) fn signed(self) {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.begin);
        self.unit.with(|state| state.latency.observe(took, now));
        self.succeeded();
    }

    /// The unit did what it was asked, which takes longer than to sign, or not so long.
    pub(in crate::backend) fn succeeded(mut self) {
        (self.told, self.settled) = (true, true);
        self.unit.with(|state| {
            state.breaker.succeeded();
            state.relapses = 0;
            state.unanswered = None;
            state.succeeded = Some(Instant::now());
        });
    }

    /// The unit did not. `connection` is the one that it was asked over.
    pub(in crate::backend) fn failed(mut self, failure: &Failure, connection: Option<&Connection>) {
        self.told = true;
        let (unit, epoch) = (&self.unit, Some(self.epoch));
        match failure {
            // A connection that breaks takes everything along that is under way; it counts once. A new one will tell.
            Failure::Unit { severe: false, .. } if connection.is_some_and(Connection::is_closed) => {
                if connection.is_some_and(Connection::mourn) {
                    unit.failed(failure, false, epoch);
                    self.settled = true;
                }
            }
            Failure::Unit { severe, .. } => {
                unit.failed(failure, *severe, epoch);
                self.settled = true;
            }
            Failure::Certificate(_) | Failure::NoMasterKey(_) | Failure::Token(_) => {
                unit.failed(failure, true, epoch);
                self.settled = true;
            }
            Failure::Late => {
                unit.failed(failure, self.doubt, epoch);
                self.settled = true;
                // It may be the connection that is dead, for this thread alone.
                if let Some(connection) = connection {
                    unit.forget(connection);
                }
                let now = Instant::now();
                unit.with(|state| state.latency.observe(now.saturating_duration_since(self.begin), now));
            }
            // It may have another one since this thread connected.
            Failure::OtherMasterKey(_) => {
                if let Some(connection) = connection {
                    unit.forget(connection);
                }
            }
            // Whose fault a wrong signature is the next attempt will tell; and a peer in a hurry is not the unit's.
            Failure::Busy(_)
            | Failure::Hurried
            | Failure::NotOffered(_)
            | Failure::Refused { .. }
            | Failure::WrongSignature => {}
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = Instant::now();
        self.unit.with(|state| {
            state.in_flight = state.in_flight.saturating_sub(1);
            if !self.settled {
                if self.trial {
                    state.breaker.leave();
                }
                // Given up by whoever asked: it took at least so long.
                let took = now.saturating_duration_since(self.begin);
                if took.as_secs_f64() > state.latency.cost(0, now) {
                    state.latency.observe(took, now);
                }
            }
            if !self.told {
                // Another unit was faster, as it happens.
                state.unanswered.get_or_insert(self.begin);
            }
        });
        self.unit.freed.notify_waiters();
    }
}
