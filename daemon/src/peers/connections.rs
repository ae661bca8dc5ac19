//! Who may stay connected: each user has its share, and the longest idle connections make room for new ones.
//!
//! Users whom no grant names share a few places. When all places are taken, the user with the most of them gives
//! one up, if it has more than the newcomer would have. So no user can keep another one out, however many
//! connections the user opens.
//!
//! A grant to a group or to a service may let in as many users as somebody can play, with a range
//! of subordinate user ids for example. All of them together have the share of one user whom a
//! grant names, and only some of them an account of their own.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::ground::fair::User;
use crate::peers::users::Account;
use crate::policy::authorise::{Grants, Peer, Who};

/// The connections of peers.
pub(crate) struct Connections {
    state: Mutex<State>,
    start: Instant,
}

#[derive(Default)]
struct State {
    users: HashMap<Name, Share>,
    total: usize,
    next_place: u64,
    next_user: User,
}

/// Whose connection it is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Name {
    /// A user whom a grant names; with the service, where that makes a difference.
    User { uid: u32, service: Option<Arc<str>> },
    /// A user whom grants know by a group or a service alone.
    Member { of: Who, uid: u32 },
    /// Further ones of these.
    OtherMembers { of: Who },
    /// A user whom no grant names.
    Stranger,
}

impl Name {
    fn of(peer: &Peer, grants: &Grants) -> Self {
        match grants.name(peer) {
            Some(Who { uid: Some(uid), .. }) => Self::User { uid: *uid, service: peer.service.clone() },
            Some(who) => Self::Member { of: who.clone(), uid: peer.uid },
            None => Self::Stranger,
        }
    }

    /// Whether both have one share of the places.
    fn shares_with(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Member { of: one, .. } | Self::OtherMembers { of: one },
                Self::Member { of: other, .. } | Self::OtherMembers { of: other },
            ) => one == other,
            _ => self == other,
        }
    }
}

/// The connections of a user.
struct Share {
    account: Arc<Account>,
    places: BTreeMap<u64, Arc<Spot>>,
    /// When the last connection was closed.
    left: Instant,
}

/// What is known of a connection.
struct Spot {
    /// Milliseconds since the start at which the connection had become idle; [`BUSY`] while a request is under
    /// way.
    idle_since: AtomicU64,
    close: CancellationToken,
    /// Cancelled when the connection is to end at once, whatever is under way.
    cut: CancellationToken,
    peer: Peer,
    /// Whether its service was looked for.
    by_service: bool,
}

const BUSY: u64 = u64::MAX;

/// Most connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of all users.
    pub(crate) total: usize,
    /// Of one user.
    pub(crate) per_user: usize,
}

