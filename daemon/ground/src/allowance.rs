//! How often something may happen: so much at once, and so much more in each second.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// An amount that is used up and comes back with time, one unit after the other. A pause saves up
/// no more than what may be used at once.
pub struct Allowance {
    /// How long one unit takes to come back.
    one: Duration,
    /// How long all units together take.
    all: Duration,
    /// When all of them are back.
    whole: Mutex<Instant>,
}

impl Allowance {
    /// `most` units at once, and `rate` units a second. Nothing is used up yet.
    pub fn new(most: u32, rate: u32) -> Self {
        let one = Duration::from_secs(1) / rate.max(1);
        Self { one, all: one * most.max(1), whole: Mutex::new(Instant::now()) }
    }

    /// Uses one unit, if there is one.
    pub fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        self.change(now, |whole| {
            let is_there = whole + self.one <= now + self.all;
            (if is_there { whole + self.one } else { whole }, is_there)
        })
    }

    /// Uses so many units, even if there are not as many. Returns how long the last of them takes
    /// to come back: no time, if all of them were there.
    pub fn overdraw(&self, units: usize) -> Duration {
        self.overdraw_at(Instant::now(), units)
    }

    fn overdraw_at(&self, now: Instant, units: usize) -> Duration {
        let units = self.one.saturating_mul(u32::try_from(units).unwrap_or(u32::MAX));
        self.change(now, |whole| (whole + units, (whole + units).saturating_duration_since(now + self.all)))
    }

    fn change<T>(&self, now: Instant, f: impl FnOnce(Instant) -> (Instant, T)) -> T {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, answer) = f((*whole).max(now));
        *whole = new;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_time() {
        let allowance = Allowance::new(50, 50);
        let start = Instant::now();
        let taken = |after: u64| {
            let now = start + Duration::from_millis(after);
            (0..100).filter(|_| allowance.take_at(now)).count()
        };
        assert_eq!(taken(0), 50);
        assert_eq!(taken(100), 5);
        assert_eq!(taken(60_000), 50, "a pause saves up what may be used at once");
        let now = start + Duration::from_secs(60);
        let waits: Vec<_> = (0..3).map(|_| allowance.overdraw_at(now, 1).as_millis()).collect();
        assert_eq!(waits, [20, 40, 60]);
        assert!(!allowance.take_at(now + Duration::from_millis(60)), "used before");
        assert!(allowance.take_at(now + Duration::from_millis(80)));
        assert_eq!(allowance.overdraw_at(now + Duration::from_secs(9), 60).as_millis(), 200);
        assert!(allowance.overdraw_at(now, usize::MAX) > Duration::from_secs(1_000_000));
        assert!(Allowance::new(0, 0).take(), "one at least");
    }
}
