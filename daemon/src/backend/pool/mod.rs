//! Pool of equal units. The pool selects a unit for each request, limits the requests of each unit,
//! and tries another unit if a unit fails.
//!
//! The pool does not know the protocol of the units. A backend implements [`Driver`] for access to
//! one unit, [`Connection`] for an open connection, and [`Operation`] for the work of a request.
//!
//! [`Pool::call`] does an operation for a peer. [`mod@call`] takes a [`Permit`] for the unit with
//! the least expected latency. It tries again, or asks a second unit, until the deadline of the
//! peer. Requests wait in a fair [`queue`]. [`mod@unit`] decides whether a unit may be asked, by
//! its [`health`], [`pace`] and [`latency`]. [`watch`] probes units that are down or idle.

mod call;
mod connections;
mod driver;
mod failure;
mod health;
mod latency;
mod pace;
mod permit;
mod queue;
#[cfg(test)]
mod tests;
mod unit;
mod watch;

use core::num::NonZeroU32;
use core::time::Duration;
use std::sync::{Arc, Mutex};

use keyward_unit::Wkid;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ground::fair::User;
use latency::Percentile95;
use permit::Permit;
use queue::Queue;
use unit::Offer;

pub(super) use connections::Shared;
pub(super) use driver::{Connection, Driver, Operation};
pub(super) use failure::{Failure, Refusal};
pub(super) use unit::Unit;

/// Settings of a pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// Maximum number of calls in progress at one unit.
    pub(super) in_flight: usize,
    /// Maximum number of calls of one unit per second; `None` for no limit.
    pub(super) rate: Option<NonZeroU32>,
    /// Maximum number of waiting requests that need the same master keys.
    pub(super) queue: usize,
    /// True if a second unit is asked when the first takes longer than 95 of 100 calls.
    pub(super) hedge: bool,
    /// Time limit of connecting.
    pub(super) connect_timeout: Duration,
    /// Time limit of a call.
    pub(super) timeout: Duration,
    /// Time without a success after which a unit is probed.
    pub(super) keepalive: Duration,
}

/// Units, and the requests that wait for them. Shared between threads.
pub(super) struct Pool<D: Driver> {
    name: Arc<str>,
    units: Vec<Arc<Unit<D>>>,
    settings: Settings,
    queue: Queue,
    freed: Arc<Notify>,
    p95: Mutex<Percentile95>,
}

/// Reason why a request gets no permit.
#[derive(Debug, Eq, PartialEq)]
enum NoPermit {
    /// The deadline passed.
    Late,
    /// No unit is healthy.
    Down,
    /// No healthy unit has the master key of the key.
    OtherMasterKey,
    /// Too many requests wait.
    Overloaded,
}

/// Units that a request has tried, one bit each.
#[derive(Clone, Copy, Debug, Default)]
struct Tried(u64);

impl Tried {
    fn add(&mut self, number: usize) {
        self.0 |= 1 << (number % 64);
    }

    fn has(self, number: usize) -> bool {
        self.0 & 1 << (number % 64) != 0
    }
}

/// Request for a permit.
#[derive(Clone, Copy)]
struct PermitRequest<'a> {
    /// Master keys, of which the unit must have one. An empty list stands for any master key.
    wkids: &'a [Wkid],
    deadline: Instant,
    user: User,
    /// True if the result of the request closes or opens a breaker that is half open.
    decides: bool,
}

impl<D: Driver> Pool<D> {
    /// Pool of a backend. No unit is connected before [`Self::start`].
    pub(super) fn new(name: Arc<str>, drivers: impl IntoIterator<Item = D>, settings: Settings) -> Self {
        let freed = Arc::new(Notify::new());
        let unit = |driver| Arc::new(Unit::new(Arc::clone(&name), driver, settings, Arc::clone(&freed)));
        let units = drivers.into_iter().map(unit).collect();
        let p95 = Mutex::new(Percentile95::new());
        Self { name, units, settings, queue: Queue::new(settings.queue), freed, p95 }
    }

    /// Starts to watch the units, in tasks of this thread, and waits for the first probe of each
    /// unit.
    pub(super) async fn start(&self) {
        let watch = |unit: &Arc<Unit<D>>| {
            let (unit, first) = (Arc::clone(unit), Arc::new(Notify::new()));
            let probed = Arc::clone(&first);
            tokio::spawn(async move { unit.watch(&first).await });
            probed
        };
        for probed in self.units.iter().map(watch).collect::<Vec<_>>() {
            probed.notified().await;
        }
    }

