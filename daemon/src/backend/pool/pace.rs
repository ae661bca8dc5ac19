//! Limit of the calls of a unit per second.

use core::num::NonZeroU32;
use core::time::Duration;

use tokio::time::Instant;

/// Rate limit by the generic cell rate algorithm (ITU-T I.371, annex A). Calls that were late, by
/// at most [`BURST`], do not lower the rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// Time of the next call with even intervals between all calls.
    due: Instant,
}

impl Pace {
    pub(super) fn new(rate: NonZeroU32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / rate.get(), due: now }
    }

    /// Time of the next call; in the past if a call may go now.
    pub(super) fn next(&self) -> Instant {
        self.due.checked_sub(BURST).unwrap_or(self.due)
    }

    /// Counts a call.
    pub(super) fn take(&mut self, now: Instant) {
        self.due = self.due.max(now) + self.interval;
    }
}

/// Delay that later calls may make up for. Timers are a few milliseconds late, and later on a busy
/// machine.
const BURST: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_reached_even_if_every_timer_is_late() {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU32::new(500).unwrap(), start);
        let (mut now, mut calls) = (start, 0);
        while now < start + Duration::from_secs(1) {
            if pace.next() <= now {
                pace.take(now);
                calls += 1;
            } else {
                now = pace.next() + Duration::from_millis(3);
            }
        }
        assert!((495..=506).contains(&calls), "{calls}");
    }

    #[test]
    fn an_idle_time_allows_only_a_short_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(NonZeroU32::new(100).unwrap(), start);
        let later = start + Duration::from_secs(60);
        let burst = (0..100)
            .take_while(|_| {
                pace.next() <= later && {
                    pace.take(later);
                    true
                }
            })
            .count();
        assert_eq!(burst, 2);
    }
}
