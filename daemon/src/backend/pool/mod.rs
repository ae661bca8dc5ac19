//! The units of a backend: which one a request goes to, and who waits for how long.

pub(super) mod breaker;
pub(super) mod failure;
pub(super) mod latency;
mod pace;
pub(super) mod permit;
mod queue;
pub(super) mod unit;

use std::sync::Arc;
use std::time::Instant;

use keyward_unit::Wkid;
use tokio::sync::Notify;

use crate::ground::fair::User;
use permit::Seat;
use queue::Queue;
use unit::{Offer, Unit};

/// Units, and the requests that wait for one.
pub(in crate::backend) struct Pool {
    pub(in crate::backend) units: Vec<Arc<Unit>>,
    queue: Queue,
    freed: Arc<Notify>,
}

/// Why a request gets no unit.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::backend) enum NoSeat {
    /// Not before its deadline.
    Late,
    /// None is in order.
    Down,
    /// None that is in order has the master key of the key.
    OtherMasterKey,
    /// Too many wait already.
    Overloaded,
}

/// Units that a request has been to, a bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend) struct Tried(u64);

impl Tried {
    pub(in crate::backend) fn add(&mut self, number: usize) {
        self.0 |= 1 << (number % 64);
    }

    fn has(self, number: usize) -> bool {
        self.0 & 1 << (number % 64) != 0
    }
}

enum Choice {
    Seat(Seat),
    Later(Option<Instant>),
    None(NoSeat),
}

impl Pool {
    pub(in crate::backend) fn new(units: Vec<Arc<Unit>>, most_waiting: usize, freed: Arc<Notify>) -> Self {
        Self { units, queue: Queue::new(most_waiting), freed }
    }

    /// A place at the unit that will be done first, among those not tried yet if there are any. A unit that is half open
    /// is tried out by it if `trial`.
    ///
    /// # Errors
    /// [`NoSeat`].
    pub(in crate::backend) async fn seat(
        &self,
        wkids: &[Wkid],
        tried: Tried,
        deadline: Instant,
        trial: bool,
        user: User,
    ) -> Result<Seat, NoSeat> {
        // Who has waited before does not wait again at the end.
        if tried.0 != 0 || !self.queue.has_line(wkids) {
            match self.choose(wkids, tried, trial) {
                Choice::Seat(seat) => return Ok(seat),
                Choice::None(why) => return Err(why),
                Choice::Later(_) => {}
            }
        }
        let place = self.queue.join(wkids);
        let _first = match tried.0 {
            0 => {
                let first = tokio::time::timeout_at(deadline.into(), place.first(user)).await;
                Some(first.map_err(|_| NoSeat::Late)?.map_err(|_| NoSeat::Overloaded)?)
            }
            // It waits for a unit that it has not been to, which is no reason for others to wait.
            _ => None,
        };
        loop {
            // Before the look: from here on nothing is missed.
            let freed = self.freed.notified();
            match self.choose(wkids, tried, trial) {
                Choice::Seat(seat) => return Ok(seat),
                Choice::None(why) => return Err(why),
                Choice::Later(at) => {
                    let until = at.map_or(deadline, |at| at.min(deadline));
                    tokio::select! {
                        () = freed => {}
                        () = tokio::time::sleep_until(until.into()) => {}
                    }
                }
            }
            if Instant::now() >= deadline {
                return Err(NoSeat::Late);
            }
        }
    }

    /// A place at another unit, if there is one without waiting.
    pub(in crate::backend) fn seat_now(&self, wkids: &[Wkid], tried: Tried) -> Option<Seat> {
        let now = Instant::now();
        let untried = |number: &usize| !tried.has(*number);
        match self.best((0..self.units.len()).filter(untried), wkids, now) {
            Best::Free(number) => self.units[number].enter(now, true),
            _ => None,
        }
    }

    /// How many wait.
    pub(in crate::backend) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    pub(in crate::backend) fn number(&self, unit: &Arc<Unit>) -> usize {
        self.units.iter().position(|one| Arc::ptr_eq(one, unit)).unwrap_or_default()
    }

