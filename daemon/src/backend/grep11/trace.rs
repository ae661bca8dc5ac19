//! W3C trace context: how a request of a peer and the calls to units that it causes are found to belong together.

use aws_lc_rs::rand;
use tonic::metadata::{Ascii, MetadataValue};

/// Names one request of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trace {
    /// Of the peer's connection.
    session: u64,
    /// Of the request, as the peer numbers them.
    request: u64,
}

impl Trace {
    pub(crate) fn new(session: u64, request: u64) -> Self {
        Self { session, request }
    }

    /// The trace id: 16 bytes, of which the last eight are the number of the request.
    pub(crate) fn id(self) -> String {
        format!("{:016x}{:016x}", self.session, self.request)
    }

    /// `traceparent` for one call (W3C Trace Context, 3.2): version, trace id, an id of the call, and that it is
    /// recorded.
    pub(super) fn header(&self) -> Option<MetadataValue<Ascii>> {
        format!("00-{}-{:016x}-01", self.id(), random()).parse().ok()
    }
}

/// A number that is not zero, which the standard has no use for.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without random numbers all are the same, which confuses only those who read traces.
    let _ = rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_standard() {
        let header = Trace::new(0xa, 0xb).header().unwrap();
        let parts: Vec<_> = header.to_str().unwrap().split('-').collect();
        assert_eq!((parts[0], parts[1]), ("00", "000000000000000a000000000000000b"));
        assert_eq!((parts[2].len(), parts[3], parts.len()), (16, "01", 4));
    }
}
