//! Connection slots: which peers may stay connected.
//!
//! Each user has a limit of connections. At the limit, the connection of the user that has been
//! idle longest is closed for a new one. All users without a grant share [`MAX_WITHOUT_GRANT`]
//! slots.
//!
//! When all slots are taken, the user with the most connections gives up one, if it has more than
//! the user of the new connection would have. So no user can keep another user out, however many
//! connections it opens.
//!
//! A grant to a group or to a service may admit as many users as somebody can run processes for,
//! for example with a range of subordinate user ids. All these users together count as one user,
//! and only some of them have an account of their own.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::peers::owner::Owner;
use crate::peers::slot_table::{BUSY, Connection, SlotTable};
use crate::peers::users::Account;
use crate::policy::authorise::{Grants, Peer};

/// Open connections of all peers.
pub(crate) struct Connections {
    slots: Mutex<SlotTable>,
    start: Instant,
}

/// Maximum numbers of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Of all users.
    pub(crate) total: usize,
    /// Of one user.
    pub(crate) per_user: usize,
}

/// Answer to a new connection.
pub(crate) enum Admission {
    /// There was a free slot.
    Admitted(Slot),
    /// A connection of this owner was closed to make room.
    Replaced(Owner, Slot),
    /// There is no slot for the connection.
    Refused,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { slots: Mutex::default(), start: Instant::now() }
    }

    /// Number of open connections.
    pub(crate) fn total(&self) -> usize {
        self.lock().total()
    }

    /// Finds a slot for a new connection. `stop` closes the connection after the answers to its
    /// requests.
    pub(crate) fn admit(
        self: &Arc<Self>,
        peer: &Peer,
        grants: &Grants,
        limits: ConnectionLimits,
        stop: &CancellationToken,
    ) -> Admission {
        let has_service_lookup = grants.depend_on_service(peer.uid);
        self.admit_for(Owner::of(peer, grants), peer, has_service_lookup, limits, stop)
    }

    /// Finds a slot for a new connection of a given owner.
    pub(crate) fn admit_for(
        self: &Arc<Self>,
        owner: Owner,
        peer: &Peer,
        has_service_lookup: bool,
        limits: ConnectionLimits,
        stop: &CancellationToken,
    ) -> Admission {
        let mut slots = self.lock();
        slots.forget_absent_owners(Instant::now());
        let owner = slots.owner_with_account(owner);
        let most = match &owner {
            Owner::WithoutGrant => MAX_WITHOUT_GRANT.min(limits.per_user),
            _ => limits.per_user,
        };
        let replaced = if slots.count(&owner) >= most {
            Some(owner.clone())
        } else if slots.total() >= limits.total {
            Some(slots.owner_to_replace(&owner))
        } else {
            None
        };
        if let Some(replaced) = &replaced
            && !slots.close_one(replaced, peer.uid, *replaced != owner)
        {
            return Admission::Refused;
        }
        let connection = Arc::new(Connection {
            idle_since: AtomicU64::new(self.since_start(Instant::now())),
            close: stop.child_token(),
            abort: CancellationToken::new(),
            peer: peer.clone(),
            has_service_lookup,
        });
        let (number, account) = slots.insert(&owner, Arc::clone(&connection));
        let slot = Slot { connections: Arc::clone(self), owner, number, connection, account };
        match replaced {
            Some(replaced) => Admission::Replaced(replaced, slot),
            None => Admission::Admitted(slot),
        }
    }

    /// Closes the connections that have another owner under new grants, after the answers to their
    /// requests. Their peers connect again.
    pub(crate) fn apply_grants(&self, grants: &Grants) {
        self.lock().apply_grants(grants);
    }

    /// Closes a connection of the user with the most connections, because the process has no
    /// descriptors left.
    pub(crate) fn free_a_descriptor(&self) {
        let mut slots = self.lock();
        let owner = slots.owner_to_replace(&Owner::WithoutGrant);
        slots.close_one(&owner, u32::MAX, true);
    }

    /// Milliseconds from the start of the daemon to `now`.
    fn since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(BUSY - 1)
    }

    /// Locks the table. No caller waits while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, SlotTable> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slot of one connection. Dropping the slot frees it for another connection.
