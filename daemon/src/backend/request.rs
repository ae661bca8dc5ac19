//! Request to a backend: the part that is the same for every kind of backend.

use core::time::Duration;
use std::time::Instant;

use aws_lc_rs::rand;

use super::Backend;
use crate::ground::fair::{NOBODY, User};
use crate::observe::metrics::SignatureTimes;

/// Context of a request: deadline, trace and user. The backend adds to the times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    /// Time after which nobody waits for the answer.
    pub(crate) deadline: Instant,
    /// Name of the request. The unit gets the name if its protocol has a field for the name.
    pub(crate) trace: Trace,
    /// User whose turn the request takes while units are busy.
    pub(crate) user: User,
    /// Time that the request has taken so far.
    pub(crate) times: Times,
}

impl Context {
    /// Context of a request of a peer.
    pub(crate) fn new(deadline: Instant, trace: Trace, user: User) -> Self {
        Self { deadline, trace, user, times: Times::default() }
    }

    /// Context of a request that the daemon or an administrator makes.
    pub(crate) fn of_daemon(time_limit: Duration) -> Self {
        Self::new(Instant::now() + time_limit, Trace::new(random(), 0), NOBODY)
    }
}

/// Time of each part of a signature.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Wait for a unit.
    pub(crate) queue: Duration,
    /// Network round trip.
    pub(crate) network: Duration,
    /// Work of the unit.
    pub(crate) unit: Duration,
    /// Verification of the signature.
    pub(crate) verify: Duration,
}

impl Times {
    /// The times of a signature of this backend, for metrics.
    pub(crate) fn of(&self, backend: &Backend) -> SignatureTimes {
        let phases = [self.unit, self.queue, self.network, self.verify];
        SignatureTimes { phases, remote: backend.has_network_time() }
    }
}

/// Name of one request of a peer, in the form of W3C Trace Context. The calls to units for a
/// request carry the name, so a trace shows them together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trace {
    /// Number of the peer's connection.
    session: u64,
    /// Number that the peer gave the request.
    request: u64,
}

impl Trace {
    pub(crate) fn new(session: u64, request: u64) -> Self {
        Self { session, request }
    }

    /// The 16 bytes of [`Self::id`].
    pub(crate) fn number(self) -> u128 {
        u128::from(self.session) << 64 | u128::from(self.request)
    }

    /// Trace id: 16 bytes in hexadecimal. The last eight bytes are the number of the request.
    pub(crate) fn id(self) -> String {
        format!("{:016x}{:016x}", self.session, self.request)
    }

    /// `traceparent` for one call (W3C Trace Context, 3.2): version, trace id, a new random id of
    /// the call, and the flag that the call is recorded.
    pub(super) fn parent(self) -> String {
        format!("00-{}-{:016x}-01", self.id(), random())
    }
}

/// Random number that is not zero, which Trace Context forbids.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random bytes all ids are the same. Only readers of traces notice.
    let _ = rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_as_in_the_standard() {
        let header = Trace::new(0xa, 0xb).parent();
        let parts: Vec<_> = header.split('-').collect();
        assert_eq!((parts[0], parts[1]), ("00", "000000000000000a000000000000000b"));
        assert_eq!((parts[2].len(), parts[3], parts.len()), (16, "01", 4));
    }
}