    fn choose(&self, wkids: &[Wkid], tried: Tried, trial: bool) -> Choice {
        loop {
            let now = Instant::now();
            let all = 0..self.units.len();
            let untried = all.clone().filter(|number| !tried.has(*number));
            let best = match self.best(untried, wkids, now) {
                // Better the same one again than none.
                Best::None(_) if tried.0 != 0 => self.best(all, wkids, now),
                best => best,
            };
            match best {
                // Unless somebody else was faster.
                Best::Free(number) => {
                    if let Some(seat) = self.units[number].enter(now, trial) {
                        return Choice::Seat(seat);
                    }
                }
                Best::Busy(at) => return Choice::Later(at),
                Best::None(why) => return Choice::None(why),
            }
        }
    }

    fn best(&self, numbers: impl Iterator<Item = usize>, wkids: &[Wkid], now: Instant) -> Best {
        let (mut free, mut busy, mut next, mut unfit) = (None, false, None, false);
        for number in numbers {
            match self.units[number].offer(wkids, now) {
                Offer::Free(cost) => {
                    if free.is_none_or(|(_, least)| cost < least) {
                        free = Some((number, cost));
                    }
                }
                Offer::Busy(at) => {
                    busy = true;
                    next = match (next, at) {
                        (Some(next), Some(at)) if at < next => Some(at),
                        (None, at) => at,
                        (next, _) => next,
                    };
                }
                Offer::Unfit => unfit = true,
                Offer::Down => {}
            }
        }
        match free {
            Some((number, _)) => Best::Free(number),
            None if busy => Best::Busy(next),
            None if unfit => Best::None(NoSeat::OtherMasterKey),
            None => Best::None(NoSeat::Down),
        }
    }
}

enum Best {
    Free(usize),
    /// Until then, or until another request is done.
    Busy(Option<Instant>),
    None(NoSeat),
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::config::Config;

    fn wkid(byte: u8) -> Wkid {
        Wkid::from_bytes([byte; 16])
    }

    /// Units in order, each with a master key, that take one call at a time.
    fn pool(wkids: &[Wkid]) -> Pool {
        let endpoints: Vec<_> =
            (0..wkids.len()).map(|number| format!("\"localhost:{}\"", 1 + number)).collect();
        let text = format!(
            "[grep11.hsm]\nplaintext = true\nin-flight = 1\nendpoints = [{}]\n",
            endpoints.join(", ")
        );
        let settings = Config::parse(&text, "test".as_ref()).unwrap().grep11.remove("hsm").unwrap();
        let backend = crate::backend::grep11::Grep11::new("hsm", &settings).unwrap();
        for (unit, wkid) in backend.pool.units.iter().zip(wkids) {
            unit.with(|state| (state.breaker, state.wkid) = (breaker::Breaker::Closed(0), Some(*wkid)));
        }
        backend.pool
    }

    #[tokio::test]
    async fn requests_that_need_another_master_key_do_not_stand_in_the_way() {
        let pool = pool(&[wkid(1), wkid(2)]);
        let (old, new) = ([wkid(1)], [wkid(2)]);
        let soon = || Instant::now() + Duration::from_secs(1);
        let held = pool.seat(&old, Tried::default(), soon(), true, 1).await.unwrap();
        let waiting = pool.seat(&old, Tried::default(), soon(), true, 1);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut waiting).await.is_err());
        assert_eq!(pool.waiting(), 1);
        let other = pool.seat(&new, Tried::default(), soon(), true, 1).await.unwrap();
        assert_eq!(pool.number(&other.unit), 1);
        drop(held);
        assert_eq!(pool.number(&waiting.await.unwrap().unit), 0);
        assert_eq!(pool.waiting(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_another_unit_does_not_stand_in_the_way_of_those_who_take_any() {
        let pool = pool(&[wkid(1), wkid(1)]);
        let keys = [wkid(1)];
        let soon = || Instant::now() + Duration::from_secs(1);
        let mut tried = Tried::default();
        tried.add(0);
        let _stuck = pool.seat(&keys, tried, soon(), true, 1).await.unwrap();
        let again = pool.seat(&keys, tried, soon(), true, 1);
        tokio::pin!(again);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut again).await.is_err());
        // It stands in the line, so this one does, too; but it is not its turn that is waited for.
        let any = pool.seat(&keys, Tried::default(), soon(), true, 1).await.unwrap();
        assert_eq!(pool.number(&any.unit), 0);
    }
}