pub(crate) struct Slot {
    connections: Arc<Connections>,
    owner: Owner,
    number: u64,
    connection: Arc<Connection>,
    account: Arc<Account>,
}

impl Slot {
    /// Account that the connection shares with the other connections of its owner.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Token that is cancelled to close the connection after the answers to its requests.
    pub(crate) fn close_token(&self) -> &CancellationToken {
        &self.connection.close
    }

    /// Token that is cancelled to close the connection at once.
    pub(crate) fn abort_token(&self) -> &CancellationToken {
        &self.connection.abort
    }

    /// Longest time that the connection may be idle. `None` if there is no limit.
    pub(crate) fn idle_limit(&self) -> Option<Duration> {
        (self.owner == Owner::WithoutGrant).then_some(IDLE_WITHOUT_GRANT)
    }

    /// Marks the connection as busy: a request is in progress.
    pub(crate) fn set_busy(&self) {
        self.connection.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// True while the connection is marked as busy.
    pub(crate) fn is_busy(&self) -> bool {
        self.connection.idle_since.load(Ordering::Relaxed) == BUSY
    }

    /// Marks the connection as idle since `now`.
    pub(crate) fn set_idle(&self, now: Instant) {
        self.connection.idle_since.store(self.connections.since_start(now), Ordering::Relaxed);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, number, .. } = self;
        f.debug_struct("Slot").field("owner", owner).field("number", number).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.owner, self.number);
    }
}

/// Maximum number of connections of all users without a grant together.
const MAX_WITHOUT_GRANT: usize = 64;

