//! Limit for log lines that a peer can cause: at most one a second of each kind.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Admits one event a second, and counts the others.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<State>);

impl Throttle {
    /// Counts an event. Returns the number of events since the last admitted one, this one
    /// included; `None` less than a second after the last admitted one.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        if state.last_admitted.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            return None;
        }
        state.last_admitted = Some(now);
        Some(core::mem::take(&mut state.count))
    }
}

#[derive(Debug, Default)]
struct State {
    last_admitted: Option<Instant>,
    count: u64,
}

const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_a_second_is_admitted_and_all_are_counted() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.admit_at(start), Some(1));
        for millis in [0, 1, 500, 999] {
            assert_eq!(throttle.admit_at(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(throttle.admit_at(start + INTERVAL), Some(5));
        assert_eq!(throttle.admit_at(start + INTERVAL), None);
    }
}
