//! Log lines that a peer can cause, at most one a second of each kind.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lets one event a second through and counts the others.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<State>);

impl Throttle {
    /// How often the event happened since it was last let through, this one included; `None` if it is too
    /// soon to speak of it again.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        if state.spoken.is_some_and(|spoken| now.duration_since(spoken) < INTERVAL) {
            return None;
        }
        state.spoken = Some(now);
        Some(core::mem::take(&mut state.count))
    }
}

#[derive(Debug, Default)]
struct State {
    spoken: Option<Instant>,
    count: u64,
}

const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second_and_none_uncounted() {
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