    /// Probes each unit now.
    pub(super) async fn probe(&self) {
        let mut probes = JoinSet::new();
        for unit in &self.units {
            let unit = Arc::clone(unit);
            probes.spawn(async move { unit.probe_once().await });
        }
        probes.join_all().await;
    }

    /// Units, in the order of the configuration.
    pub(super) fn units(&self) -> &[Arc<Unit<D>>] {
        &self.units
    }

    /// Number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Waits for a permit for the unit with the least expected latency. Units that were tried
    /// already are taken only if no other unit is healthy.
    async fn permit(&self, request: PermitRequest<'_>, tried: Tried) -> Result<Permit<D>, NoPermit> {
        // A request that has waited before does not join the end of the queue again.
        if tried.0 != 0 || !self.queue.has_line(request.wkids) {
            match self.choose(request, tried) {
                Choice::Permit(permit) => return Ok(permit),
                Choice::None(why) => return Err(why),
                Choice::Later(_) => {}
            }
        }
        let ticket = self.queue.join(request.wkids);
        let _head = match tried.0 {
            0 => {
                let head = tokio::time::timeout_at(request.deadline, ticket.head(request.user)).await;
                Some(head.map_err(|_| NoPermit::Late)?.map_err(|_| NoPermit::Overloaded)?)
            }
            // The request waits for a unit that it has not tried, so other requests need not wait
            // for this request.
            _ => None,
        };
        loop {
            // Created before the choice, so that the end of a call after the choice is noticed.
            let freed = self.freed.notified();
            match self.choose(request, tried) {
                Choice::Permit(permit) => return Ok(permit),
                Choice::None(why) => return Err(why),
                Choice::Later(at) => {
                    let until = at.map_or(request.deadline, |at| at.min(request.deadline));
                    tokio::select! {
                        () = freed => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
            }
            if Instant::now() >= request.deadline {
                return Err(NoPermit::Late);
            }
        }
    }

    /// Permit for a unit that was not tried yet, if one is free now.
    fn permit_now(&self, wkids: &[Wkid], tried: Tried) -> Option<Permit<D>> {
        let now = Instant::now();
        match self.best(|number| !tried.has(number), wkids, now) {
            Best::Free(number) => Permit::take(&self.units[number], now, true),
            _ => None,
        }
    }

    fn number(&self, unit: &Arc<Unit<D>>) -> usize {
        self.units.iter().position(|one| Arc::ptr_eq(one, unit)).unwrap_or_default()
    }

    fn choose(&self, request: PermitRequest<'_>, tried: Tried) -> Choice<D> {
        loop {
            let now = Instant::now();
            let best = match self.best(|number| !tried.has(number), request.wkids, now) {
                // A unit that was tried is better than none.
                Best::None(_) if tried.0 != 0 => self.best(|_| true, request.wkids, now),
                best => best,
            };
            match best {
                Best::Free(number) => {
                    // Another request may have been faster: then choose again.
                    if let Some(permit) = Permit::take(&self.units[number], now, request.decides) {
                        return Choice::Permit(permit);
                    }
                }
                Best::Busy(at) => return Choice::Later(at),
                Best::None(why) => return Choice::None(why),
            }
        }
    }

    /// Best unit among the units that are `eligible` by number.
    fn best(&self, eligible: impl Fn(usize) -> bool, wkids: &[Wkid], now: Instant) -> Best {
        let (mut free, mut busy, mut next, mut other_master_key) = (None, false, None, false);
        for (number, unit) in self.units.iter().enumerate().filter(|(number, _)| eligible(*number)) {
            match unit.offer(wkids, now) {
                Offer::Free(cost) => {
                    if free.is_none_or(|(_, least)| cost < least) {
                        free = Some((number, cost));
                    }
                }
                Offer::Busy(at) => {
                    busy = true;
                    next = next.into_iter().chain(at).min();
                }
                Offer::OtherMasterKey => other_master_key = true,
                Offer::Down => {}
            }
        }
        match free {
            Some((number, _)) => Best::Free(number),
            None if busy => Best::Busy(next),
            None if other_master_key => Best::None(NoPermit::OtherMasterKey),
            None => Best::None(NoPermit::Down),
        }
    }
}

/// Result of choosing a unit for a request.
enum Choice<D: Driver> {
    Permit(Permit<D>),
    /// Units are busy until another request ends, or until this time.
    Later(Option<Instant>),
    None(NoPermit),
}

/// Best unit for a request, by number.
enum Best {
    Free(usize),
    /// Units are busy until another request ends, or until this time.
    Busy(Option<Instant>),
    None(NoPermit),
}
