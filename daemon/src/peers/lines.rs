//! Log lines that peers can cause: at most one a second for each user and reason, and every event counted.
//!
//! A flood by one user hides nothing of another. Users whom a grant names always have a place of
//! their own. Of those whom grants know by a group or a service [`MAX_MEMBERS`] do, and of those
//! without a grant [`MAX_STRANGERS`]. All further ones are counted together, so that neither memory
//! nor the log grows with the number of users that somebody can play.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::ground::throttle::Throttle;
use crate::policy::authorise::{Grants, Peer};

/// The log lines that peers can cause.
#[derive(Default)]
pub(crate) struct Lines {
    /// Connections that cannot be accepted, of nobody known yet.
    pub(crate) accepting: Throttle,
    /// Connections that were closed for being too many.
    pub(crate) over_limit: PerUser,
    /// Signatures that failed for a reason that an operator must look after.
    pub(crate) faults: PerUser,
    /// Connections that were closed for what came over them.
    pub(crate) malformed: PerUser,
    /// Requests that were refused for want of a grant, a use or a key.
    pub(crate) refusals: PerUser,
}

impl Lines {
    /// Who has a place is settled by these grants from now on.
    pub(crate) fn set_grants(&self, grants: &Grants) {
        for lines in [&self.over_limit, &self.faults, &self.malformed, &self.refusals] {
            lines.lock().grants = grants.clone();
        }
    }

    /// Logs counts that no later event has told, within about two intervals; never returns.
    pub(crate) async fn tell_rests(&self) {
        loop {
            tokio::select! {
                () = self.over_limit.held_back.notified() => {}
                () = self.faults.held_back.notified() => {}
                () = self.malformed.held_back.notified() => {}
                () = self.refusals.held_back.notified() => {}
            }
            // One more interval than an event needs to be told by the next: that line says more.
            while self.is_holding_back() {
                tokio::time::sleep(2 * INTERVAL).await;
                self.tell(Some(Instant::now()));
            }
        }
    }

    /// Logs every count that was not told yet, as at the end of the daemon.
    pub(crate) fn tell_all(&self) {
        self.tell(None);
    }

    fn is_holding_back(&self) -> bool {
        [&self.over_limit, &self.faults, &self.malformed, &self.refusals]
            .into_iter()
            .any(PerUser::is_holding_back)
    }

    fn tell(&self, now: Option<Instant>) {
        for (lines, what) in [
            (&self.over_limit, "too many connections: closed some"),
            (&self.faults, "requests failed"),
            (&self.malformed, "closed connections of a peer"),
            (&self.refusals, "refused a peer"),
        ] {
            for Rest { whose, reason, times } in lines.rests(now) {
                match whose {
                    Some(Whose { uid, service }) => {
                        let service = service.as_deref();
                        tracing::info!(uid, service, reason, times, "{what}, since the last such line");
                    }
                    None => tracing::info!(reason, times, "{what}, of many users"),
                }
            }
        }
    }
}

/// Lets one event a second through for each user and reason, and counts the others.
#[derive(Default)]
pub(crate) struct PerUser {
    state: Mutex<State>,
    held_back: Notify,
}

impl PerUser {
    /// How often this happened to the user since it was last let through, this time included; `None` if it is
    /// too soon to speak of it again, or if the user is one of too many. The count is told later, then.
    pub(crate) fn admit(&self, peer: &Peer, reason: &'static str) -> Option<u64> {
        self.admit_at(Instant::now(), peer, reason)
    }

    fn admit_at(&self, now: Instant, peer: &Peer, reason: &'static str) -> Option<u64> {
        let times = self.lock().admit(now, peer, reason);
        if times.is_none() {
            self.held_back.notify_one();
        }
        times
    }

