//! Accepted connections that wait for a look-up of their peer, in fair shares by time.
//!
//! Each user that a grant names by user id has a share of its own. All other users have one share
//! together, and take turns within that share: somebody with a range of subordinate user ids
//! (subuid(5)) could otherwise have a hundred shares.

use core::time::Duration;

use crate::ground::fair::{Queue, User};

/// Queue of connections of type `C`.
pub(super) struct Accepted<C> {
    /// Connections of named users, by user id. A place without a connection, of [`OTHERS`], is for
    /// the next one of `others`.
    shares: Queue<Option<C>>,
    /// Connections of the other users, by user id.
    others: Queue<C>,
}

/// Share that a connection was taken out of, to be charged.
pub(super) struct Share {
    uid: u32,
    is_named: bool,
    estimate: Duration,
}

impl<C> Accepted<C> {
    pub(super) fn new() -> Self {
        Self { shares: Queue::new(), others: Queue::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shares.waiting() == 0
    }

    /// Appends a connection. At the limit of [`MAX_ACCEPTED`], the newest connection of the share
    /// with the most connections is dropped for the new one. Returns `false` if the new connection
    /// itself is dropped.
    pub(super) fn push(&mut self, uid: u32, is_named: bool, connection: C) -> bool {
        let share = if is_named { uid } else { OTHERS };
        if self.shares.waiting() >= MAX_ACCEPTED {
            match self.shares.evict_for(share) {
                Some(Some(_)) => {}
                // The place was one of the other users.
                Some(None) => drop(self.others.evict()),
                // The new connection may still take the place of another one in the same share.
                None if is_named || self.others.evict_for(uid).is_none() => return false,
                None => {
                    self.others.push(uid, ESTIMATE, connection);
                    return true;
                }
            }
        }
        let connection = if is_named {
            Some(connection)
        } else {
            self.others.push(uid, ESTIMATE, connection);
            None
        };
        self.shares.push(share, ESTIMATE, connection);
        true
    }

    /// Removes the next connection.
    pub(super) fn pop(&mut self) -> Option<(Share, C)> {
        let (uid, estimate, connection) = self.shares.pop()?;
        match connection {
            Some(connection) => Some((Share { uid, is_named: true, estimate }, connection)),
            None => {
                let (uid, estimate, connection) = self.others.pop()?;
                Some((Share { uid, is_named: false, estimate }, connection))
            }
        }
    }

    /// Charges a share the time of a look-up.
    pub(super) fn charge(&mut self, share: &Share, time: Duration) {
        let Share { uid, is_named, estimate } = *share;
        if is_named {
            self.shares.charge(uid, estimate, time);
        } else {
            self.shares.charge(OTHERS, estimate, time);
            self.others.charge(uid, estimate, time);
        }
    }
}

/// Number of the share of all users that no grant names by user id. No user has this id, which
/// system calls take for "no change" (setreuid(2)).
const OTHERS: User = u32::MAX;

/// Maximum number of accepted connections that wait for a look-up.
const MAX_ACCEPTED: usize = 1024;

/// Estimate of the time of a look-up, until it is measured.
const ESTIMATE: Duration = Duration::from_micros(30);

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_micros(200);

    fn next(accepted: &mut Accepted<u32>) -> Option<u32> {
        let (share, uid) = accepted.pop()?;
        accepted.charge(&share, TIME);
        assert_eq!(share.uid, uid);
        Some(uid)
    }

    #[test]
    fn many_users_without_a_share_of_their_own_slow_nobody_down() {
        let mut accepted = Accepted::new();
        for number in 0..500 {
            assert!(accepted.push(100_000 + number % 100, false, 100_000 + number % 100));
        }
        for _ in 0..20 {
            assert!(accepted.push(33, true, 33));
        }
        let first: Vec<_> = (0..40).map_while(|_| next(&mut accepted)).collect();
        assert!(first.iter().filter(|uid| **uid == 33).count() >= 19, "{first:?}");
        // The others take turns: none is served twice before each was served once.
        let mut others: Vec<_> = first.into_iter().filter(|uid| *uid != 33).collect();
        let count = others.len();
        others.sort_unstable();
        others.dedup();
        assert_eq!(others.len(), count);
    }

    #[test]
    fn the_largest_share_makes_room() {
        let mut accepted = Accepted::new();
        for number in 0..MAX_ACCEPTED {
            let uid = 100_000 + u32::try_from(number).unwrap();
            assert!(accepted.push(uid, false, uid));
        }
        // Each of these users has one connection, so none gives up the one for another.
        assert!(!accepted.push(99_999, false, 99_999));
        for _ in 0..MAX_ACCEPTED / 2 {
            assert!(accepted.push(33, true, 33));
        }
        assert!(!accepted.push(33, true, 33), "both shares have as many");
        assert!(accepted.push(34, true, 34));
        let mut rest: Vec<_> = core::iter::from_fn(|| next(&mut accepted)).collect();
        assert_eq!(rest.len(), MAX_ACCEPTED);
        rest.retain(|uid| *uid == 33 || *uid == 34);
        // One of either share made room for user 34.
        assert!((MAX_ACCEPTED / 2..=MAX_ACCEPTED / 2 + 1).contains(&rest.len()), "{}", rest.len());
        assert!(rest.contains(&34) && accepted.is_empty());
    }

    #[test]
    fn a_user_with_many_connections_makes_room_for_another_without_a_share() {
        let mut accepted = Accepted::new();
        for _ in 0..MAX_ACCEPTED {
            assert!(accepted.push(100_000, false, 100_000));
        }
        assert!(!accepted.push(100_000, false, 100_000));
        assert!(accepted.push(100_001, false, 100_001));
        let all: Vec<_> = core::iter::from_fn(|| next(&mut accepted)).collect();
        assert_eq!(all.len(), MAX_ACCEPTED);
        assert!(all[..2].contains(&100_001), "{:?}", &all[..2]);
    }
}
