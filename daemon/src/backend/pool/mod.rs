//! Pool of equal units: which unit a request goes to, how many requests at a time, and another
//! attempt where a unit fails.
//!
//! The pool knows nothing of the protocol of the units: a backend implements [`Driver`] for the way
//! to one unit, [`Connection`] for an open connection, and [`Operation`] for the work of a request.
//! [`Pool::call`] does an operation for a peer: [`mod@call`] takes a [`Permit`] for the unit that
//! will be done first, and retries, or asks a second unit, as long as the peer waits. Requests wait
//! in a fair [`queue`]. [`mod@unit`] knows whether a unit may be asked ([`health`], [`pace`],
//! [`latency`]); [`watch`] probes the units that may not.

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
    /// Most calls of a unit at a time.
    pub(super) in_flight: usize,
    /// Most calls of a unit in a second.
    pub(super) rate: Option<NonZeroU32>,
    /// Most requests that wait for units with one choice of master keys.
    pub(super) queue: usize,
    /// Whether a second unit is asked if the first takes longer than 95 of 100 calls.
    pub(super) hedge: bool,
    /// Time limit of connecting.
    pub(super) connect_timeout: Duration,
    /// Time limit of a call.
    pub(super) timeout: Duration,
    /// Time without a success after which the unit is probed.
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

/// Units that a request was at, a bit each.
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

/// Needs of a request for a permit.
#[derive(Clone, Copy)]
struct Wish<'a> {
    /// Master keys, of which the unit must have one; none stands for any.
    wkids: &'a [Wkid],
    deadline: Instant,
    user: User,
    /// Whether the request decides the health of a unit that is half open.
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

    /// Begins to watch over the units, in tasks of this thread, and waits for the first probe of
    /// each.
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

    /// Finds out how each unit is now.
    pub(super) async fn look(&self) {
        let mut looks = JoinSet::new();
        for unit in &self.units {
            let unit = Arc::clone(unit);
            looks.spawn(async move { unit.look().await });
        }
        looks.join_all().await;
    }

    /// Units, in the order of the configuration.
    pub(super) fn units(&self) -> &[Arc<Unit<D>>] {
        &self.units
    }

    /// Number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Permit for the unit that will be done first, among the units not tried yet if there are any.
    async fn permit(&self, wish: Wish<'_>, tried: Tried) -> Result<Permit<D>, NoPermit> {
        // A request that has waited before does not wait at the end again.
        if tried.0 != 0 || !self.queue.has_line(wish.wkids) {
            match self.choose(wish, tried) {
                Choice::Permit(permit) => return Ok(permit),
                Choice::None(why) => return Err(why),
                Choice::Later(_) => {}
            }
        }
        let ticket = self.queue.join(wish.wkids);
        let _head = match tried.0 {
            0 => {
                let head = tokio::time::timeout_at(wish.deadline, ticket.head(wish.user)).await;
                Some(head.map_err(|_| NoPermit::Late)?.map_err(|_| NoPermit::Overloaded)?)
            }
            // The request waits for a unit that it has not been to, so others need not wait for the
            // request.
            _ => None,
        };
        loop {
            // Before the choice, so that no unit is missed that is freed after it.
            let freed = self.freed.notified();
            match self.choose(wish, tried) {
                Choice::Permit(permit) => return Ok(permit),
                Choice::None(why) => return Err(why),
                Choice::Later(at) => {
                    let until = at.map_or(wish.deadline, |at| at.min(wish.deadline));
                    tokio::select! {
                        () = freed => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
            }
            if Instant::now() >= wish.deadline {
                return Err(NoPermit::Late);
            }
        }
    }

    /// Permit for a unit not tried yet, if there is one without waiting.
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

    fn choose(&self, wish: Wish<'_>, tried: Tried) -> Choice<D> {
        loop {
            let now = Instant::now();
            let best = match self.best(|number| !tried.has(number), wish.wkids, now) {
                // Better the same unit again than none.
                Best::None(_) if tried.0 != 0 => self.best(|_| true, wish.wkids, now),
                best => best,
            };
            match best {
                // Unless another request was faster.
                Best::Free(number) => {
                    if let Some(permit) = Permit::take(&self.units[number], now, wish.decides) {
                        return Choice::Permit(permit);
                    }
                }
                Best::Busy(at) => return Choice::Later(at),
                Best::None(why) => return Choice::None(why),
            }
        }
    }

    /// The best of the units whose numbers `may_be`.
    fn best(&self, may_be: impl Fn(usize) -> bool, wkids: &[Wkid], now: Instant) -> Best {
        let (mut free, mut busy, mut next, mut other_master_key) = (None, false, None, false);
        for (number, unit) in self.units.iter().enumerate().filter(|(number, _)| may_be(*number)) {
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

enum Choice<D: Driver> {
    Permit(Permit<D>),
    /// Not before this time, or before another request has ended.
    Later(Option<Instant>),
    None(NoPermit),
}

enum Best {
    Free(usize),
    /// Not before this time, or before another request has ended.
    Busy(Option<Instant>),
    None(NoPermit),
}
