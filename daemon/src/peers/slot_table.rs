//! The table of connection slots: which owner has which connections, and which connection is
//! closed for a new one.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::ground::fair::User;
use crate::peers::owner::Owner;
use crate::peers::users::Account;
use crate::policy::authorise::{Grants, Peer};

/// Connection slots in use, by owner.
#[derive(Default)]
pub(super) struct SlotTable {
    owners: HashMap<Owner, OwnerSlots>,
    total: usize,
    last_slot: u64,
    last_user: User,
}

/// Slots of one owner.
struct OwnerSlots {
    account: Arc<Account>,
    /// Connections by slot number. A smaller number is an older connection.
    connections: BTreeMap<u64, Arc<Connection>>,
    users: SlotsOfUsers,
    /// Time at which the last connection was closed.
    left: Instant,
}

/// Slot numbers of each user of one owner, for owners with many users. A count of the users for
/// each new connection would take 0.1 ms.
#[derive(Default)]
struct SlotsOfUsers {
    numbers: HashMap<u32, BTreeSet<u64>>,
    /// Number of connections of each user, the newest of them, and the user. Of users with as many
    /// connections, the one that came last gives up one.
    counts: BTreeSet<(usize, u64, u32)>,
}

/// State of an open connection.
pub(super) struct Connection {
    /// Milliseconds from the start of the daemon to the time at which the connection became idle,
    /// or [`BUSY`].
    pub(super) idle_since: AtomicU64,
    /// Cancelled to close the connection after the answers to its requests.
    pub(super) close: CancellationToken,
    /// Cancelled to close the connection at once, even with requests in progress.
    pub(super) abort: CancellationToken,
    pub(super) peer: Peer,
    /// True if the service of the peer was looked up.
    pub(super) has_service_lookup: bool,
}

/// Value of [`Connection::idle_since`] while a request is in progress.
pub(super) const BUSY: u64 = u64::MAX;

impl SlotTable {
    /// Number of open connections.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Number of connections of an owner.
    pub(super) fn count(&self, owner: &Owner) -> usize {
        self.owners.get(owner).map_or(0, |slots| slots.connections.len())
    }

    /// Adds a connection. Returns its slot number and the account of its owner.
    pub(super) fn insert(&mut self, owner: &Owner, connection: Arc<Connection>) -> (u64, Arc<Account>) {
        self.total += 1;
        self.last_slot += 1;
        let slots = self.owners.entry(owner.clone()).or_insert_with(|| {
            self.last_user = self.last_user.wrapping_add(1);
            let account = Arc::new(Account::new(self.last_user));
            OwnerSlots {
                account,
                connections: BTreeMap::new(),
                users: SlotsOfUsers::default(),
                left: Instant::now(),
            }
        });
        slots.insert(self.last_slot, connection);
        (self.last_slot, Arc::clone(&slots.account))
    }

    /// Removes a connection, unless another connection has replaced it.
    pub(super) fn remove(&mut self, owner: &Owner, number: u64) {
        if let Some(slots) = self.owners.get_mut(owner)
            && slots.remove(number)
        {
            self.total -= 1;
        }
    }

    /// Closes the connections that have another owner under new grants, after the answers to their
    /// requests. Their peers connect again.
    pub(super) fn apply_grants(&self, grants: &Grants) {
        for (owner, slots) in &self.owners {
            for connection in slots.connections.values() {
                let peer = &connection.peer;
                let lacks_service = grants.depend_on_service(peer.uid) && !connection.has_service_lookup;
                if lacks_service || !Owner::of(peer, grants).counts_with(owner) {
                    connection.close.cancel();
                }
            }
        }
    }

    /// Removes owners that have had no connection for [`REMEMBERED`]. The account of an owner must
    /// outlive its connections: otherwise a new connection would reset the limits of the owner.
    pub(super) fn forget_absent_owners(&mut self, now: Instant) {
        self.owners.retain(|_, slots| {
            !slots.connections.is_empty() || now.saturating_duration_since(slots.left) < REMEMBERED
        });
    }

    /// Owner with the account to use for `owner`. Only the first [`MAX_MEMBERS`] members of a
    /// group or service have an account of their own.
    pub(super) fn owner_with_account(&self, owner: Owner) -> Owner {
        let Owner::Member { of, .. } = &owner else { return owner };
        // Members without a connection count while they are remembered: otherwise somebody with
        // many user ids would get a new account with each of them.
        let is_member = |other: &&Owner| matches!(other, Owner::Member { of: other, .. } if other == of);
        let is_known = self.owners.contains_key(&owner);
        if is_known || self.owners.keys().filter(is_member).count() < MAX_MEMBERS {
            owner
        } else {
            Owner::OtherMembers { of: of.clone() }
        }
    }

    /// Owner that gives up a connection for `newcomer` when all slots are taken: the owner with the
    /// most connections, or `newcomer` if it would have as many with the new connection. Owners
    /// that count together count as one, and the one with the most connections among them gives
    /// up a connection.
    pub(super) fn owner_to_replace(&self, newcomer: &Owner) -> Owner {
        let mut counts: Vec<(&Owner, usize)> = Vec::new();
        for (owner, slots) in &self.owners {
            match counts.iter_mut().find(|(one, _)| one.counts_with(owner)) {
                Some((_, count)) => *count += slots.connections.len(),
                None => counts.push((owner, slots.connections.len())),
            }
        }
        let own = counts.iter().find(|(owner, _)| owner.counts_with(newcomer)).map_or(0, |(_, count)| *count);
        let largest = counts.into_iter().max_by_key(|(_, count)| *count);
        let group = largest.filter(|(_, count)| *count > own + 1).map_or(newcomer, |(owner, _)| owner);
        let members = self.owners.iter().filter(|(owner, _)| owner.counts_with(group));
        let owner = members.max_by_key(|(_, slots)| slots.connections.len());
        // A newcomer without a connection replaces one of the other members.
        owner.filter(|(_, slots)| !slots.connections.is_empty()).map_or(newcomer, |(owner, _)| owner).clone()
    }

