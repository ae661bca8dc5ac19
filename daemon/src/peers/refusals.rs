//! The newest refusals of requests for private keys, for the status page. They are kept in memory
//! only; the audit trail has every refusal.
//!
//! Requests that differ in nothing but their time are one entry with a count. One user has at most
//! [`MOST_OF_USER`] entries, where all members of a group or a service count as one user, as for
//! connections ([`super::owner`]). Users without a grant push out no entry of a user with a grant.
//! So a user who asks without end hides no refusal of others, however many user ids it has.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_proto::Outcome;

use crate::peers::owner::Owner;
use crate::policy::authorise::Peer;

/// The newest refusals. Shared by reference between tasks.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    of_users_with_grant: Mutex<Vec<Entry>>,
    of_users_without_grant: Mutex<Vec<Entry>>,
}

/// A refusal, and whose share of the entries it takes.
#[derive(Debug)]
struct Entry {
    owner: Owner,
    refusal: Refusal,
}

/// Requests of one user for one key that ended with the same outcome.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    /// User id.
    pub(crate) uid: u32,
    /// The systemd service, if it is known.
    pub(crate) service: Option<Arc<str>>,
    /// Name of the program of the last request, if it is known.
    pub(crate) command: Option<Arc<str>>,
    /// Label in the request. There need be no such key.
    pub(crate) key: String,
    pub(crate) outcome: Outcome,
    /// Time of the last request, in seconds since 1970.
    pub(crate) last: u64,
    /// Number of requests since the entry was made.
    pub(crate) count: u64,
}

impl Refusals {
    /// Notes a request that was refused at a time in seconds since 1970.
    pub(super) fn note(&self, peer: &Peer, owner: Owner, key: &str, outcome: Outcome, now: u64) {
        let mut entries = lock(match owner {
            Owner::WithoutGrant => &self.of_users_without_grant,
            _ => &self.of_users_with_grant,
        });
        let same = entries.iter_mut().map(|entry| &mut entry.refusal).find(|known| {
            known.uid == peer.uid
                && known.outcome == outcome
                && known.service == peer.service
                && known.key == key
        });
        if let Some(same) = same {
            (same.last, same.count) = (now, same.count + 1);
            same.command.clone_from(&peer.command);
            return;
        }
        let Peer { uid, service, command, .. } = peer.clone();
        let refusal = Refusal { uid, service, command, key: key.to_owned(), outcome, last: now, count: 1 };
        let entry = Entry { owner, refusal };
        make_room(&mut entries, &entry);
        entries.push(entry);
    }

    /// The refusals, the newest first.
    pub(crate) fn newest(&self) -> Vec<Refusal> {
        let lists = [&self.of_users_with_grant, &self.of_users_without_grant];
        let of_list = |list| lock(list).iter().map(|entry| entry.refusal.clone()).collect::<Vec<_>>();
        let mut all: Vec<_> = lists.into_iter().flat_map(of_list).collect();
        all.sort_by_key(|refusal| core::cmp::Reverse(refusal.last));
        all
    }
}

impl Entry {
    /// True if both entries count against the same share. Users without a grant have a list of
    /// their own, and each of them has a share of it.
    fn counts_with(&self, other: &Self) -> bool {
        match self.owner {
            Owner::WithoutGrant => self.refusal.uid == other.refusal.uid,
            _ => self.owner.counts_with(&other.owner),
        }
    }
}

/// Removes an entry if there is no room for a new one: from the share of the new one if that is
/// full, or else from the largest share. There, the user id with most entries gives up its oldest
/// one: a member of a group who asks without end does not hide the other members.
fn make_room(entries: &mut Vec<Entry>, new: &Entry) {
    let share = |of: &Entry| entries.iter().filter(|one| one.counts_with(of)).count();
    let from = match (share(new) >= MOST_OF_USER, entries.len() >= MOST) {
        (true, _) => Some(new),
        (false, true) => entries.iter().max_by_key(|one| (share(one), u64::MAX - one.refusal.last)),
        (false, false) => None,
    };
    let Some(from) = from else { return };
    let in_share = || entries.iter().enumerate().filter(|(_, one)| one.counts_with(from));
    let of_uid = |uid| in_share().filter(|(_, one)| one.refusal.uid == uid).count();
    let first = in_share().max_by_key(|(_, one)| (of_uid(one.refusal.uid), u64::MAX - one.refusal.last));
    if let Some((place, _)) = first {
        entries.remove(place);
    }
}