/// Longest time that a connection of a user without a grant may be idle.
const IDLE_WITHOUT_GRANT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::slot_table::MAX_MEMBERS;
    use crate::policy::authorise::{Grant, Who};

    const LIMITS: ConnectionLimits = ConnectionLimits { total: 10, per_user: 8 };

    fn user(uid: u32) -> Owner {
        Owner::Named { uid, service: None }
    }

    fn grants(users: &[u32]) -> Grants {
        Grants::new(users.iter().map(|uid| Grant::everything(Who::user(*uid))).collect())
    }

    fn admit(connections: &Arc<Connections>, owner: Owner) -> Admission {
        let Owner::Named { uid, .. } = owner else { panic!("not a user") };
        let peer = Peer { uid, ..Peer::default() };
        connections.admit(&peer, &grants(&[1, 2, 3]), LIMITS, &CancellationToken::new())
    }

    fn slot(entry: Admission) -> Slot {
        match entry {
            Admission::Admitted(slot) | Admission::Replaced(_, slot) => slot,
            Admission::Refused => panic!("refused"),
        }
    }

    #[test]
    fn the_longest_idle_connection_of_a_full_user_makes_room() {
        let connections = Arc::new(Connections::new());
        let mut slots: Vec<_> = (0..8).map(|_| slot(admit(&connections, user(1)))).collect();
        slots[0].set_busy();
        let new = admit(&connections, user(1));
        assert!(matches!(&new, Admission::Replaced(owner, _) if *owner == user(1)));
        assert!(!slots[0].close_token().is_cancelled() && slots[1].close_token().is_cancelled());
        slots.push(slot(new));
        for slot in &slots {
            slot.set_busy();
        }
        assert!(matches!(admit(&connections, user(1)), Admission::Refused), "none is idle");
        assert_eq!(connections.total(), 8);
        drop(slots);
        assert_eq!(connections.total(), 0);
    }

    #[test]
    fn the_user_with_the_most_connections_gives_up_one() {
        let connections = Arc::new(Connections::new());
        let many: Vec<_> = (0..8).map(|_| slot(admit(&connections, user(1)))).collect();
        many.iter().for_each(Slot::set_busy);
        let mut few: Vec<_> = (0..2).map(|_| slot(admit(&connections, user(2)))).collect();
        for _ in 0..3 {
            let new = admit(&connections, user(3));
            assert!(matches!(&new, Admission::Replaced(owner, _) if *owner == user(1)), "even busy ones");
            few.push(slot(new));
        }
        assert_eq!(many.iter().filter(|slot| slot.abort_token().is_cancelled()).count(), 3);
        assert_eq!(connections.total(), 10);
        few.push(slot(admit(&connections, user(3))));
        // User 1 is left with 4, and user 3 has as many.
        let new = admit(&connections, user(3));
        assert!(matches!(&new, Admission::Replaced(owner, _) if *owner == user(3)));
    }

    #[test]
    fn members_of_a_group_count_as_one_user() {
        let connections = Arc::new(Connections::new());
        let stop = CancellationToken::new();
        let group = Who { gid: Some(60), ..Who::default() };
        let grants = Grants::new(vec![Grant::everything(Who::user(1)), Grant::everything(group)]);
        let limits = ConnectionLimits { total: 100, per_user: 80 };
        let admit =
            |uid, gid| slot(connections.admit(&Peer { uid, gid, ..Peer::default() }, &grants, limits, &stop));
        let members: Vec<_> = (0..200).map(|number| admit(200_000 + number, 60)).collect();
        assert_eq!(connections.total(), MAX_MEMBERS + 80);
        let accounts: std::collections::HashSet<_> = members.iter().map(|slot| slot.account().id).collect();
        assert_eq!(accounts.len(), MAX_MEMBERS + 1);
        let mut users: Vec<_> = (0..50).map(|_| admit(1, 1)).collect();
        assert!(users.iter().all(|slot| !slot.close_token().is_cancelled()), "half of the slots");
        users.push(admit(1, 1));
        let _late = admit(300_000, 60);
        let kept = users.iter().filter(|slot| !slot.close_token().is_cancelled()).count();
        assert!((49..=50).contains(&kept), "{kept}");
        assert_eq!(connections.total(), 100);
    }

    /// Slots for peers with user ids of their own, all in one group that a grant names.
    fn members(per_user: usize) -> impl Fn(u32) -> Admission {
        let (connections, stop) = (Arc::new(Connections::new()), CancellationToken::new());
        let group = Who { gid: Some(60), ..Who::default() };
        let grants = Grants::new(vec![Grant::everything(group)]);
        let limits = ConnectionLimits { total: 100, per_user };
        move |uid| connections.admit(&Peer { uid, gid: 60, ..Peer::default() }, &grants, limits, &stop)
    }

    #[test]
    fn a_member_with_many_user_ids_gets_no_new_account_with_each() {
        let admit = members(8);
        let accounts: std::collections::HashSet<_> =
            (0..100).map(|number| slot(admit(200_000 + number)).account().id).collect();
        assert_eq!(accounts.len(), MAX_MEMBERS + 1);
    }

    #[test]
    fn a_member_with_many_busy_connections_gives_up_for_one_without_any() {
        let admit = members(8);
        let first: Vec<_> = (0..8).map(|uid| slot(admit(uid))).collect();
        let many: Vec<_> = (0..8).map(|_| slot(admit(100))).collect();
        many.iter().for_each(Slot::set_busy);
        let few = [slot(admit(101)), slot(admit(101)), slot(admit(102))];
        few.iter().for_each(Slot::set_busy);
        assert_eq!(many.iter().filter(|slot| slot.abort_token().is_cancelled()).count(), 3);
        assert!(matches!(admit(100), Admission::Refused), "it has the most, and none is idle");
        assert!(first.iter().chain(&few).all(|slot| !slot.abort_token().is_cancelled()));
        // Even if everybody has one.
        let all: Vec<_> = (103..108).map(|uid| slot(admit(uid))).collect();
        all.iter().for_each(Slot::set_busy);
        let late = slot(admit(200));
        assert!(!late.abort_token().is_cancelled());
    }

    #[test]
    fn connections_that_a_member_has_closed_do_not_count() {
        let admit = members(8);
        let accounts: Vec<_> = (0..8).map(|uid| slot(admit(uid))).collect();
        let mut first: Vec<_> = (0..5).map(|_| slot(admit(100))).collect();
        let second: Vec<_> = (0..3).map(|_| slot(admit(101))).collect();
        first.truncate(1);
        let more: Vec<_> = (102..106).map(|uid| slot(admit(uid))).collect();
        let late = slot(admit(200));
        assert!(first.iter().chain(&more).all(|slot| !slot.close_token().is_cancelled()));
        assert_eq!(second.iter().filter(|slot| slot.close_token().is_cancelled()).count(), 1);
        drop((accounts, late));
    }

    /// A range of user ids that come one after the other does not push out a member that came
    /// before, whichever of the ids is larger.
    #[test]
    fn of_members_with_one_connection_the_newest_gives_up_its_own() {
        for member in [50, 5_000_000] {
            let admit = members(8);
            let accounts: Vec<_> = (0..8).map(|uid| slot(admit(uid))).collect();
            let kept = slot(admit(member));
            kept.set_busy();
            let range: Vec<_> = (100_000..100_050).map(|uid| slot(admit(uid))).collect();
            assert!(!kept.abort_token().is_cancelled(), "{member}");
            drop((accounts, range));
        }
    }

    #[test]
    fn users_without_a_grant_share_their_slots() {
        let connections = Arc::new(Connections::new());
        let limits = ConnectionLimits { total: 4096, per_user: 1024 };
        let stop = CancellationToken::new();
        let uids = core::cell::Cell::new(1000);
        let admit = || {
            let peer = Peer { uid: uids.replace(uids.get() + 1), ..Peer::default() };
            connections.admit(&peer, &grants(&[1]), limits, &stop)
        };
        let slots: Vec<_> = (0..MAX_WITHOUT_GRANT + 10).map(|_| slot(admit())).collect();
        assert_eq!(connections.total(), MAX_WITHOUT_GRANT);
        assert_eq!(slots.iter().filter(|slot| slot.close_token().is_cancelled()).count(), 10);
        assert!(slots[0].idle_limit().is_some());
    }

    #[test]
    fn new_grants_close_connections_whose_owner_they_change() {
        let connections = Arc::new(Connections::new());
        let stop = CancellationToken::new();
        let before = grants(&[1]);
        let admit = |uid| {
            let peer = Peer { uid, ..Peer::default() };
            slot(connections.admit(&peer, &before, LIMITS, &stop))
        };
        let (one, two) = (admit(1), admit(2));
        connections.apply_grants(&before);
        assert!(!one.close_token().is_cancelled() && !two.close_token().is_cancelled());
        connections.apply_grants(&grants(&[1, 2]));
        assert!(
            !one.close_token().is_cancelled() && two.close_token().is_cancelled(),
            "user 2 has a grant now"
        );
        let service = Who { service: Some("nginx.service".into()), ..Who::user(1) };
        connections.apply_grants(&Grants::new(vec![Grant::everything(service)]));
        assert!(one.close_token().is_cancelled(), "its service was not looked up");
    }

    #[test]
    fn a_user_who_comes_back_has_the_same_account() {
        let connections = Arc::new(Connections::new());
        let first = slot(admit(&connections, user(1)));
        let account = Arc::clone(first.account());
        drop(first);
        let again = slot(admit(&connections, user(1)));
        assert!(Arc::ptr_eq(again.account(), &account));
        assert!(!Arc::ptr_eq(slot(admit(&connections, user(2))).account(), &account));
    }
}
