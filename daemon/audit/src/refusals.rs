//! Limits for uses that were not carried out, because somebody without a grant can cause any number
//! of them.
//!
//! A user and reason gets [`ALONE`] records of its own in a second. All further ones are counted
//! for that user and reason, so nobody's refusals hide those of another user. The length of the
//! records of all users together is limited too, and half of it is for the first record of each
//! user in a second. A count that does not fit waits for a later second, in the order in which the
//! counts have begun.

use std::collections::{HashMap, HashSet, VecDeque};

/// Refusals of the present second, and counts that wait.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// The present second, since 1970.
    second: u64,
    /// Length of records of their own in this second, of all users, in bytes.
    bytes: usize,
    /// The part of it that is not the first record of a user in this second.
    further: usize,
    /// Users with a record of their own in this second: some 140 records have room.
    had: HashSet<u32>,
    /// Second in which counts were last taken.
    taken: u64,
    of: HashMap<Key, Refused>,
    /// Users and reasons whose counts wait, each of them once, the longest wait first.
    waiting: VecDeque<Key>,
}

/// A user and a reason.
type Key = (u32, &'static str);

/// Refusals of one user for one reason.
#[derive(Debug, Default)]
struct Refused {
    /// Second of `alone`.
    second: u64,
    /// Records of their own in that second.
    alone: u32,
    /// Refusals without a record of their own.
    more: u64,
    /// Second of the first of them.
    from: u64,
}

/// Number of refusals that have no record of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Count {
    /// The user; `None` for all users that were too many to count apart.
    pub(crate) uid: Option<u32>,
    pub(crate) outcome: &'static str,
    pub(crate) refusals: u64,
    /// Second of the first refusal, since 1970.
    pub(crate) from: u64,
    /// Second of the last refusal, since 1970.
    pub(crate) to: u64,
}

impl Refusals {
    /// True if a refusal at this time gets a record of its own, which has some length in bytes.
    /// Otherwise the refusal is counted.
    pub(crate) fn admit(
        &mut self,
        uid: u32,
        outcome: &'static str,
        second: u64,
        length: impl FnOnce() -> usize,
    ) -> bool {
        self.turn(second);
        let known = self.of.len() < MAX_USERS || self.of.contains_key(&(uid, outcome));
        let key = (if known { uid } else { OTHERS }, outcome);
        let refused = self.of.entry(key).or_default();
        if refused.second != second {
            (refused.second, refused.alone) = (second, 0);
        }
        let is_first = !self.had.contains(&uid);
        let has_room = self.bytes < ALL_ALONE && (is_first || self.further < ALL_ALONE / 2);
        if known && refused.alone < ALONE && has_room {
            let length = length();
            let bytes = self.bytes.saturating_add(length);
            let further = if is_first { self.further } else { self.further.saturating_add(length) };
            if bytes <= ALL_ALONE && further <= ALL_ALONE / 2 {
                refused.alone += 1;
                (self.bytes, self.further) = (bytes, further);
                self.had.insert(uid);
                return true;
            }
        }
        if refused.more == 0 {
            refused.from = second;
            self.waiting.push_back(key);
        }
        refused.more += 1;
        false
    }

    /// Takes counts that have begun in earlier seconds, once in a second, as many as there may be
    /// in one.
    pub(crate) fn take(&mut self, second: u64) -> Vec<Count> {
        if self.taken == second {
            return Vec::new();
        }
        self.taken = second;
        let mut counts = Vec::new();
        while counts.len() < MAX_COUNTS
            && let Some(key) = self.waiting.front()
            && self.of.get(key).is_none_or(|refused| refused.from != second)
        {
            counts.extend(self.take_first());
        }
        // Users who were not refused since have nothing to remember.
        self.of.retain(|_, refused| refused.more > 0 || refused.second + 1 >= second);
        counts
    }

    /// Takes all counts, at the end.
    pub(crate) fn take_all(&mut self) -> Vec<Count> {
        let mut counts = Vec::new();
        while !self.waiting.is_empty() {
            counts.extend(self.take_first());
        }
        self.of.clear();
        counts
    }

    /// Takes the count that waits longest. The records of the user in this second still count.
    fn take_first(&mut self) -> Option<Count> {
        let key = self.waiting.pop_front()?;
        let refused = self.of.get_mut(&key)?;
        let (uid, outcome) = key;
        Some(Count {
            uid: (uid != OTHERS).then_some(uid),
            outcome,
            refusals: core::mem::take(&mut refused.more),
            from: refused.from,
            to: refused.second,
        })
    }

