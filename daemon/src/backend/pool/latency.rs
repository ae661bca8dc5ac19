//! Time that calls to units take.

use core::time::Duration;

use tokio::time::Instant;

/// Expected latency of a unit: the longest of the last calls, with a weight that decays with time.
///
/// Load balancers call this "peak EWMA" (exponentially weighted moving average). One slow call is
/// enough to avoid a unit. The unit is tried again when the weight of that call is small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    /// Mean of the observations, in seconds.
    mean: f64,
    at: Instant,
}

impl Latency {
    /// Latency of a unit that was not called yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { mean: 0.0, at: now }
    }

    /// Adds the duration of a call.
    pub(super) fn observe(&mut self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        self.mean = if took >= self.mean {
            took
        } else {
            let old = self.weight(now);
            self.mean * old + took * (1.0 - old)
        };
        self.at = now;
    }

    /// Time that the next call is expected to take, in seconds, while `in_flight` calls are in
    /// progress.
    pub(super) fn cost(&self, in_flight: usize, now: Instant) -> f64 {
        let calls = u32::try_from(in_flight).unwrap_or(u32::MAX).saturating_add(1);
        // Without calls there are no new observations, so the weight of the old ones decays.
        (self.mean * self.weight(now)).max(LEAST) * f64::from(calls)
    }

    fn weight(&self, now: Instant) -> f64 {
        (-now.saturating_duration_since(self.at).as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }
}

/// 95th percentile of the durations of the last calls.
///
/// Each call moves the value: up by 19 parts if the call took longer, down by one part otherwise.
/// So the value is stable where 19 of 20 calls take less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percentile95(Duration);

impl Percentile95 {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(20))
    }

    pub(super) fn observe(&mut self, took: Duration) {
        let part = self.0 / 400;
        self.0 = if took > self.0 { self.0 + part * 19 } else { self.0 - part };
        self.0 = self.0.clamp(Duration::from_millis(1), Duration::from_secs(10));
    }

    pub(super) fn get(self) -> Duration {
        self.0
    }
}

/// Time constant of the decay: after this time the weight of an observation is 1/e of the first.
const MEMORY: Duration = Duration::from_secs(5);
/// Least latency, in seconds. Among units without observations, the unit with the fewest calls in
/// progress is chosen.
const LEAST: f64 = 0.000_05;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_call_counts_at_once_and_decays() {
        let start = Instant::now();
        let mut latency = Latency::new(start);
        latency.observe(Duration::from_millis(5), start);
        let usual = latency.cost(0, start);
        latency.observe(Duration::from_millis(200), start);
        assert!(latency.cost(0, start) > 30.0 * usual);
        assert!(latency.cost(0, start + Duration::from_secs(30)) < usual);
        assert!((latency.cost(3, start) / latency.cost(0, start) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn the_percentile_converges() {
        let mut percentile = Percentile95::new();
        // Evenly from 0 to 100 ms, in a mixed order.
        for number in 0..40_000_u64 {
            percentile.observe(Duration::from_micros(number * 7919 % 1000 * 100));
        }
        let found = percentile.get();
        assert!((90..=98).contains(&found.as_millis()), "{found:?}");
    }
}
