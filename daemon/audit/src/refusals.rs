//! Limits for uses that were not carried out, because somebody without a grant can cause any number
//! of them.
//!
//! A user and reason gets [`ALONE`] records of its own in a second. All further ones are counted
//! for that user and reason, so nobody's refusals hide those of another user. The length of the
//! records of all users together is limited too: a count that does not fit waits for a later
//! second.

use std::collections::HashMap;

/// Refusals of the present second, and counts that wait.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// The present second, since 1970.
    second: u64,
    /// Length of records of their own in this second, of all users, in bytes.
    bytes: usize,
    /// Second in which counts were last taken.
    taken: u64,
    of: HashMap<(u32, &'static str), Refused>,
}

/// Refusals of one user for one reason.
#[derive(Debug, Default)]
struct Refused {
    /// Second of `alone`.
    second: u64,
    /// Records of their own in that second.
    alone: u32,
    /// Refusals without a record of their own.
    more: u64,
}

/// Number of refusals that have no record of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Count {
    /// The user; `None` for all users that were too many to count apart.
    pub(crate) uid: Option<u32>,
    pub(crate) outcome: &'static str,
    pub(crate) refusals: u64,
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
        let refused = self.of.entry((if known { uid } else { OTHERS }, outcome)).or_default();
        if refused.second != second {
            (refused.second, refused.alone) = (second, 0);
        }
        if known && refused.alone < ALONE && self.bytes < ALL_ALONE {
            let bytes = self.bytes.saturating_add(length());
            if bytes <= ALL_ALONE {
                refused.alone += 1;
                self.bytes = bytes;
                return true;
            }
        }
        refused.more += 1;
        false
    }

    /// Takes counts of earlier seconds, once in a second, as many as there may be in one.
    pub(crate) fn take(&mut self, second: u64) -> Vec<Count> {
        if self.taken == second {
            return Vec::new();
        }
        self.taken = second;
        let waiting = self.of.iter().filter(|(_, refused)| refused.more > 0 && refused.second < second);
        let keys: Vec<_> = waiting.map(|(key, _)| *key).take(MAX_COUNTS).collect();
        let counts = keys
            .into_iter()
            .filter_map(|key| self.of.remove(&key).map(|refused| (key, refused.more)))
            .map(|((uid, outcome), refusals)| Count {
                uid: (uid != OTHERS).then_some(uid),
                outcome,
                refusals,
            })
            .collect();
        // Users who were not refused since have nothing to remember.
        self.of.retain(|_, refused| refused.more > 0 || refused.second + 1 >= second);
        counts
    }

    /// Takes all counts, at the end.
    pub(crate) fn take_all(&mut self) -> Vec<Count> {
        let all = self.of.drain().filter(|(_, refused)| refused.more > 0);
        all.map(|((uid, outcome), refused)| Count {
            uid: (uid != OTHERS).then_some(uid),
            outcome,
            refusals: refused.more,
        })
        .collect()
    }

    fn turn(&mut self, second: u64) {
        if self.second != second {
            (self.second, self.bytes) = (second, 0);
        }
    }
}

/// Records of their own that a user and reason gets in a second.
pub(crate) const ALONE: u32 = 10;
/// Length of records of their own in a second, of all users, in bytes: some 150 records.
const ALL_ALONE: usize = 75_000;
/// Counts in a second: some 20 KB.
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
        assert_eq!(refusals.take(6), [Count { uid: Some(1), outcome: "no-grant", refusals: 990 }]);
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
}
