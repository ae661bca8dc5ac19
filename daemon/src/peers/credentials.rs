//! Credentials of the process at the other end of a connection, from the kernel.
//!
//! In a user namespace (user_namespaces(7)) the kernel shows all users that the namespace does not
//! map under one id, the overflow id. A grant to that id would be a grant to all these users, so
//! such peers are refused.

use std::fs;
use std::os::fd::AsFd;
use std::sync::{Arc, LazyLock};

use nix::sys::socket::{getsockopt, sockopt};

use crate::ground::throttle::Throttle;
use crate::peers::system::peer_groups;
use crate::policy::authorise::Peer;

/// Credentials of the process that has connected. `None` if the kernel gives none, or shows the
/// user or the group under the overflow id.
pub(crate) fn credentials(stream: &impl AsFd) -> Option<Peer> {
    static LOG_LIMIT: LazyLock<Throttle> = LazyLock::new(Throttle::default);
    let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
    let peer = Peer { uid, gid, pid, ..Peer::default() };
    if !OVERFLOW.hides(&peer) {
        return Some(peer);
    }
    if let Some(times) = LOG_LIMIT.admit() {
        tracing::warn!(
            uid = peer.uid,
            gid = peer.gid,
            times,
            "refused a peer: the user namespace of this daemon does not map its user or group, so its id may be that of any user; run the daemon outside the namespace (PrivateUsers=no), or map the user"
        );
    }
    None
}

/// [`credentials`], with the supplementary groups of the process. Without these groups if they
/// cannot be read.
pub(crate) fn credentials_with_groups(stream: &impl AsFd) -> Option<Peer> {
    let peer = credentials(stream)?;
    Some(Peer { groups: groups(stream), ..peer })
}

/// Supplementary groups of the process that has connected, without the overflow id. Empty if they
/// cannot be read.
pub(super) fn groups(stream: &impl AsFd) -> Arc<[u32]> {
    known_groups(peer_groups(stream.as_fd()).unwrap_or_default()).into()
}

/// Removes the overflow id from supplementary groups.
fn known_groups(groups: Vec<u32>) -> Vec<u32> {
    groups.into_iter().filter(|gid| OVERFLOW.gid != Some(*gid)).collect()
}

static OVERFLOW: LazyLock<Overflow> = LazyLock::new(Overflow::read);

/// Overflow ids of this user namespace. `None` if the namespace maps all ids.
#[derive(Debug, Eq, PartialEq)]
struct Overflow {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Overflow {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            uid: overflow_id(&read("/proc/self/uid_map"), &read("/proc/sys/kernel/overflowuid")),
            gid: overflow_id(&read("/proc/self/gid_map"), &read("/proc/sys/kernel/overflowgid")),
        }
    }

    /// True if the user or the group of a peer is shown under an overflow id.
    fn hides(&self, peer: &Peer) -> bool {
        self.uid == Some(peer.uid) || self.gid == Some(peer.gid)
    }
}

/// Overflow id of a namespace with this map of ids. An unreadable map counts as one with gaps.
fn overflow_id(map: &str, overflow: &str) -> Option<u32> {
    let is_complete = map.split_whitespace().eq(COMPLETE.split(' '));
    (!is_complete).then(|| overflow.trim().parse().unwrap_or(DEFAULT_OVERFLOW))
}

/// Map of a namespace that shows every id as it is.
const COMPLETE: &str = "0 0 4294967295";

/// DEFAULT_OVERFLOWUID and DEFAULT_OVERFLOWGID of the kernel.
const DEFAULT_OVERFLOW: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflow_id_identifies_nobody() {
        assert_eq!(overflow_id("         0          0 4294967295\n", "65534\n"), None);
        for map in ["", "0 0 1\n", "0 1000 1\n1 100000 65536\n", "0 100000 4294967295\n", "1 1 4294967294\n"]
        {
            assert_eq!(overflow_id(map, "65534\n"), Some(65534), "{map}");
        }
        assert_eq!(overflow_id("0 0 1", "7"), Some(7));
        assert_eq!(overflow_id("0 0 1", ""), Some(65534));
        let peer = Peer { gid: 65534, ..Peer::default() };
        assert!(Overflow { uid: Some(65534), gid: Some(65534) }.hides(&peer));
        assert!(!Overflow { uid: Some(65534), gid: None }.hides(&peer));
    }
}