fn lock(entries: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maximum number of entries of users with a grant, and of users without one. The page shows the
/// entries of both.
const MOST: usize = 25;
/// Maximum number of entries of one user.
const MOST_OF_USER: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer { uid, ..Peer::default() }
    }

    fn named(uid: u32) -> Owner {
        Owner::Named { uid, service: None }
    }

    fn shown(refusals: &Refusals) -> Vec<(u32, String, u64, u64)> {
        refusals.newest().into_iter().map(|one| (one.uid, one.key, one.last, one.count)).collect()
    }

    #[test]
    fn repeats_are_counted_and_the_newest_comes_first() {
        let refusals = Refusals::default();
        let nginx = Peer { command: Some("nginx".into()), ..peer(33) };
        refusals.note(&peer(33), named(33), "shop", Outcome::UseRefused, 10);
        refusals.note(&peer(33), named(33), "shop", Outcome::KeyDisabled, 20);
        refusals.note(&peer(7), Owner::WithoutGrant, "shop", Outcome::NoGrant, 25);
        refusals.note(&nginx, named(33), "shop", Outcome::UseRefused, 30);
        let newest = refusals.newest();
        assert_eq!(newest[0].command.as_deref(), Some("nginx"), "of the last request");
        let outcomes: Vec<_> = newest.iter().map(|one| (one.outcome, one.last, one.count)).collect();
        assert_eq!(
            outcomes,
            [(Outcome::UseRefused, 30, 2), (Outcome::NoGrant, 25, 1), (Outcome::KeyDisabled, 20, 1)]
        );
    }

    #[test]
    fn a_user_who_asks_without_end_hides_nobody() {
        let refusals = Refusals::default();
        refusals.note(&peer(33), named(33), "shop", Outcome::UseRefused, 1);
        refusals.note(&peer(34), Owner::WithoutGrant, "mail", Outcome::NoGrant, 1);
        for number in 0..1000 {
            refusals.note(
                &peer(7),
                Owner::WithoutGrant,
                &format!("key-{number}"),
                Outcome::NoGrant,
                10 + number,
            );
            refusals.note(&peer(8), named(8), &format!("key-{number}"), Outcome::UseRefused, 10 + number);
        }
        let newest = shown(&refusals);
        assert_eq!(newest.len(), 2 + 2 * MOST_OF_USER);
        for one in [(33, "shop".to_owned(), 1, 1), (34, "mail".to_owned(), 1, 1)] {
            assert!(newest.contains(&one), "{newest:?}");
        }
        assert!(newest.contains(&(7, "key-999".to_owned(), 1009, 1)), "the newest ones stay");
    }

    #[test]
    fn many_users_without_a_grant_hide_no_user_with_one() {
        let refusals = Refusals::default();
        refusals.note(&peer(33), named(33), "shop", Outcome::UseRefused, 1);
        for key in ["a", "b"] {
            refusals.note(&peer(9), Owner::WithoutGrant, key, Outcome::NoGrant, 5);
        }
        for uid in 0..1000 {
            refusals.note(&peer(100_000 + uid), Owner::WithoutGrant, "shop", Outcome::NoGrant, 10);
        }
        let newest = shown(&refusals);
        assert_eq!(newest.len(), MOST + 1);
        assert!(newest.contains(&(33, "shop".to_owned(), 1, 1)), "{newest:?}");
        let of_nine = newest.iter().filter(|(uid, ..)| *uid == 9).count();
        assert_eq!(of_nine, 0, "without entries to spare, the oldest goes");
    }

    #[test]
    fn many_members_of_a_group_hide_neither_others_nor_each_other() {
        use crate::policy::authorise::{Grant, Grants, Who};

        let group = Who { gid: Some(60), ..Who::default() };
        let grants = Grants::new(vec![Grant::everything(Who::user(33)), Grant::everything(group)]);
        let refusals = Refusals::default();
        let note = |uid: u32, key: &str, now: u64| {
            let peer = Peer { gid: 60, ..peer(uid) };
            refusals.note(&peer, Owner::of(&peer, &grants), key, Outcome::UseRefused, now);
        };
        note(33, "shop", 1);
        for number in 0..1000 {
            note(100_000 + number, "mail", 10);
        }
        let newest = shown(&refusals);
        assert!(newest.contains(&(33, "shop".to_owned(), 1, 1)), "{newest:?}");
        assert_eq!(newest.len(), 1 + MOST_OF_USER, "the group has the share of one user");
        note(7, "alone", 20);
        for number in 0..1000 {
            note(8, &format!("key-{number}"), 30);
        }
        assert!(shown(&refusals).contains(&(7, "alone".to_owned(), 20, 1)), "{:?}", shown(&refusals));
    }
}
