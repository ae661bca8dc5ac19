//! Orders for keys that were called compromised: their certificates are to be revoked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::known::digest;
use super::revocation::At;
use crate::keys::certificates::Certificate;

/// An order whose request was signed before a person called its public key compromised. The daemon
/// keeps the order until the agent has brought its certificate, or a person gives the order up.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct FormerOrder {
    /// URL of the order.
    pub(crate) url: String,
    /// The authority that has it.
    #[serde(flatten)]
    pub(crate) at: At,
    /// Name of the plan that had the order, and label of its key.
    pub(crate) plan: String,
    pub(crate) key: String,
    /// Public key of the request.
    pub(crate) public_key: String,
    /// Names of the request.
    pub(crate) names: Vec<String>,
    /// Time at which the order was noted.
    pub(crate) since: u64,
    /// Time at which the agent looks at the order again.
    pub(crate) next_look: u64,
}

impl FormerOrder {
    /// True if the agent looks at it now. A time of a clock that was wrong counts for nothing.
    pub(crate) fn is_to_be_read(&self, now: u64) -> bool {
        self.next_look <= now || self.next_look > now.saturating_add(2 * LONGEST_PAUSE)
    }

    /// True if a certificate has its public key and its names.
    pub(super) fn is_of(&self, certificate: &Certificate) -> bool {
        let kind = |name: &str| if name.parse::<IpAddr>().is_ok() { "ip" } else { "dns" };
        let names = self.names.iter().map(|name| (kind(name), name.to_ascii_lowercase()));
        let has: BTreeSet<_> = certificate.identifiers().iter().cloned().collect();
        self.public_key == digest(certificate.spki()) && names.collect::<BTreeSet<_>>() == has
    }

    /// Notes that the agent looks at it now. The pauses grow with its age.
    pub(super) fn read(&mut self, now: u64) {
        let age = now.saturating_sub(self.since);
        self.next_look = now.saturating_add(age.clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
    }
}

/// Seconds between two looks at an order whose certificate is to be revoked.
const SHORTEST_PAUSE: u64 = 60;
const LONGEST_PAUSE: u64 = 86_400;