    /// Takes the counts of which no event within [`INTERVAL`] before `now` could tell; all of them without `now`.
    fn rests(&self, now: Option<Instant>) -> Vec<Rest> {
        let mut state = self.lock();
        let State { users, crowd, .. } = &mut *state;
        let users = users
            .iter_mut()
            .flat_map(|(whose, place)| place.events.iter_mut().map(|e| (Some(whose.clone()), e)));
        let all = users.chain(crowd.iter_mut().map(|event| (None, event)));
        all.filter_map(|(whose, event)| {
            let is_due = now.is_none_or(|now| now.duration_since(event.spoken) >= INTERVAL);
            let times = if is_due { core::mem::take(&mut event.count) } else { 0 };
            event.spoken = if times > 0 { now.unwrap_or(event.spoken) } else { event.spoken };
            (times > 0).then_some(Rest { whose, reason: event.reason, times })
        })
        .collect()
    }

    fn is_holding_back(&self) -> bool {
        let state = self.lock();
        state.users.values().flat_map(|place| &place.events).chain(&state.crowd).any(|event| event.count > 0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A count that was not told.
#[derive(Debug, Eq, PartialEq)]
struct Rest {
    /// The user; none for those that are counted together.
    whose: Option<Whose>,
    reason: &'static str,
    times: u64,
}

/// A user, in a service where grants name services.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Whose {
    uid: u32,
    service: Option<Arc<str>>,
}

/// How grants know a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    /// By its name.
    User,
    /// By a group or a service.
    Member,
    /// Not at all.
    Stranger,
}

/// The place of a user.
struct Place {
    known: Known,
    events: Vec<Event>,
}

#[derive(Default)]
struct State {
    grants: Grants,
    users: HashMap<Whose, Place>,
    /// Of the users that have no place of their own.
    crowd: Vec<Event>,
}

impl State {
    fn admit(&mut self, now: Instant, peer: &Peer, reason: &'static str) -> Option<u64> {
        let whose = Whose { uid: peer.uid, service: peer.service.clone() };
        let known = match self.grants.name(peer) {
            Some(who) if who.uid.is_some() => Known::User,
            Some(_) => Known::Member,
            None => Known::Stranger,
        };
        if !self.users.contains_key(&whose) && !self.has_room(now, known) {
            // No line can speak for all of them, so their count is told by itself.
            Event::of(&mut self.crowd, now, reason).count += 1;
            return None;
        }
        let place = self.users.entry(whose).or_insert_with(|| Place { known, events: Vec::new() });
        Event::of(&mut place.events, now, reason).admit(now)
    }

    fn has_room(&mut self, now: Instant, known: Known) -> bool {
        let most = match known {
            Known::User => return true,
            Known::Member => MAX_MEMBERS,
            Known::Stranger => MAX_STRANGERS,
        };
        let count = |users: &HashMap<_, Place>| users.values().filter(|place| place.known == known).count();
        if count(&self.users) < most {
            return true;
        }
        // Users of whom everything is told make room; a user who is at it keeps the place.
        self.users
            .retain(|_, place| place.known != known || place.events.iter().any(|event| !event.is_over(now)));
        count(&self.users) < most
    }
}

/// What happens again and again.
struct Event {
    reason: &'static str,
    /// When it was last told, or began.
    spoken: Instant,
    /// Whether it was ever told.
    is_told: bool,
    /// How often it happened since.
    count: u64,
}

impl Event {
    fn of<'a>(events: &'a mut Vec<Self>, now: Instant, reason: &'static str) -> &'a mut Self {
        let index = events.iter().position(|event| event.reason == reason).unwrap_or_else(|| {
            events.push(Self { reason, spoken: now, is_told: false, count: 0 });
            events.len() - 1
        });
        &mut events[index]
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.is_told && now.duration_since(self.spoken) < INTERVAL {
            return None;
        }
        (self.spoken, self.is_told) = (now, true);
        Some(core::mem::take(&mut self.count))
    }

