//! Who is on the other end of a connection, by the word of the kernel.
//!
//! In a user namespace (user_namespaces(7)) the kernel shows every user that the namespace does not know under
//! one and the same id, that of nobody. A grant for that id would be one for all of them, so such peers are
//! refused.

use std::fs;
use std::os::fd::AsFd;
use std::sync::LazyLock;

use nix::sys::socket::{getsockopt, sockopt};

use crate::ground::throttle::Throttle;
use crate::policy::authorise::Peer;

/// The process that connected; `None` if the kernel does not say, or only that it is one of many.
pub(crate) fn credentials(stream: &impl AsFd) -> Option<Peer> {
    static LINES: LazyLock<Throttle> = LazyLock::new(Throttle::default);
    let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    let (uid, gid, pid) = (credentials.uid(), credentials.gid(), credentials.pid());
    let peer = Peer { uid, gid, pid, ..Peer::default() };
    if !OVERFLOW.hides(&peer) {
        return Some(peer);
    }
    if let Some(times) = LINES.admit() {
        tracing::warn!(
            uid = peer.uid,
            gid = peer.gid,
            times,
            "refused a peer: this daemon runs in a user namespace that does not know its user or group, and an id that stands for all such is no identity; run the daemon outside (PrivateUsers=no), or map the user"
        );
    }
    None
}

/// Supplementary groups without those that this user namespace does not know.
pub(crate) fn known_groups(groups: Vec<u32>) -> Vec<u32> {
    groups.into_iter().filter(|gid| OVERFLOW.gid != Some(*gid)).collect()
}

static OVERFLOW: LazyLock<Overflow> = LazyLock::new(Overflow::read);

/// The ids that stand for everybody whom this user namespace does not know; none where it knows all.
#[derive(Debug, Eq, PartialEq)]
struct Overflow {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Overflow {
    fn read() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            uid: hidden(&read("/proc/self/uid_map"), &read("/proc/sys/kernel/overflowuid")),
            gid: hidden(&read("/proc/self/gid_map"), &read("/proc/sys/kernel/overflowgid")),
        }
    }

    fn hides(&self, peer: &Peer) -> bool {
        self.uid == Some(peer.uid) || self.gid == Some(peer.gid)
    }
}

/// The id that stands for others under a map. A map that cannot be read is taken for one that hides some.
fn hidden(map: &str, overflow: &str) -> Option<u32> {
    let is_whole = map.split_whitespace().eq(WHOLE.split(' '));
    (!is_whole).then(|| overflow.trim().parse().unwrap_or(DEFAULT_OVERFLOW))
}

/// The map of a namespace that shows every id as it is.
const WHOLE: &str = "0 0 4294967295";

/// DEFAULT_OVERFLOWUID and DEFAULT_OVERFLOWGID of the kernel.
const DEFAULT_OVERFLOW: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_stands_for_many_is_none() {
        assert_eq!(hidden("         0          0 4294967295\n", "65534\n"), None);
        for map in ["", "0 0 1\n", "0 1000 1\n1 100000 65536\n", "0 100000 4294967295\n", "1 1 4294967294\n"]
        {
            assert_eq!(hidden(map, "65534\n"), Some(65534), "{map}");
        }
        assert_eq!(hidden("0 0 1", "7"), Some(7));
        assert_eq!(hidden("0 0 1", ""), Some(65534));
        let peer = Peer { gid: 65534, ..Peer::default() };
        assert!(Overflow { uid: Some(65534), gid: Some(65534) }.hides(&peer));
        assert!(!Overflow { uid: Some(65534), gid: None }.hides(&peer));
    }
}