    fn turn(&mut self, second: u64) {
        if self.second != second {
            (self.second, self.bytes, self.further) = (second, 0, 0);
            self.had.clear();
        }
    }
}

/// Records of their own that a user and reason gets in a second.
pub(crate) const ALONE: u32 = 10;
/// Length of records of their own in a second, of all users, in bytes: some 140 records.
const ALL_ALONE: usize = 70_000;
/// Counts in a second: some 28 KB.
const MAX_COUNTS: usize = 100;
/// Users and reasons that are counted apart.
const MAX_USERS: usize = 65_536;
/// In the place of the uids of further users. The kernel gives this number to nobody
/// (credentials(7)).
const OTHERS: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_ten_records_in_a_second_and_a_count() {
        let mut refusals = Refusals::default();
        let alone = |refusals: &mut Refusals, second| {
            (0..1000).filter(|_| refusals.admit(1, "no-grant", second, || 500)).count()
        };
        assert_eq!(alone(&mut refusals, 5), 10);
        assert_eq!(refusals.take(5), [], "the second goes on");
        assert!(refusals.admit(2, "no-grant", 5, || 500), "another user");
        assert!(refusals.admit(1, "unknown-key", 5, || 500), "another reason");
        assert_eq!(
            refusals.take(6),
            [Count { uid: Some(1), outcome: "no-grant", refusals: 990, from: 5, to: 5 }]
        );
        assert_eq!(alone(&mut refusals, 7), 10);
        assert_eq!(refusals.take_all().len(), 1);
        refusals.take(9);
        assert!(refusals.of.is_empty(), "{refusals:?}");
    }

    /// A user with many ids fills neither the disk nor the memory, and the one refusal of another
    /// user is found.
    #[test]
    fn many_users_are_counted_apart() {
        let mut refusals = Refusals::default();
        let mut records = 0;
        let mut counts = Vec::new();
        for second in 1..=10 {
            for uid in 0..100_000 {
                records += usize::from(refusals.admit(uid, "no-grant", second, || 500));
            }
            if second == 3 {
                refusals.admit(500_000, "unknown-key", second, || 500);
            }
            counts.extend(refusals.take(second));
            assert!(records + counts.len() <= 250 * usize::try_from(second).unwrap());
        }
        let seconds = 11..3000;
        counts.extend(seconds.flat_map(|second| refusals.take(second)).collect::<Vec<_>>());
        let counted: u64 = counts.iter().map(|count| count.refusals).sum();
        assert_eq!(counted + records as u64, 1_000_001);
        let other = counts.iter().filter(|count| count.outcome == "unknown-key");
        assert_eq!(other.map(|count| count.refusals).sum::<u64>(), 1);
        assert!(refusals.of.is_empty());
    }

    /// Users who are refused again and again do not use up the room of a user who is refused once.
    #[test]
    fn half_of_the_room_is_for_first_records() {
        let mut refusals = Refusals::default();
        let mut length = 0;
        for uid in 0..10 {
            for _ in 0..100 {
                length += if refusals.admit(uid, "refused-act", 5, || 4000) { 4000 } else { 0 };
            }
        }
        assert!((ALL_ALONE / 2..ALL_ALONE).contains(&length), "{length}");
        let firsts = (100..200).filter(|uid| refusals.admit(*uid, "no-grant", 5, || 600)).count();
        assert_eq!(firsts, (ALL_ALONE - length) / 600);
        assert!(firsts > 0 && !refusals.admit(1, "no-grant", 5, || 600));
    }

    /// The count of a user does not wait for users who were refused later, and a user who is
    /// refused in each second has counts meanwhile.
    #[test]
    fn the_count_that_waits_longest_goes_first() {
        let mut refusals = Refusals::default();
        let mut of_first = 0;
        for second in 1..=20 {
            for uid in (0..1000).chain(0..1000) {
                refusals.admit(uid, "no-grant", second, || ALL_ALONE + 1);
            }
            let counts = refusals.take(second);
            if second > 1 {
                let turn = (u32::try_from(second).unwrap() - 2) % 10 * 100;
                let uids: Vec<_> = counts.iter().filter_map(|count| count.uid).collect();
                assert_eq!(uids, (turn..turn + 100).collect::<Vec<_>>());
                assert!(counts.iter().all(|count| second - count.from <= 11 && count.to <= second));
            }
            of_first += counts.iter().filter(|count| count.uid == Some(0)).count();
        }
        assert_eq!(of_first, 2);
    }
}