    fn is_over(&self, now: Instant) -> bool {
        self.count == 0 && now.duration_since(self.spoken) >= QUIET
    }
}

const INTERVAL: Duration = Duration::from_secs(1);

/// How long a stranger of whom everything is told keeps the place.
const QUIET: Duration = Duration::from_secs(10);

/// Most users whom grants know by a group or a service that have a place of their own.
const MAX_MEMBERS: usize = 64;

/// Most users without a grant that have a place of their own.
const MAX_STRANGERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::authorise::{Grant, Who};

    fn user(uid: u32) -> Whose {
        Whose { uid, service: None }
    }

    fn peer(uid: u32) -> Peer {
        Peer { uid, ..Peer::default() }
    }

    /// Where grants name users, and a group with the number 60.
    fn named(users: &[u32]) -> PerUser {
        let lines = PerUser::default();
        let group = Who { gid: Some(60), ..Who::default() };
        let all = users.iter().map(|uid| Who::user(*uid)).chain([group]);
        lines.lock().grants = Grants::new(all.map(Grant::everything).collect());
        lines
    }

    #[test]
    fn one_a_second_for_each_user_and_reason_and_none_uncounted() {
        let lines = named(&[33]);
        let start = Instant::now();
        let admit =
            |millis, uid, reason| lines.admit_at(start + Duration::from_millis(millis), &peer(uid), reason);
        assert_eq!(admit(0, 7, "a"), Some(1));
        for millis in 1..900 {
            assert_eq!(admit(millis, 7, "a"), None);
        }
        // A flood hides neither another user nor another reason.
        assert_eq!(admit(900, 33, "a"), Some(1));
        assert_eq!(admit(900, 8, "a"), Some(1));
        assert_eq!(admit(900, 7, "b"), Some(1));
        let service = Peer { service: Some("php-fpm.service".into()), ..peer(7) };
        assert_eq!(lines.admit_at(start + Duration::from_millis(900), &service, "a"), Some(1));
        assert_eq!(admit(1000, 7, "a"), Some(900));
        assert_eq!(admit(1001, 7, "a"), None);
        let rests = |millis| lines.rests(Some(start + Duration::from_millis(millis)));
        assert_eq!(rests(1500), [], "the next event may tell more");
        assert_eq!(rests(2000), [Rest { whose: Some(user(7)), reason: "a", times: 1 }]);
        assert!(!lines.is_holding_back());
        assert_eq!(admit(2999, 7, "a"), None, "a rest is a line, too");
        assert_eq!(lines.rests(None), [Rest { whose: Some(user(7)), reason: "a", times: 1 }]);
    }

    #[test]
    fn many_users_take_neither_memory_nor_the_lines_of_others() {
        let lines = named(&[33]);
        let start = Instant::now();
        let mut told = 0;
        for uid in 100_000..110_000 {
            told += lines.admit_at(start, &peer(uid), "no-grant").unwrap_or(0);
        }
        assert_eq!(told, MAX_STRANGERS as u64);
        assert_eq!(lines.lock().users.len(), MAX_STRANGERS);
        assert_eq!(lines.admit_at(start, &peer(33), "use-refused"), Some(1));
        let member = Peer { gid: 60, ..peer(9000) };
        assert_eq!(lines.admit_at(start, &member, "use-refused"), Some(1), "known by its group");
        assert_eq!(lines.admit_at(start, &peer(100_000), "no-grant"), None, "whoever has a place keeps it");
        let rests = lines.rests(Some(start + INTERVAL));
        assert!(rests.contains(&Rest { whose: None, reason: "no-grant", times: 10_000 - told }), "{rests:?}");
        assert_eq!(rests.iter().map(|rest| rest.times).sum::<u64>() + told, 10_001);
        let later = start + INTERVAL + QUIET;
        assert_eq!(lines.admit_at(later, &peer(5), "no-grant"), Some(1), "places come free");
        assert_eq!(lines.lock().users.len(), 3);
    }
}
