//! The newest refusals of requests for private keys, for the status page. They are kept in memory
//! only; the audit trail has every refusal.
//!
//! Requests that differ in nothing but their time are one entry with a count. One user has at most
//! [`MOST_OF_USER`] entries, and users without a grant push out no entry of a user with a grant. So
//! a user who asks without end hides no refusal of others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keyward_proto::Outcome;

use crate::policy::authorise::Peer;

/// The newest refusals. Shared by reference between tasks.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    of_users_with_grant: Mutex<Vec<Refusal>>,
    of_users_without_grant: Mutex<Vec<Refusal>>,
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
    pub(super) fn note(&self, peer: &Peer, has_grant: bool, key: &str, outcome: Outcome, now: u64) {
        let mut refusals = lock(match has_grant {
            true => &self.of_users_with_grant,
            false => &self.of_users_without_grant,
        });
        let same = refusals.iter_mut().find(|known| {
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
        make_room(&mut refusals, peer.uid);
        let Peer { uid, service, command, .. } = peer.clone();
        refusals.push(Refusal { uid, service, command, key: key.to_owned(), outcome, last: now, count: 1 });
    }

    /// The refusals, the newest first.
    pub(crate) fn newest(&self) -> Vec<Refusal> {
        let mut all = lock(&self.of_users_with_grant).clone();
        all.extend(lock(&self.of_users_without_grant).iter().cloned());
        all.sort_by_key(|refusal| core::cmp::Reverse(refusal.last));
        all
    }
}

/// Removes an entry if there is no room for one more of a user: the oldest of that user, or the
/// oldest of the user with most entries.
fn make_room(refusals: &mut Vec<Refusal>, uid: u32) {
    let entries = |uid| refusals.iter().filter(|refusal| refusal.uid == uid).count();
    let oldest =
        |of: u32| (0..).zip(&*refusals).filter(move |(_, one)| one.uid == of).min_by_key(|(_, one)| one.last);
    let from = match (entries(uid) >= MOST_OF_USER, refusals.len() >= MOST) {
        (true, _) => Some(uid),
        (false, true) => {
            refusals.iter().max_by_key(|one| (entries(one.uid), u64::MAX - one.last)).map(|one| one.uid)
        }
        (false, false) => None,
    };
    if let Some((place, _)) = from.and_then(oldest) {
        refusals.remove(place);
    }
}

fn lock(refusals: &Mutex<Vec<Refusal>>) -> MutexGuard<'_, Vec<Refusal>> {
    refusals.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn shown(refusals: &Refusals) -> Vec<(u32, String, u64, u64)> {
        refusals.newest().into_iter().map(|one| (one.uid, one.key, one.last, one.count)).collect()
    }

    #[test]
    fn repeats_are_counted_and_the_newest_comes_first() {
        let refusals = Refusals::default();
        let nginx = Peer { command: Some("nginx".into()), ..peer(33) };
        refusals.note(&peer(33), true, "shop", Outcome::UseRefused, 10);
        refusals.note(&peer(33), true, "shop", Outcome::KeyDisabled, 20);
        refusals.note(&peer(7), false, "shop", Outcome::NoGrant, 25);
        refusals.note(&nginx, true, "shop", Outcome::UseRefused, 30);
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
        refusals.note(&peer(33), true, "shop", Outcome::UseRefused, 1);
        refusals.note(&peer(34), false, "mail", Outcome::NoGrant, 1);
        for number in 0..1000 {
            refusals.note(&peer(7), false, &format!("key-{number}"), Outcome::NoGrant, 10 + number);
            refusals.note(&peer(8), true, &format!("key-{number}"), Outcome::UseRefused, 10 + number);
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
        refusals.note(&peer(33), true, "shop", Outcome::UseRefused, 1);
        for key in ["a", "b"] {
            refusals.note(&peer(9), false, key, Outcome::NoGrant, 5);
        }
        for uid in 0..1000 {
            refusals.note(&peer(100_000 + uid), false, "shop", Outcome::NoGrant, 10);
        }
        let newest = shown(&refusals);
        assert_eq!(newest.len(), MOST + 1);
        assert!(newest.contains(&(33, "shop".to_owned(), 1, 1)), "{newest:?}");
        let of_nine = newest.iter().filter(|(uid, ..)| *uid == 9).count();
        assert_eq!(of_nine, 0, "without entries to spare, the oldest goes");
    }
}
