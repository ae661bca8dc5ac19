//! Health of units, for people and metrics.

use core::time::Duration;

use keyward_unit::Wkid;

/// Health of one unit now.
#[derive(Clone, Debug)]
pub(crate) struct UnitHealth {
    /// Address of the unit, for people.
    pub(crate) address: String,
    pub(crate) state: UnitState,
    /// Master key of the unit, if known.
    pub(crate) wkid: Option<Wkid>,
    /// Second master key of the unit while the master key is changed; `None` if there is none, or
    /// it is unknown.
    pub(crate) next_wkid: Option<Wkid>,
    /// Names of the mechanisms that the unit offers; empty for the embedded unit.
    pub(crate) mechanisms: Vec<String>,
    /// Problem of the unit, or of the connection to the unit.
    pub(crate) problem: Option<String>,
    /// Load of a remote unit; none for a unit in this process.
    pub(crate) load: Option<Load>,
}

/// State of a unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UnitState {
    /// Requests go to the unit.
    Up,
    /// A probe has succeeded after a failure, but no request has succeeded yet.
    Probing,
    /// No request goes to the unit.
    Down,
}

/// Load of a remote unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Time that the next call is expected to take.
    pub(crate) latency: Duration,
    /// Calls in progress.
    pub(crate) in_flight: usize,
    /// Calls since the start, without probes.
    pub(crate) calls: u64,
    /// Failures since the start.
    pub(crate) failures: u64,
}

/// State of the access to the remote units of a backend.
#[derive(Clone, Debug)]
pub(crate) struct RemoteStatus {
    /// Requests that wait for a unit.
    pub(crate) waiting: usize,
    /// Problem of the present TLS files. The files that were read before stay in force.
    pub(crate) files_problem: Option<String>,
    /// Remaining validity of the access token; `None` if unknown, or without a token.
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
