//! Health of one unit: the state machine of a circuit breaker.
//!
//! ```text
//!            three failures in a row, or one severe failure
//!   Closed ------------------------------------------------> Open
//!     ^                                                     |    ^
//!     | the request succeeds              a probe succeeds  |    | the request fails,
//!     +------------------------ HalfOpen <------------------+    | or a probe does
//!                                  +------------------------------+
//! ```
//!
//! Closed: requests go to the unit. Open: no request goes to the unit, and probes, which are no
//! requests of peers, find out when the unit is healthy again. Half open: one request at a time
//! goes to the unit, until a request has succeeded.
//!
//! Only events change the health. Each event has its time, so no function here waits or reads a
//! clock. A new master key does not change the health: the connections know the master key.

use core::time::Duration;

use tokio::time::Instant;

use crate::backend::UnitState;

/// Health of one unit. A new unit is down until a probe has succeeded.
#[derive(Debug)]
pub(super) struct Health {
    breaker: Breaker,
    /// Number of recoveries. A failure of a request that began before the last recovery says
    /// nothing about the unit after the recovery.
    generation: u64,
    /// Number of recoveries in a row after which the first request failed.
    relapses: u32,
    /// Start of the first request since the last answer; set while each request is abandoned for
    /// the answer of another unit.
    unanswered: Option<Instant>,
    /// Time before which the unit is not examined again.
    next_examination: Option<Instant>,
    /// Time of the last success of a request or a probe.
    succeeded: Option<Instant>,
    /// Problem of a unit that is down.
    problem: Option<String>,
    /// Time when the problem was last logged.
    reported: Option<Instant>,
    /// Failures since the start.
    failures: u64,
}

/// State of the circuit breaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Breaker {
    /// Requests are admitted. The value is the number of failures in a row.
    Closed(u32),
    /// A probe has succeeded. The value is true while a request decides.
    HalfOpen(bool),
    /// No request is admitted.
    Open,
}

