//! Whether a unit is to be asked at all.
//!
//! Closed, it is asked. After failures it is open: nobody asks, until a probe, which is no request of a peer, has
//! found it in order. Then it is half open, for one request at a time, until one has succeeded.

/// The state of one unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Breaker {
    /// It is asked; so many failures in a row.
    Closed(u32),
    /// A probe has succeeded; whether a request is trying it out.
    HalfOpen(bool),
    /// It is not asked.
    Open,
}

/// Whether a request may go to a unit now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Admits {
    Now,
    /// Not now, and perhaps soon.
    Later,
    Never,
}

impl Breaker {
    pub(in crate::backend) fn admits(self) -> Admits {
        match self {
            Self::Closed(_) | Self::HalfOpen(false) => Admits::Now,
            Self::HalfOpen(true) => Admits::Later,
            Self::Open => Admits::Never,
        }
    }

    /// A request goes to the unit.
    pub(in crate::backend) fn enter(&mut self) {
        if let Self::HalfOpen(trial) = self {
            *trial = true;
        }
    }

    /// A request came to an end that says nothing about the unit.
    pub(in crate::backend) fn leave(&mut self) {
        if let Self::HalfOpen(trial) = self {
            *trial = false;
        }
    }

    /// The unit did what it was asked.
    pub(in crate::backend) fn succeeded(&mut self) {
        // Open, it was told otherwise by someone who asked later.
        if *self != Self::Open {
            *self = Self::Closed(0);
        }
    }

    /// The unit failed; `severe` if once is enough. Returns whether it opened now.
    pub(in crate::backend) fn failed(&mut self, severe: bool) -> bool {
        let next = match *self {
            Self::Closed(failures) if !severe && failures + 1 < PATIENCE => Self::Closed(failures + 1),
            _ => Self::Open,
        };
        let opened = next == Self::Open && *self != Self::Open;
        *self = next;
        opened
    }

    /// A probe found the unit in order.
    pub(in crate::backend) fn probed(&mut self) {
        if *self == Self::Open {
            *self = Self::HalfOpen(false);
        }
    }

    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::HalfOpen(_) => "half-open",
            Self::Open => "open",
        }
    }
}

/// So many failures in a row open it.
const PATIENCE: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_a_success_in_between_does_not() {
        let mut breaker = Breaker::Closed(0);
        assert!(!breaker.failed(false) && !breaker.failed(false));
        breaker.succeeded();
        assert!(!breaker.failed(false) && !breaker.failed(false));
        assert_eq!(breaker.admits(), Admits::Now);
        assert!(breaker.failed(false), "the third in a row");
        assert!(!breaker.failed(false), "it is open already");
        assert_eq!(breaker.admits(), Admits::Never);
    }

    #[test]
    fn a_severe_failure_opens_it_at_once() {
        let mut breaker = Breaker::Closed(0);
        assert!(breaker.failed(true));
        breaker.succeeded();
        assert_eq!(breaker, Breaker::Open, "a late success of an earlier request");
    }

    #[test]
    fn after_a_probe_one_request_tries_it_out() {
        let mut breaker = Breaker::Open;
        breaker.probed();
        assert_eq!(breaker.admits(), Admits::Now);
        breaker.enter();
        assert_eq!(breaker.admits(), Admits::Later);
        breaker.leave();
        assert_eq!(breaker.admits(), Admits::Now);
        breaker.enter();
        let mut other = breaker;
        breaker.succeeded();
        assert_eq!(breaker, Breaker::Closed(0));
        assert!(other.failed(false), "one failure is enough");
        assert_eq!(other.admits(), Admits::Never);
    }
}
