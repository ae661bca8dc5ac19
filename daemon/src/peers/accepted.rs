//! Accepted connections that wait for a look-up of their peer, in fair shares by time.
//!
//! Each user that a grant names by user id has a share of its own. All other users have one share
//! together, and take turns within that share by [`block`]: somebody with a range of subordinate
//! user ids (subuid(5)) could otherwise have a share for each of 65,536 ids.

use core::time::Duration;

use crate::ground::fair::{Queue, User};

/// Queue of connections of type `C`.
pub(super) struct Accepted<C> {
    /// Connections of named users, by user id. A place without a connection, of [`OTHERS`], is for
    /// the next one of `others`.
    shares: Queue<Option<C>>,
    /// Connections of the other users, by [`block`].
    others: Queue<C>,
}

/// Share that a connection was taken out of, to be charged.
pub(super) struct Share {
    /// User id of a named user, [`block`] of another one.
    user: User,
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
                None if is_named || self.others.evict_for(block(uid)).is_none() => return false,
                None => {
                    self.others.push(block(uid), ESTIMATE, connection);
                    return true;
                }
            }
        }
        let connection = if is_named {
            Some(connection)
        } else {
            self.others.push(block(uid), ESTIMATE, connection);
            None
        };
        self.shares.push(share, ESTIMATE, connection);
        true
    }

    /// Removes the next connection.
    pub(super) fn pop(&mut self) -> Option<(Share, C)> {
        let (user, estimate, connection) = self.shares.pop()?;
        match connection {
            Some(connection) => Some((Share { user, is_named: true, estimate }, connection)),
            None => {
                let (user, estimate, connection) = self.others.pop()?;
                Some((Share { user, is_named: false, estimate }, connection))
            }
        }
    }

    /// Charges a share the time of a look-up.
    pub(super) fn charge(&mut self, share: &Share, time: Duration) {
        let Share { user, is_named, estimate } = *share;
        if is_named {
            self.shares.charge(user, estimate, time);
        } else {
            self.shares.charge(OTHERS, estimate, time);
            self.others.charge(user, estimate, time);
        }
    }
}

/// Number under which a user takes turns in the share of all users that no grant names by user id.
/// Accounts have ids below 65,536. Larger ids come in blocks: newuidmap(1) gives each account a
/// range of 65,536 subordinate ids, which are in two blocks at most.
fn block(uid: u32) -> User {
    match uid >> 16 {
        0 => uid,
        block => (1 << 16) + block,
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
    /// The first subordinate user id on Debian.
    const SUBUIDS: u32 = 100_000;
    /// A member of a group with a grant.
    const MEMBER: u32 = 1000;
    /// A user with a grant of its own.
    const NAMED: u32 = 33;

    fn next(accepted: &mut Accepted<u32>) -> Option<u32> {
        let (share, uid) = accepted.pop()?;
        accepted.charge(&share, TIME);
        Some(uid)
    }

    #[test]
    fn many_users_without_a_share_of_their_own_slow_nobody_down() {
        let mut accepted = Accepted::new();
        for number in 0..500 {
            assert!(accepted.push(SUBUIDS + number, false, SUBUIDS + number));
        }
        for _ in 0..20 {
            assert!(accepted.push(NAMED, true, NAMED));
            assert!(accepted.push(MEMBER, false, MEMBER));
        }
        let first: Vec<_> = (0..80).map_while(|_| next(&mut accepted)).collect();
        let of = |user| first.iter().filter(|uid| **uid == user).count();
        assert!(of(NAMED) == 20 && of(MEMBER) >= 18, "{first:?}");
    }

    /// The id has been served before each time, and each id of the range has not.
    #[test]
    fn a_member_who_comes_back_does_not_wait_behind_a_range_of_ids() {
        let mut accepted = Accepted::new();
        let mut fresh = SUBUIDS..SUBUIDS + 65_536;
        for visit in 0..1000 {
            assert!(accepted.push(MEMBER, false, MEMBER));
            let served = (1..).find(|_| {
                for uid in fresh.by_ref().take(10) {
                    accepted.push(uid, false, uid);
                }
                next(&mut accepted) == Some(MEMBER)
            });
            // Two blocks of the range, each of which may be first once.
            assert!(served.unwrap() <= 5, "{served:?} at visit {visit}");
        }
    }

    #[test]
    fn the_largest_share_makes_room() {
        let mut accepted = Accepted::new();
        for uid in (SUBUIDS..).take(MAX_ACCEPTED) {
            assert!(accepted.push(uid, false, uid));
        }
        assert!(!accepted.push(SUBUIDS + 2000, false, SUBUIDS + 2000), "of the same range");
        assert!(accepted.push(MEMBER, false, MEMBER));
        for _ in 0..MAX_ACCEPTED / 2 {
            assert!(accepted.push(NAMED, true, NAMED));
        }
        assert!(!accepted.push(NAMED, true, NAMED), "both shares have as many");
        assert!(accepted.push(NAMED + 1, true, NAMED + 1));
        let mut rest: Vec<_> = core::iter::from_fn(|| next(&mut accepted)).collect();
        assert_eq!(rest.len(), MAX_ACCEPTED);
        assert!(rest.contains(&MEMBER) && rest.contains(&(NAMED + 1)) && accepted.is_empty());
        rest.retain(|uid| *uid < MEMBER);
        // One of either share made room for the last user.
        assert!((MAX_ACCEPTED / 2..=MAX_ACCEPTED / 2 + 1).contains(&rest.len()), "{}", rest.len());
    }

    /// A new configuration may name a user whose connections wait, or name the user no more.
    #[test]
    fn each_place_has_its_connection() {
        let mut accepted = Accepted::new();
        let mut number = 1_u32;
        for step in 0..20_000 {
            // A generator of numbers that look random (Numerical Recipes).
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let uid = (number >> 20) % 40 * 5000;
            // Rather more connections than look-ups, so the limit is reached.
            if number >> 28 < 11 {
                accepted.push(uid, step % 3 == 0, uid);
            } else {
                assert_eq!(accepted.is_empty(), next(&mut accepted).is_none());
            }
            assert!(accepted.shares.waiting() <= MAX_ACCEPTED);
        }
        for left in (0..accepted.shares.waiting()).rev() {
            assert!(next(&mut accepted).is_some() && accepted.shares.waiting() == left);
        }
        assert_eq!(accepted.others.waiting(), 0);
    }
}