    /// Closes one connection of an owner at once: the connection that has been idle longest, or if
    /// none is idle and `even_busy` is set, the oldest one, whose requests are then lost. Returns
    /// `false` if no connection could be closed.
    pub(super) fn close_one(&mut self, owner: &Owner, newcomer: u32, even_busy: bool) -> bool {
        let Some(slots) = self.owners.get_mut(owner) else { return false };
        let (of, even_busy) = match owner {
            Owner::OtherMembers { .. } if !even_busy => {
                let (uid, even_busy) = slots.member_to_replace(newcomer);
                (Some(uid), even_busy)
            }
            _ => (None, even_busy),
        };
        let Some((number, connection)) =
            slots.longest_idle(of).filter(|(_, found)| even_busy || found.is_idle())
        else {
            return false;
        };
        // At once: otherwise its descriptor would stay open without being counted.
        connection.close.cancel();
        connection.abort.cancel();
        slots.remove(number);
        self.total -= 1;
        true
    }
}

impl OwnerSlots {
    /// User that gives up a connection for a new one of user `newcomer`, where many users have one
    /// account. `true` if also a busy connection is closed.
    ///
    /// The user with the most connections gives up one, even a busy one, if `newcomer` has none
    /// or would still have fewer. Otherwise `newcomer` gives up an idle one of its own.
    fn member_to_replace(&self, newcomer: u32) -> (u32, bool) {
        let own = self.users.count(newcomer);
        match self.users.counts.last() {
            Some((most, _, uid)) if own == 0 || *most > own + 1 => (*uid, true),
            _ => (newcomer, false),
        }
    }

    /// Connection that has been idle longest, of one user if `uid` is set. The oldest connection
    /// if all of them are busy.
    fn longest_idle(&self, uid: Option<u32>) -> Option<(u64, Arc<Connection>)> {
        let Some(uid) = uid else { return longest_idle(self.connections.iter()) };
        let numbers = self.users.numbers.get(&uid)?;
        longest_idle(numbers.iter().filter_map(|number| self.connections.get_key_value(number)))
    }

    fn insert(&mut self, number: u64, connection: Arc<Connection>) {
        self.users.insert(connection.peer.uid, number);
        self.connections.insert(number, connection);
    }

    /// Removes a connection. Returns `false` if there is none with this number.
    fn remove(&mut self, number: u64) -> bool {
        let Some(connection) = self.connections.remove(&number) else { return false };
        self.users.remove(connection.peer.uid, number);
        self.left = Instant::now();
        true
    }
}

/// Connection of `connections`, in the order of their slot numbers, that has been idle longest.
/// The oldest connection if all of them are busy.
fn longest_idle<'a>(
    connections: impl Iterator<Item = (&'a u64, &'a Arc<Connection>)> + Clone,
) -> Option<(u64, Arc<Connection>)> {
    let longest_of =
        |most: usize| connections.clone().take(most).min_by_key(|(number, one)| (one.idle_since(), **number));
    // The longest idle connection is nearly always among the oldest ones. A search through all
    // connections takes 0.1 ms, in which users who connect have to wait.
    let found = longest_of(OLDEST).filter(|(_, one)| one.is_idle()).or_else(|| longest_of(usize::MAX));
    found.map(|(number, connection)| (*number, Arc::clone(connection)))
}

impl SlotsOfUsers {
    /// Number of connections of a user.
    fn count(&self, uid: u32) -> usize {
        self.numbers.get(&uid).map_or(0, BTreeSet::len)
    }

    fn insert(&mut self, uid: u32, number: u64) {
        self.change(uid, |numbers| {
            numbers.insert(number);
        });
    }

    fn remove(&mut self, uid: u32, number: u64) {
        self.change(uid, |numbers| {
            numbers.remove(&number);
        });
    }

    fn change(&mut self, uid: u32, change: impl FnOnce(&mut BTreeSet<u64>)) {
        let numbers = self.numbers.entry(uid).or_default();
        let count = |numbers: &BTreeSet<u64>| Some((numbers.len(), *numbers.last()?, uid));
        if let Some(before) = count(numbers) {
            self.counts.remove(&before);
        }
        change(numbers);
        match count(numbers) {
            Some(after) => drop(self.counts.insert(after)),
            None => drop(self.numbers.remove(&uid)),
        }
    }
}

impl Connection {
    fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.idle_since() != BUSY
    }
}

/// Number of the oldest connections of an owner that are searched for an idle one first.
const OLDEST: usize = 64;

/// Maximum number of users with an account of their own among the members of a group or service.
pub(super) const MAX_MEMBERS: usize = 8;

/// Time for which an owner without a connection is remembered. Longer than the period of every
/// limit of an account, which is one second.
const REMEMBERED: Duration = Duration::from_secs(10);
