//! The owner of a connection: the user or the users whose limits the connection counts against.

use std::sync::Arc;

use crate::policy::authorise::{Grants, Peer, Who};

/// Owner of connections. The connections of one owner share one account.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Owner {
    /// A user that a grant names by user id. The service is set if grants tell services apart.
    Named { uid: u32, service: Option<Arc<str>> },
    /// A user that grants name only by group or by service.
    Member { of: Who, uid: u32 },
    /// Further members of the same group or service, together.
    OtherMembers { of: Who },
    /// All users without a grant, together.
    WithoutGrant,
}

impl Owner {
    /// Owner of the connections of a peer under these grants.
    pub(super) fn of(peer: &Peer, grants: &Grants) -> Self {
        match grants.name(peer) {
            Some(Who { uid: Some(uid), .. }) => Self::Named { uid: *uid, service: peer.service.clone() },
            Some(who) => Self::Member { of: who.clone(), uid: peer.uid },
            None => Self::WithoutGrant,
        }
    }

    /// True if the connections of both owners count together when slots are scarce. All members
    /// of a group or of a service count as one user.
    pub(super) fn counts_with(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Member { of: one, .. } | Self::OtherMembers { of: one },
                Self::Member { of: other, .. } | Self::OtherMembers { of: other },
            ) => one == other,
            _ => self == other,
        }
    }
}
