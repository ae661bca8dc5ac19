//! Limits for uses that were not carried out, because somebody without a grant can cause any number
//! of them.
//!
//! A user and reason gets [`ALONE`] records of its own in a second. All further ones are counted
//! for that user and reason, so nobody's refusals hide those of another user. The length of the
//! records of all users together is limited too, and half of it is for the first record of each
//! user in a second. A count that does not fit waits for a later second, in the order in which the
//! counts have begun.
//!
//! In the long run, all records and counts have an [`Allowance`], so that refusals cannot push
//! older records out of a trail of limited length. Single records leave a part of the allowance to
//! counts. So each user and reason has a count even when the allowance is used up; such a count
//! covers a longer time.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};

/// Refusals of the present second, and counts that wait.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    allowance: Allowance,
    /// Users with a record of their own in this hour.
    this_hour: HashSet<u32>,
    /// The present second, since 1970.
    second: u64,
    /// Length of records of their own in this second, of all users, in bytes.
    bytes: usize,
    /// The part of it that is not the first record of a user in this second.
    further: usize,
    /// Users with a record of their own in this second: some 140 records have room.
    this_second: HashSet<u32>,
    /// Second in which counts were last taken.
    taken: u64,
    of: HashMap<Key, Refused>,
    /// Number of reasons in `of` of each user.
    reasons: HashMap<u32, usize>,
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
        let second = self.turn(second);
        // Further reasons of users leave room for others: a user of many ids can have many reasons.
        let most = if self.reasons.contains_key(&uid) { MAX_FURTHER } else { MAX_USERS };
        let known = self.of.len() < most || self.of.contains_key(&(uid, outcome));
        let key = (if known { uid } else { OTHERS }, outcome);
        let refused = self.of.entry(key).or_insert_with(|| {
            *self.reasons.entry(key.0).or_default() += 1;
            Refused::default()
        });
        if refused.second != second {
            (refused.second, refused.alone) = (second, 0);
        }
        let is_first = !self.this_second.contains(&uid);
        let has_room = self.bytes < ALL_ALONE && (is_first || self.further < ALL_ALONE / 2);
        let left = if self.this_hour.contains(&uid) { LEFT_BY_FURTHER } else { LEFT_BY_FIRST };
        if known && refused.alone < ALONE && has_room && self.allowance.bytes > left {
            let length = length();
            let bytes = self.bytes.saturating_add(length);
            let further = if is_first { self.further } else { self.further.saturating_add(length) };
            if bytes <= ALL_ALONE && further <= ALL_ALONE / 2 && self.allowance.spend(length, left) {
                refused.alone += 1;
                (self.bytes, self.further) = (bytes, further);
                self.this_second.insert(uid);
                self.this_hour.insert(uid);
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
    /// in one. While little of the allowance is left, they have begun some minutes ago.
    pub(crate) fn take(&mut self, second: u64) -> Vec<Count> {
        if self.taken == second {
            return Vec::new();
        }
        self.taken = second;
        self.allowance.refill(second);
        let age = if self.allowance.bytes < LEFT_BY_SHORT_COUNTS { LONG } else { 1 };
        let mut counts = Vec::new();
        while counts.len() < MAX_COUNTS
            && let Some(key) = self.waiting.front()
            // A clock that was set back keeps no count waiting.
            && self.of.get(key).is_none_or(|refused| refused.from.abs_diff(second) >= age)
            && self.allowance.spend(COUNT, 0)
        {
            counts.extend(self.take_first());
        }
        // Users who were not refused since have nothing to remember.
        let present = second.saturating_sub(1)..=second.saturating_add(SET_BACK);
        self.of.retain(|(uid, _), refused| {
            let stays = refused.more > 0 || present.contains(&refused.second);
            if !stays && let Entry::Occupied(mut reasons) = self.reasons.entry(*uid) {
                *reasons.get_mut() -= 1;
                if *reasons.get() == 0 {
                    reasons.remove();
                }
            }
            stays
        });
        counts
    }

    /// Takes all counts, at the end.
    pub(crate) fn take_all(&mut self) -> Vec<Count> {
        let mut counts = Vec::new();
        while !self.waiting.is_empty() {
            counts.extend(self.take_first());
        }
        self.of.clear();
        self.reasons.clear();
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

    /// Begins a second, unless it is the present one or just before: threads do not come in the
    /// order of their times. Returns the present second.
    fn turn(&mut self, second: u64) -> u64 {
        if is_after(second, self.second) {
            if second / HOUR != self.second / HOUR {
                self.this_hour.clear();
            }
            (self.second, self.bytes, self.further) = (second, 0, 0);
            self.this_second.clear();
            self.allowance.refill(second);
        }
        self.second
    }
}

/// Length that records and counts may have on the long run, in bytes. It comes back slowly.
#[derive(Debug)]
struct Allowance {
    bytes: usize,
    /// Second of the last refill.
    second: u64,
}

impl Allowance {
    fn refill(&mut self, second: u64) {
        if is_after(second, self.second) {
            let seconds = usize::try_from(second.saturating_sub(self.second)).unwrap_or(usize::MAX);
            self.bytes = seconds.saturating_mul(PER_SECOND).saturating_add(self.bytes).min(ALLOWANCE);
            self.second = second;
        }
    }

    /// Spends some bytes if others are left. Returns false if they are not.
    fn spend(&mut self, length: usize, left: usize) -> bool {
        let Some(rest) = self.bytes.checked_sub(length).filter(|rest| *rest >= left) else { return false };
        self.bytes = rest;
        true
    }
}

impl Default for Allowance {
    /// The whole allowance.
    fn default() -> Self {
        Self { bytes: ALLOWANCE, second: 0 }
    }
}

/// True if a second comes after another one, or so long before it that the clock was set back.
fn is_after(second: u64, present: u64) -> bool {
    second > present || second + SET_BACK < present
}

/// Records of their own that a user and reason gets in a second.
pub(crate) const ALONE: u32 = 10;
/// Length of records of their own in a second, of all users, in bytes: some 140 records.
const ALL_ALONE: usize = 70_000;
/// Counts in a second: some 28 KB.
const MAX_COUNTS: usize = 100;
/// Users and reasons that are counted apart: the 65,536 ids that a user may have in a user
/// namespace (subuid(5)), and others.
const MAX_USERS: usize = 100_000;
/// Users and reasons up to which a user with one reason is counted apart for further ones.
const MAX_FURTHER: usize = MAX_USERS - 65_536;
/// In the place of the uids of further users. The kernel gives this number to nobody
/// (credentials(7)).
const OTHERS: u32 = u32::MAX;
/// The allowance that records and counts have at most: 64 MiB.
const ALLOWANCE: usize = 64 << 20;
/// The allowance that comes back in a second: 43 MB a day. In the year that records are kept by
/// default, this is less than the 20 GiB that all files have by default.
const PER_SECOND: usize = 500;
/// Part of the allowance that counts of one second leave to counts of ten minutes.
const LEFT_BY_SHORT_COUNTS: usize = ALLOWANCE / 4 * 3;
/// Part of the allowance that records of a user who has had one in this hour leave to others.
const LEFT_BY_FURTHER: usize = ALLOWANCE / 2;
/// Part of the allowance that the first record of a user in an hour leaves to counts.
const LEFT_BY_FIRST: usize = ALLOWANCE / 4;
/// Age of a count that is taken while little of the allowance is left, in seconds.
const LONG: u64 = 600;
/// Length of the record of a count, or somewhat more.
const COUNT: usize = 330;
const HOUR: u64 = 3600;
/// Seconds by which times of threads never differ.
const SET_BACK: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hash;
    use crate::line::Content;

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
            for uid in 0..120_000 {
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
        assert_eq!(counted + records as u64, 1_200_001);
        let other = counts.iter().filter(|count| count.outcome == "unknown-key");
        assert_eq!(other.map(|count| count.refusals).sum::<u64>(), 1);
        assert!(refusals.of.is_empty());
    }

    /// A user with all ids of a user namespace, each refused for many reasons, leaves room to count
    /// another user apart. A clock that was set back keeps no room.
    #[test]
    fn many_reasons_of_many_users_do_not_hide_another_user() {
        let mut refusals = Refusals::default();
        for (uid, outcome) in (0..65_536).flat_map(|uid| [(uid, "a"), (uid, "b"), (uid, "c")]) {
            refusals.admit(uid, outcome, DAY, || 500);
        }
        for _ in 0..2 {
            refusals.admit(HONEST, "no-grant", DAY, || 500);
        }
        let is_counted = |refusals: &Refusals| refusals.of.contains_key(&(HONEST, "no-grant"));
        assert!(is_counted(&refusals) && refusals.of.len() <= MAX_USERS, "{}", refusals.of.len());
        refusals.take_all();

        refusals.admit(HONEST, "no-grant", 2 * DAY, || 500);
        refusals.take(DAY);
        assert!(!is_counted(&refusals) && refusals.reasons.is_empty());
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

    /// Two days of refusals without an end: `refuse` is called for a second, and returns the
    /// refusals and the records of their own. After one day, an honest user is refused twice.
    fn two_days(mut refuse: impl FnMut(&mut Refusals, u64) -> (u64, u64)) -> TwoDays {
        let mut refusals = Refusals::default();
        let mut days = TwoDays::default();
        let (mut refused, mut told) = (2, 0);
        // Each second until the allowance is used up, and then one of each minute, to spare time.
        let seconds = (0..HOUR).chain((HOUR..2 * DAY).step_by(60));
        for second in seconds.map(|second| BEGIN + second) {
            let (more, mut alone) = refuse(&mut refusals, second);
            refused += more;
            if second == BEGIN + DAY {
                let twice = (0..2).filter(|_| refusals.admit(HONEST, "no-grant", second, || RECORD));
                days.honest_alone = twice.count() as u64;
                alone += days.honest_alone;
            }
            let counts = refusals.take(second);
            days.bytes += RECORD * usize::try_from(alone).unwrap() + COUNT * counts.len();
            told += alone + counts.iter().map(|count| count.refusals).sum::<u64>();
            let honest = counts.iter().find(|count| count.uid == Some(HONEST));
            days.honest_waited = honest.map(|count| second - count.from).or(days.honest_waited);
        }
        told += refusals.take_all().iter().map(|count| count.refusals).sum::<u64>();
        assert_eq!(told, refused, "no refusal is lost");
        assert!(days.bytes <= ALLOWANCE + 2 * 86_400 * PER_SECOND, "{days:?}");
        days
    }

    #[derive(Debug, Default)]
    struct TwoDays {
        /// Length of all records.
        bytes: usize,
        /// Records of their own of the honest user.
        honest_alone: u64,
        /// Seconds from the first refusal in a count of that user to the count.
        honest_waited: Option<u64>,
    }

    const BEGIN: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;
    const HONEST: u32 = 500_000;
    const RECORD: usize = 500;

    #[test]
    fn one_user_does_not_fill_a_trail() {
        let outcomes = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let days = two_days(|refusals, second| {
            let of = |outcome| (0..20).filter(|_| refusals.admit(1, outcome, second, || RECORD)).count();
            (160, outcomes.map(of).iter().sum::<usize>() as u64)
        });
        // The room for users who are refused once is left.
        assert_eq!((days.honest_alone, days.honest_waited), (1, Some(LONG)), "{days:?}");
    }

    /// A user with many ids. A user namespace has four times as many, so that a count waits four
    /// times as long there: 12 hours.
    #[test]
    fn many_users_do_not_fill_a_trail() {
        let mut next = 0;
        let days = two_days(|refusals, second| {
            let mut alone = 0;
            for _ in 0..500 {
                next = (next + 1) % 16_384;
                alone += u64::from(refusals.admit(next, "no-grant", second, || RECORD));
            }
            (500, alone)
        });
        assert_eq!(days.honest_alone, 0, "{days:?}");
        let waited = days.honest_waited.unwrap();
        assert!((LONG..3 * HOUR + 60).contains(&waited), "{days:?}");
    }

    /// After a time without refusals there is room for records again.
    #[test]
    fn the_allowance_comes_back() {
        let mut refusals = Refusals::default();
        let mut admit = |second, uid| {
            let admitted = (0..10).filter(|_| refusals.admit(uid, "no-grant", second, || 3000)).count();
            (admitted, refusals.take(second).len())
        };
        let mut second = BEGIN;
        while admit(second, 1).0 > 0 {
            second += 1;
        }
        let spent = ALLOWANCE - LEFT_BY_FURTHER;
        assert!((spent / 30_000..spent / 29_000).contains(&usize::try_from(second - BEGIN).unwrap()));
        assert_eq!(admit(second, 2).0, 1, "another user");
        // A clock that is set back gives nothing, and goes on from there.
        assert_eq!(admit(second - DAY, 1).0, 1, "another hour");
        assert_eq!(admit(second - DAY + 100, 1).0, 10);
    }

    #[test]
    fn a_count_is_as_long_as_was_reckoned() {
        let count = Count {
            uid: Some(u32::MAX - 1),
            outcome: "no-downgrade-sentinel",
            refusals: u64::MAX,
            from: BEGIN,
            to: BEGIN,
        };
        let mut line = Vec::new();
        let now = std::time::SystemTime::now();
        crate::line::write(&mut line, u64::MAX, now, &Content::Refusals(&count), Hash::NONE);
        assert!((COUNT - 30..COUNT).contains(&line.len()), "{}", line.len());
    }
}
