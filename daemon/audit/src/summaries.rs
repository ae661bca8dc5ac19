//! Summaries: one record for all uses of a key by a peer in a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::shards::seconds;
use crate::{KeyUse, Name};

/// Uses of the present second, and summaries of earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Summaries {
    /// The present second, since 1970.
    second: u64,
    groups: HashMap<Group, Tally>,
    /// Uses by users beyond [`MAX_GROUPS`].
    others: HashMap<Option<u32>, Tally>,
    finished: Vec<Summary>,
}

/// Peer, key and purpose that uses have in common. Workers of one server are one peer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Group {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) command: Option<Arc<str>>,
    pub(crate) unit: Option<Arc<str>>,
    pub(crate) key: Name,
    pub(crate) version: u32,
    pub(crate) fingerprint: Option<u64>,
    pub(crate) purpose: Option<&'static str>,
    pub(crate) scheme: Option<&'static str>,
}

/// Number of uses, with the times of the first and the last one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tally {
    pub(crate) count: u64,
    pub(crate) from: SystemTime,
    pub(crate) to: SystemTime,
}

/// Uses that were carried out in one second.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Summary {
    /// The user; `None` for all users that were too many to count apart.
    pub(crate) uid: Option<u32>,
    /// `None` for groups of the user that were too many to count apart.
    pub(crate) group: Option<Group>,
    pub(crate) tally: Tally,
}

impl Summaries {
    /// Counts a use that was carried out.
    pub(crate) fn add(&mut self, r#use: &KeyUse) {
        let second = seconds(r#use.time);
        if self.second != second {
            self.finish();
            self.second = second;
        }
        let peer = &r#use.peer;
        let group = Group {
            uid: peer.uid,
            gid: peer.gid,
            command: peer.command.clone(),
            unit: peer.unit.clone(),
            key: r#use.key,
            version: r#use.version,
            fingerprint: r#use.fingerprint,
            purpose: r#use.purpose,
            scheme: r#use.scheme,
        };
        let new = Tally { count: 0, from: r#use.time, to: r#use.time };
        let tally = if self.groups.len() < MAX_GROUPS || self.groups.contains_key(&group) {
            self.groups.entry(group).or_insert(new)
        } else {
            let known = self.others.len() < MAX_OTHERS || self.others.contains_key(&Some(peer.uid));
            self.others.entry(known.then_some(peer.uid)).or_insert(new)
        };
        tally.count += 1;
        tally.from = tally.from.min(r#use.time);
        tally.to = tally.to.max(r#use.time);
    }

    /// Takes the summaries of seconds before this one.
    pub(crate) fn take(&mut self, second: u64) -> Vec<Summary> {
        if self.second != second {
            self.finish();
        }
        core::mem::take(&mut self.finished)
    }

    /// Takes all summaries.
    pub(crate) fn take_all(&mut self) -> Vec<Summary> {
        self.finish();
        core::mem::take(&mut self.finished)
    }

    fn finish(&mut self) {
        let groups = self.groups.drain();
        self.finished.extend(groups.map(|(group, tally)| Summary {
            uid: Some(group.uid),
            group: Some(group),
            tally,
        }));
        let others = self.others.drain();
        self.finished.extend(others.map(|(uid, tally)| Summary { uid, group: None, tally }));
    }
}

/// Groups of a second that are counted apart: some 2 MB.
const MAX_GROUPS: usize = 10_000;
/// Users of a second whose further groups are counted apart.
const MAX_OTHERS: usize = 1000;

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::tests::key_use;

    fn at(second: u64, name: &str) -> KeyUse {
        KeyUse { time: SystemTime::UNIX_EPOCH + Duration::from_millis(second * 1000 + 500), ..key_use(name) }
    }

    #[test]
    fn uses_of_a_second_are_one_record() {
        let mut summaries = Summaries::default();
        for _ in 0..1000 {
            summaries.add(&at(1, "shop"));
        }
        let mut worker = at(1, "shop");
        worker.peer.pid += 1;
        summaries.add(&worker);
        summaries.add(&at(1, "blog"));
        assert_eq!(summaries.take(1), [], "the second goes on");
        summaries.add(&at(2, "shop"));
        let mut taken = summaries.take(2);
        taken.sort_by_key(|summary| summary.tally.count);
        let counts: Vec<_> = taken.iter().map(|summary| summary.tally.count).collect();
        assert_eq!(counts, [1, 1001]);
        assert_eq!(taken[1].group.as_ref().unwrap().key.as_str(), "shop");
        assert_eq!(summaries.take(3).len(), 1);
        assert_eq!(summaries.take_all(), []);
    }

    #[test]
    fn memory_has_a_bound_and_every_use_is_counted() {
        let mut summaries = Summaries::default();
        for number in 0..100_000 {
            let mut r#use = at(1, &format!("key-{number}"));
            r#use.peer.uid = number % 5000;
            summaries.add(&r#use);
        }
        let taken = summaries.take_all();
        assert!(taken.len() <= MAX_GROUPS + MAX_OTHERS + 1, "{}", taken.len());
        assert_eq!(taken.iter().map(|summary| summary.tally.count).sum::<u64>(), 100_000);
    }
}