/// Answer to the question whether a request may go to a unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Admits {
    Now,
    /// Perhaps when another request has ended.
    Later,
    Never,
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            breaker: Breaker::Open,
            generation: 0,
            relapses: 0,
            unanswered: None,
            next_examination: None,
            succeeded: None,
            problem: None,
            reported: None,
            failures: 0,
        }
    }

    pub(super) fn admits(&self) -> Admits {
        match self.breaker {
            Breaker::Closed(_) | Breaker::HalfOpen(false) => Admits::Now,
            Breaker::HalfOpen(true) => Admits::Later,
            Breaker::Open => Admits::Never,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.breaker == Breaker::Open
    }

    pub(super) fn state(&self) -> UnitState {
        match self.breaker {
            Breaker::Closed(_) => UnitState::Up,
            Breaker::HalfOpen(_) => UnitState::Probing,
            Breaker::Open => UnitState::Down,
        }
    }

    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// Begins a request. If `decides` is true and the breaker is half open, no other request is
    /// admitted until this request ends; a request that takes long must not decide. Returns the
    /// generation, for the end of the request.
    pub(super) fn request_begins(&mut self, decides: bool) -> u64 {
        if let Breaker::HalfOpen(deciding) = &mut self.breaker {
            *deciding |= decides;
        }
        self.generation
    }

    /// Ends a deciding request whose result says nothing about the unit.
    pub(super) fn request_decided_nothing(&mut self) {
        if let Breaker::HalfOpen(deciding) = &mut self.breaker {
            *deciding = false;
        }
    }

    /// Records that the unit did the operation of a request.
    pub(super) fn request_succeeded(&mut self, now: Instant) {
        // If the breaker is open, a later request has failed: the breaker stays open.
        if self.breaker != Breaker::Open {
            self.breaker = Breaker::Closed(0);
        }
        self.relapses = 0;
        self.unanswered = None;
        self.succeeded = Some(now);
    }

    /// Records that the unit failed in a request. `severe` is true if one failure opens the
    /// breaker. `generation` is the generation that [`Self::request_begins`] returned; `None` if
    /// the failure is known from a later request. Returns true if the breaker opens now.
    pub(super) fn request_failed(&mut self, severe: bool, generation: Option<u64>) -> bool {
        self.unanswered = None;
        if generation.is_some_and(|generation| generation != self.generation) {
            self.failures += 1;
            return false;
        }
        if let Breaker::HalfOpen(_) = self.breaker {
            self.relapses += 1;
        }
        self.failed(severe)
    }

    /// Records that the unit failed, in a request or in a probe. Returns true if the breaker opens
    /// now.
    pub(super) fn failed(&mut self, severe: bool) -> bool {
        self.failures += 1;
        let next = match self.breaker {
            Breaker::Closed(failures) if !severe && failures + 1 < FAILURES => Breaker::Closed(failures + 1),
            _ => Breaker::Open,
        };
        let opens = next == Breaker::Open && self.breaker != Breaker::Open;
        self.breaker = next;
        opens
    }

    /// Records that a request that began at `since` was abandoned for the answer of another unit.
    pub(super) fn request_abandoned(&mut self, since: Instant) {
        self.unanswered.get_or_insert(since);
    }

    /// True if every request of the last `timeout` was abandoned: the next request must wait for
    /// the full timeout, to learn whether the unit answers at all. True for one request per
    /// `timeout` only.
    pub(super) fn needs_full_timeout(&mut self, timeout: Duration, now: Instant) -> bool {
        let is_needed = self.unanswered.is_some_and(|since| now.saturating_duration_since(since) >= timeout);
        if is_needed {
            self.unanswered = Some(now);
        }
        is_needed
    }

    /// Records that a probe succeeded. Returns true if the unit was down.
    pub(super) fn probe_succeeded(&mut self, now: Instant) -> bool {
        self.succeeded = Some(now);
        let recovers = self.breaker == Breaker::Open;
        if recovers {
            self.breaker = Breaker::HalfOpen(false);
            self.generation += 1;
            (self.problem, self.reported) = (None, None);
        }
        recovers
    }

    /// Ends the problem of a unit that is not down.
    pub(super) fn problem_is_over(&mut self) {
        if !self.is_down() {
            (self.problem, self.reported) = (None, None);
        }
    }

    /// Pause before the next probe. The pause grows while the unit answers probes but fails
    /// requests.
    pub(super) fn pause(&self) -> Duration {
        match self.relapses {
            0 => Duration::ZERO,
            relapses => (PROBE * 2_u32.saturating_pow(relapses.min(16))).min(LONGEST_PAUSE),
        }
    }

    /// True if no request and no probe has succeeded for the time `limit`.
    pub(super) fn is_idle(&self, limit: Duration, now: Instant) -> bool {
        self.succeeded.is_none_or(|at| now.saturating_duration_since(at) >= limit)
    }

    /// Keeps a problem. Returns true if the problem is to be logged: it is new, and the last log
    /// line was at least [`REPORT`] ago.
    pub(super) fn has_problem(&mut self, text: &str, now: Instant) -> bool {
        let is_other = self.problem.as_deref() != Some(text);
        let is_due = self.reported.is_none_or(|at| now.saturating_duration_since(at) >= REPORT);
        if is_other && is_due {
            self.reported = Some(now);
        }
        self.problem = Some(text.to_owned());
        is_other && is_due
    }

    /// Begins an examination, unless the last examination is too recent. Returns the generation,
    /// for the end of the examination.
    pub(super) fn examination_begins(&mut self, now: Instant) -> Option<u64> {
        if self.next_examination.is_some_and(|at| now < at) {
            return None;
        }
        self.next_examination = Some(now + EXAMINATION);
        Some(self.generation)
    }

    /// Records that the unit passed an examination.
    pub(super) fn examination_passed(&mut self, now: Instant) {
        self.next_examination = Some(now + PASSED_EXAMINATION);
    }
}