/// What came of a new connection.
pub(crate) enum Entry {
    /// It may stay.
    Admitted(Place),
    /// It may stay, and an idle one of this user was closed for it.
    InPlaceOf(Name, Place),
    /// It may not.
    Refused,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), start: Instant::now() }
    }

    /// How many connections are open.
    pub(crate) fn total(&self) -> usize {
        self.lock().total
    }

    /// Finds a place for a new connection. `stop` closes the connection as soon as its requests are answered;
    /// so does another connection that needs the place.
    pub(crate) fn enter(
        self: &Arc<Self>,
        peer: &Peer,
        grants: &Grants,
        limits: Limits,
        stop: &CancellationToken,
    ) -> Entry {
        let by_service = grants.depend_on_service(peer.uid);
        self.enter_as(Name::of(peer, grants), peer, by_service, limits, stop)
    }

    /// The same for a peer whose name does not depend on grants.
    pub(crate) fn enter_as(
        self: &Arc<Self>,
        name: Name,
        peer: &Peer,
        by_service: bool,
        limits: Limits,
        stop: &CancellationToken,
    ) -> Entry {
        let mut state = self.lock();
        state.forget(Instant::now());
        let name = state.account_of(name);
        let most = if name == Name::Stranger { STRANGERS.min(limits.per_user) } else { limits.per_user };
        let from = if state.places_of(&name) >= most {
            Some(name.clone())
        } else if state.total >= limits.total {
            Some(state.who_makes_room_for(&name))
        } else {
            None
        };
        if let Some(from) = &from
            && !state.close_one(from, peer.uid, *from != name)
        {
            return Entry::Refused;
        }
        let close = stop.child_token();
        let idle_since = AtomicU64::new(self.since_start(Instant::now()));
        let cut = CancellationToken::new();
        let spot = Arc::new(Spot { idle_since, close, cut, peer: peer.clone(), by_service });
        let place = self.place(&mut state, &name, spot);
        match from {
            Some(from) => Entry::InPlaceOf(from, place),
            None => Entry::Admitted(place),
        }
    }

    fn place(self: &Arc<Self>, state: &mut State, name: &Name, spot: Arc<Spot>) -> Place {
        state.total += 1;
        state.next_place += 1;
        let number = state.next_place;
        let share = state.users.entry(name.clone()).or_insert_with(|| {
            state.next_user = state.next_user.wrapping_add(1);
            let account = Arc::new(Account::new(state.next_user));
            Share { account, places: BTreeMap::new(), left: Instant::now() }
        });
        share.places.insert(number, Arc::clone(&spot));
        let account = Arc::clone(&share.account);
        Place { connections: Arc::clone(self), name: name.clone(), number, spot, account }
    }

    /// Closes the connections that would be known otherwise by new grants, as soon as their requests are
    /// answered. The peers connect anew.
    pub(crate) fn review(&self, grants: &Grants) {
        for (name, share) in &self.lock().users {
            for spot in share.places.values() {
                let lacks_service = grants.depend_on_service(spot.peer.uid) && !spot.by_service;
                if lacks_service || !Name::of(&spot.peer, grants).shares_with(name) {
                    spot.close.cancel();
                }
            }
        }
    }

    /// Closes the longest idle connection of the user with the most: there are no descriptors left.
    pub(crate) fn make_room(&self) {
        let mut state = self.lock();
        let from = state.who_makes_room_for(&Name::Stranger);
        state.close_one(&from, u32::MAX, true);
    }

    fn leave(&self, name: &Name, number: u64) {
        let mut state = self.lock();
        if let Some(share) = state.users.get_mut(name)
            && share.places.remove(&number).is_some()
        {
            share.left = Instant::now();
            state.total -= 1;
        }
    }

    /// In milliseconds.
    fn since_start(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(BUSY - 1)
    }

    /// Held for a few steps.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Forgets users who have left long ago. What a user has used up must outlive its connections,
    /// or a new connection would make it good.
    fn forget(&mut self, now: Instant) {
        self.users.retain(|_, share| {
            !share.places.is_empty() || now.saturating_duration_since(share.left) < REMEMBERED
        });
    }

    /// The name of the account of a user: of those whom grants know by a group or a service, the
    /// first ones have an account of their own.
    fn account_of(&self, name: Name) -> Name {
        let Name::Member { of, .. } = &name else { return name };
        // Those that have left count, too, as long as they are remembered: one who can be many
        // users would have a new account with each of them.
        let is_one = |other: &&Name| matches!(other, Name::Member { of: other, .. } if other == of);
        let is_known = self.users.contains_key(&name);
        if is_known || self.users.keys().filter(is_one).count() < MEMBERS {
            name
        } else {
            Name::OtherMembers { of: of.clone() }
        }
    }

    fn places_of(&self, name: &Name) -> usize {
        self.users.get(name).map_or(0, |share| share.places.len())
    }

    /// Who has the most of all places, or the newcomer, if that has about as many. Of those with
    /// one share, the one with the most.
    fn who_makes_room_for(&self, newcomer: &Name) -> Name {
        let share_of = |name: &Name| -> usize {
            let users = self.users.iter().filter(|(other, _)| other.shares_with(name));
            users.map(|(_, share)| share.places.len()).sum()
        };
        let mut shares: Vec<(&Name, usize)> = Vec::new();
        for (name, share) in &self.users {
            match shares.iter_mut().find(|(one, _)| one.shares_with(name)) {
                Some((_, count)) => *count += share.places.len(),
                None => shares.push((name, share.places.len())),
            }
        }
        let largest = shares.into_iter().max_by_key(|(_, count)| *count);
        let largest = largest.filter(|(_, count)| *count > share_of(newcomer) + 1).map(|(name, _)| name);
        let from = largest.unwrap_or(newcomer);
        let users = self.users.iter().filter(|(name, _)| name.shares_with(from));
        let user = users.max_by_key(|(_, share)| share.places.len());
        // Among those with one share, a newcomer without a place takes that of somebody else.
        user.filter(|(_, share)| !share.places.is_empty()).map_or(newcomer, |(name, _)| name).clone()
    }

    /// Gives up a connection of a user for a newcomer: the one that has been idle longest, or if
    /// none is and `in_any_case` the oldest, whose requests are lost then. Either way the
    /// connection ends at once: descriptors are few.
    fn close_one(&mut self, name: &Name, newcomer: u32, in_any_case: bool) -> bool {
        let Some(share) = self.users.get_mut(name) else { return false };
        let (of, in_any_case) = match name {
            Name::OtherMembers { .. } if !in_any_case => share.who_makes_room_for(newcomer),
            _ => (None, in_any_case),
        };
        let idle_since = |spot: &Spot| spot.idle_since.load(Ordering::Relaxed);
        let longest = |most: usize| {
            let places = share.places.iter().filter(|(_, spot)| of.is_none_or(|uid| spot.peer.uid == uid));
            places.take(most).min_by_key(|(number, spot)| (idle_since(spot), **number))
        };
        // Nearly always one of the oldest has been idle longest, and to look at all takes a tenth
        // of a millisecond, which users who connect meanwhile would wait.
        let found =
            longest(OLDEST).filter(|(_, spot)| idle_since(spot) != BUSY).or_else(|| longest(usize::MAX));
        let Some((number, spot)) = found.filter(|(_, spot)| in_any_case || idle_since(spot) != BUSY) else {
            return false;
        };
        // At once, or descriptors would be held that nobody counts.
        spot.close.cancel();
        spot.cut.cancel();
        let number = *number;
        share.places.remove(&number);
        self.total -= 1;
        true
    }
}

