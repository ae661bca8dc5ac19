//! Health of units, for people and metrics.

use core::time::Duration;

use keyward_unit::Wkid;

/// One unit as it is now.
#[derive(Clone, Debug)]
pub(crate) struct UnitHealth {
    /// Address of the unit, for people.
    pub(crate) address: String,
    pub(crate) state: UnitState,
    /// Master key of the unit, if known.
    pub(crate) wkid: Option<Wkid>,
    /// Second master key of the unit, which it has while the master key is changed; none if
    /// unknown.
    pub(crate) next_wkid: Option<Wkid>,
    /// Mechanisms that the unit offers, by their names; empty if the backend has none.
    pub(crate) mechanisms: Vec<String>,
    /// Problem of the unit, or of the way to it.
    pub(crate) problem: Option<String>,
    /// Load of a remote unit; none for a unit in this process.
    pub(crate) load: Option<Load>,
}

/// State of a unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnitState {
    /// Requests go to the unit.
    Up,
    /// A probe has succeeded after a failure, and no request yet.
    Probing,
    /// No request goes to the unit.
    Down,
}

/// Load of a remote unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Time that the next call is expected to take.
    pub(crate) latency: Duration,
    /// Calls under way.
    pub(crate) in_flight: usize,
    /// Calls since the start, without probes.
    pub(crate) calls: u64,
    /// Failures since the start.
    pub(crate) failures: u64,
}

/// State of the way to the remote units of a backend.
#[derive(Clone, Debug)]
pub(crate) struct RemoteStatus {
    /// Requests that wait for a unit.
    pub(crate) waiting: usize,
    /// Problem of the TLS files as they are now; the files read before are in force.
    pub(crate) files_problem: Option<String>,
    /// Time for which the access token is still valid; none if that is unknown, or without a token.
    pub(crate) token_valid_for: Option<Duration>,
}

impl UnitHealth {
    /// Master key of the unit, unless the unit is down.
    pub(crate) fn wkid_in_force(&self) -> Option<Wkid> {
        self.wkid.filter(|_| self.state != UnitState::Down)
    }
}

impl UnitState {
    /// Word for the state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Probing => "probing",
            Self::Down => "down",
        }
    }

    /// Word for the state of the circuit breaker.
    pub(crate) fn breaker(self) -> &'static str {
        match self {
            Self::Up => "closed",
            Self::Probing => "half-open",
            Self::Down => "open",
        }
    }
}