/// Failures in a row that open the breaker.
const FAILURES: u32 = 3;
/// Time between two probes of a unit that is down.
pub(super) const PROBE: Duration = Duration::from_millis(250);
/// Longest pause before the next probe of a unit that answers probes but fails requests.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Shortest time between two log lines about a unit that is down.
const REPORT: Duration = Duration::from_secs(30);
/// Time between two examinations of a unit.
const EXAMINATION: Duration = Duration::from_secs(1);
/// Time until the next examination of a unit that has passed.
const PASSED_EXAMINATION: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> Health {
        Health { breaker: Breaker::Closed(0), ..Health::new() }
    }

    #[test]
    fn three_failures_in_a_row_open_the_breaker_and_a_success_starts_the_count_again() {
        let mut health = closed();
        assert!(!health.failed(false) && !health.failed(false));
        health.request_succeeded(Instant::now());
        assert!(!health.failed(false) && !health.failed(false));
        assert_eq!(health.admits(), Admits::Now);
        assert!(health.failed(false), "the third in a row");
        assert!(!health.failed(false), "already open");
        assert_eq!(health.admits(), Admits::Never);
        assert_eq!(health.failures(), 6);
    }

    #[test]
    fn a_severe_failure_opens_the_breaker_at_once() {
        let mut health = closed();
        assert!(health.failed(true));
        health.request_succeeded(Instant::now());
        assert!(health.is_down(), "a late success of an earlier request");
    }

    #[test]
    fn after_a_probe_one_request_decides() {
        let mut health = Health::new();
        assert!(health.probe_succeeded(Instant::now()));
        assert_eq!(health.admits(), Admits::Now);
        health.request_begins(false);
        assert_eq!(health.admits(), Admits::Now, "a long request decides nothing");
        health.request_begins(true);
        assert_eq!((health.admits(), health.state()), (Admits::Later, UnitState::Probing));
        health.request_decided_nothing();
        assert_eq!(health.admits(), Admits::Now);
        let generation = health.request_begins(true);
        assert!(health.request_failed(false, Some(generation)), "one failure is enough");
        assert!(health.probe_succeeded(Instant::now()));
        health.request_begins(true);
        health.request_succeeded(Instant::now());
        assert_eq!((health.admits(), health.state()), (Admits::Now, UnitState::Up));
    }

    #[test]
    fn a_failure_of_a_request_from_before_the_recovery_decides_nothing() {
        let mut health = closed();
        let before = health.request_begins(true);
        health.failed(true);
        health.probe_succeeded(Instant::now());
        assert!(!health.request_failed(true, Some(before)));
        assert_eq!((health.state(), health.failures()), (UnitState::Probing, 2));
        assert!(health.request_failed(true, None), "known from a later request");
    }

    #[tokio::test(start_paused = true)]
    async fn relapses_double_the_pause_and_a_success_ends_it() {
        let mut health = Health::new();
        assert_eq!(health.pause(), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            health.probe_succeeded(Instant::now());
            let generation = health.request_begins(true);
            health.request_failed(false, Some(generation));
            pauses.push(health.pause().as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        health.probe_succeeded(Instant::now());
        health.request_succeeded(Instant::now());
        assert_eq!(health.pause(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn after_only_abandoned_requests_one_request_needs_the_full_timeout() {
        let (mut health, timeout) = (closed(), Duration::from_secs(2));
        health.request_abandoned(Instant::now());
        tokio::time::advance(timeout / 2).await;
        health.request_abandoned(Instant::now());
        assert!(!health.needs_full_timeout(timeout, Instant::now()));
        tokio::time::advance(timeout / 2).await;
        assert!(health.needs_full_timeout(timeout, Instant::now()), "since the first abandoned request");
        assert!(!health.needs_full_timeout(timeout, Instant::now()), "one request is enough");
        tokio::time::advance(timeout).await;
        health.request_succeeded(Instant::now());
        assert!(!health.needs_full_timeout(timeout, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_is_logged_when_it_is_new_and_not_too_often() {
        let mut health = Health::new();
        assert!(health.has_problem("refused", Instant::now()));
        assert!(!health.has_problem("refused", Instant::now()));
        assert!(!health.has_problem("reset", Instant::now()), "too soon");
        assert_eq!(health.problem(), Some("reset"));
        tokio::time::advance(REPORT).await;
        assert!(!health.has_problem("reset", Instant::now()), "nothing new");
        assert!(health.has_problem("refused", Instant::now()));
        health.probe_succeeded(Instant::now());
        assert_eq!(health.problem(), None);
        assert!(health.has_problem("refused", Instant::now()), "down again");
    }

    #[tokio::test(start_paused = true)]
    async fn examinations_are_not_too_frequent() {
        let mut health = closed();
        assert_eq!(health.examination_begins(Instant::now()), Some(0));
        assert_eq!(health.examination_begins(Instant::now()), None);
        tokio::time::advance(EXAMINATION).await;
        assert!(health.examination_begins(Instant::now()).is_some());
        health.examination_passed(Instant::now());
        tokio::time::advance(EXAMINATION).await;
        assert_eq!(health.examination_begins(Instant::now()), None);
        tokio::time::advance(PASSED_EXAMINATION).await;
        assert!(health.examination_begins(Instant::now()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_unit_is_idle_after_a_time_without_success() {
        let (mut health, keepalive) = (Health::new(), Duration::from_secs(5));
        assert!(health.is_idle(keepalive, Instant::now()));
        health.probe_succeeded(Instant::now());
        tokio::time::advance(keepalive - Duration::from_millis(1)).await;
        assert!(!health.is_idle(keepalive, Instant::now()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(health.is_idle(keepalive, Instant::now()));
    }
}