impl Share {
    /// Of users who have one account together, the one that makes room for a newcomer, if that is
    /// not any of them, and whether it does in any case: the one with the most connections, if
    /// these are more than the newcomer would have, or if the newcomer has none.
    fn who_makes_room_for(&self, newcomer: u32) -> (Option<u32>, bool) {
        let mut counts = HashMap::<u32, usize>::new();
        for spot in self.places.values() {
            *counts.entry(spot.peer.uid).or_default() += 1;
        }
        let own = counts.get(&newcomer).copied().unwrap_or(0);
        match counts.into_iter().max_by_key(|(_, count)| *count) {
            Some((uid, most)) if own == 0 || most > own + 1 => (Some(uid), true),
            _ => (Some(newcomer), false),
        }
    }
}

/// The place of a connection, which is free again when this is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    name: Name,
    number: u64,
    spot: Arc<Spot>,
    account: Arc<Account>,
}

impl Place {
    /// What the connection shares with the others of its user.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Cancelled when the connection is to end.
    pub(crate) fn close(&self) -> &CancellationToken {
        &self.spot.close
    }

    /// Cancelled when the connection is to end at once.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.spot.cut
    }

    /// How long the connection may be idle, if that is bounded.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (self.name == Name::Stranger).then_some(PATIENCE)
    }

    /// A request is under way from now on.
    pub(crate) fn busy(&self) {
        self.spot.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// No request is under way since `now`.
    pub(crate) fn idle(&self, now: Instant) {
        self.spot.idle_since.store(self.connections.since_start(now), Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.leave(&self.name, self.number);
    }
}

/// How many of the oldest connections of a user are looked at for an idle one, before all of them
/// are.
const OLDEST: usize = 64;

/// Most users with an account of their own, of those whom grants know by the same group or service.
const MEMBERS: usize = 8;

/// Places of all users together whom no grant names.
const STRANGERS: usize = 64;

/// How long a connection of theirs may be idle.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long users without a connection are remembered. Their limits are all by the second.
const REMEMBERED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::authorise::Grant;

    const LIMITS: Limits = Limits { total: 10, per_user: 8 };

    fn user(uid: u32) -> Name {
        Name::User { uid, service: None }
    }

    fn grants(users: &[u32]) -> Grants {
        Grants::new(users.iter().map(|uid| Grant::everything(Who::user(*uid))).collect())
    }

    fn enter(connections: &Arc<Connections>, name: Name) -> Entry {
        let Name::User { uid, .. } = name else { panic!("not a user") };
        let peer = Peer { uid, ..Peer::default() };
        connections.enter(&peer, &grants(&[1, 2, 3]), LIMITS, &CancellationToken::new())
    }

    fn place(entry: Entry) -> Place {
        match entry {
            Entry::Admitted(place) | Entry::InPlaceOf(_, place) => place,
            Entry::Refused => panic!("refused"),
        }
    }

    #[test]
    fn the_longest_idle_connection_of_a_full_user_makes_room() {
        let connections = Arc::new(Connections::new());
        let mut places: Vec<_> = (0..8).map(|_| place(enter(&connections, user(1)))).collect();
        places[0].busy();
        let new = enter(&connections, user(1));
        assert!(matches!(&new, Entry::InPlaceOf(name, _) if *name == user(1)));
        assert!(!places[0].close().is_cancelled() && places[1].close().is_cancelled());
        places.push(place(new));
        for place in &places {
            place.busy();
        }
        assert!(matches!(enter(&connections, user(1)), Entry::Refused), "none is idle");
        assert_eq!(connections.total(), 8);
        drop(places);
        assert_eq!(connections.total(), 0);
    }

    #[test]
    fn a_user_with_many_gives_up_for_one_with_few() {
        let connections = Arc::new(Connections::new());
        let many: Vec<_> = (0..8).map(|_| place(enter(&connections, user(1)))).collect();
        many.iter().for_each(Place::busy);
        let mut few: Vec<_> = (0..2).map(|_| place(enter(&connections, user(2)))).collect();
        for _ in 0..3 {
            let new = enter(&connections, user(3));
            assert!(matches!(&new, Entry::InPlaceOf(name, _) if *name == user(1)), "even busy ones");
            few.push(place(new));
        }
        assert_eq!(many.iter().filter(|place| place.cut().is_cancelled()).count(), 3);
        assert_eq!(connections.total(), 10);
        few.push(place(enter(&connections, user(3))));
        // User 1 is left with 4, and user 3 has as many.
        let new = enter(&connections, user(3));
        assert!(matches!(&new, Entry::InPlaceOf(name, _) if *name == user(3)));
    }

    #[test]
    fn the_members_of_a_group_have_one_share_however_many_they_are() {
        let connections = Arc::new(Connections::new());
        let stop = CancellationToken::new();
        let group = Who { gid: Some(60), ..Who::default() };
        let grants = Grants::new(vec![Grant::everything(Who::user(1)), Grant::everything(group)]);
        let limits = Limits { total: 100, per_user: 80 };
        let enter = |uid, gid| {
            place(connections.enter(&Peer { uid, gid, ..Peer::default() }, &grants, limits, &stop))
        };
        let members: Vec<_> = (0..200).map(|number| enter(200_000 + number, 60)).collect();
        assert_eq!(connections.total(), MEMBERS + 80);
        let accounts: std::collections::HashSet<_> = members.iter().map(|place| place.account().id).collect();
        assert_eq!(accounts.len(), MEMBERS + 1);
        let mut users: Vec<_> = (0..50).map(|_| enter(1, 1)).collect();
        assert!(users.iter().all(|place| !place.close().is_cancelled()), "half of the places");
        users.push(enter(1, 1));
        let _late = enter(300_000, 60);
        let kept = users.iter().filter(|place| !place.close().is_cancelled()).count();
        assert!((49..=50).contains(&kept), "{kept}");
        assert_eq!(connections.total(), 100);
    }

    /// Places for peers with user ids of their own, all in one group that a grant names.
    fn members(per_user: usize) -> impl Fn(u32) -> Entry {
        let (connections, stop) = (Arc::new(Connections::new()), CancellationToken::new());
        let group = Who { gid: Some(60), ..Who::default() };
        let grants = Grants::new(vec![Grant::everything(group)]);
        let limits = Limits { total: 100, per_user };
        move |uid| connections.enter(&Peer { uid, gid: 60, ..Peer::default() }, &grants, limits, &stop)
    }

    #[test]
    fn a_member_who_is_many_users_gets_no_new_account_with_each() {
        let enter = members(8);
        let accounts: std::collections::HashSet<_> =
            (0..100).map(|number| place(enter(200_000 + number)).account().id).collect();
        assert_eq!(accounts.len(), MEMBERS + 1);
    }

    #[test]
    fn a_member_with_many_busy_connections_gives_up_for_one_without_any() {
        let enter = members(8);
        let first: Vec<_> = (0..8).map(|uid| place(enter(uid))).collect();
        let many: Vec<_> = (0..8).map(|_| place(enter(100))).collect();
        many.iter().for_each(Place::busy);
        let few = [place(enter(101)), place(enter(101)), place(enter(102))];
        few.iter().for_each(Place::busy);
        assert_eq!(many.iter().filter(|place| place.cut().is_cancelled()).count(), 3);
        assert!(matches!(enter(100), Entry::Refused), "it has the most, and none is idle");
        assert!(first.iter().chain(&few).all(|place| !place.cut().is_cancelled()));
        // Even if everybody has one.
        let all: Vec<_> = (103..108).map(|uid| place(enter(uid))).collect();
        all.iter().for_each(Place::busy);
        let late = place(enter(200));
        assert!(!late.cut().is_cancelled());
    }

    #[test]
    fn strangers_share_their_places() {
        let connections = Arc::new(Connections::new());
        let limits = Limits { total: 4096, per_user: 1024 };
        let stop = CancellationToken::new();
        let uids = core::cell::Cell::new(1000);
        let enter = || {
            let peer = Peer { uid: uids.replace(uids.get() + 1), ..Peer::default() };
            connections.enter(&peer, &grants(&[1]), limits, &stop)
        };
        let places: Vec<_> = (0..STRANGERS + 10).map(|_| place(enter())).collect();
        assert_eq!(connections.total(), STRANGERS);
        assert_eq!(places.iter().filter(|place| place.close().is_cancelled()).count(), 10);
        assert!(places[0].patience().is_some());
    }

    #[test]
    fn new_grants_close_the_connections_that_they_see_otherwise() {
        let connections = Arc::new(Connections::new());
        let stop = CancellationToken::new();
        let before = grants(&[1]);
        let enter = |uid| {
            let peer = Peer { uid, ..Peer::default() };
            place(connections.enter(&peer, &before, LIMITS, &stop))
        };
        let (one, two) = (enter(1), enter(2));
        connections.review(&before);
        assert!(!one.close().is_cancelled() && !two.close().is_cancelled());
        connections.review(&grants(&[1, 2]));
        assert!(!one.close().is_cancelled() && two.close().is_cancelled(), "no stranger any more");
        let service = Who { service: Some("nginx.service".into()), ..Who::user(1) };
        connections.review(&Grants::new(vec![Grant::everything(service)]));
        assert!(one.close().is_cancelled(), "of what service?");
    }

    #[test]
    fn a_user_who_comes_back_has_the_same_account() {
        let connections = Arc::new(Connections::new());
        let first = place(enter(&connections, user(1)));
        let account = Arc::clone(first.account());
        drop(first);
        let again = place(enter(&connections, user(1)));
        assert!(Arc::ptr_eq(again.account(), &account));
        assert!(!Arc::ptr_eq(place(enter(&connections, user(2))).account(), &account));
    }
}
