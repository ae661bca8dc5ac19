//! Token bucket: limits how often something may happen.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Token bucket. The bucket holds a fixed number of tokens, and refills at a fixed rate. A pause
/// refills the bucket, but never beyond its size.
pub struct Allowance {
    /// Time to refill one token.
    refill_one: Duration,
    /// Time to refill an empty bucket.
    refill_all: Duration,
    /// Time at which the bucket is full.
    full: Mutex<Instant>,
}

impl Allowance {
    /// Full bucket of `size` tokens that refills with `rate` tokens a second. Zero counts as one.
    pub fn new(size: u32, rate: u32) -> Self {
        let refill_one = Duration::from_secs(1) / rate.max(1);
        Self { refill_one, refill_all: refill_one * size.max(1), full: Mutex::new(Instant::now()) }
    }

    /// Takes a token. False if the bucket is empty.
    pub fn take(&self) -> bool {
        self.take_at(Instant::now())
    }

    fn take_at(&self, now: Instant) -> bool {
        self.change(now, |full| {
            let has_token = full + self.refill_one <= now + self.refill_all;
            (if has_token { full + self.refill_one } else { full }, has_token)
        })
    }

    /// Takes `tokens` tokens, also more than the bucket has. Returns the time after which the
    /// bucket has refilled the missing ones; zero if no token was missing.
    pub fn overdraw(&self, tokens: usize) -> Duration {
        self.overdraw_at(Instant::now(), tokens)
    }

    fn overdraw_at(&self, now: Instant, tokens: usize) -> Duration {
        let taken = self.refill_one.saturating_mul(u32::try_from(tokens).unwrap_or(u32::MAX));
        self.change(now, |full| {
            (full + taken, (full + taken).saturating_duration_since(now + self.refill_all))
        })
    }

    fn change<T>(&self, now: Instant, f: impl FnOnce(Instant) -> (Instant, T)) -> T {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, result) = f((*full).max(now));
        *full = new;
        result
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
        assert_eq!(taken(60_000), 50, "a pause refills the bucket");
        let now = start + Duration::from_secs(60);
        let waits: Vec<_> = (0..3).map(|_| allowance.overdraw_at(now, 1).as_millis()).collect();
        assert_eq!(waits, [20, 40, 60]);
        assert!(!allowance.take_at(now + Duration::from_millis(60)), "already taken");
        assert!(allowance.take_at(now + Duration::from_millis(80)));
        assert_eq!(allowance.overdraw_at(now + Duration::from_secs(9), 60).as_millis(), 200);
        assert!(allowance.overdraw_at(now, usize::MAX) > Duration::from_secs(1_000_000));
        assert!(Allowance::new(0, 0).take(), "at least one token");
    }
}
