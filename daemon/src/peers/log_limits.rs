//! Limits of the log lines that peers can cause: one line a second for each user and reason. Every
//! event is counted, and the next line tells the count.
//!
//! A flood of events by one user hides no event of another user. Each user that a grant names has
//! counts of its own. [`MAX_MEMBERS`] of the users that grants name only by group or service have
//! counts of their own, and [`MAX_WITHOUT_GRANT`] of the users without a grant. All other users are
//! counted together, so neither memory nor the log grows with the number of user ids that somebody
//! can use.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::ground::throttle::Throttle;
use crate::policy::authorise::{Grants, Peer};

/// Limits of the log lines that peers can cause.
#[derive(Default)]
pub(crate) struct LogLimits {
    /// Administrative acts that were refused for lack of a role.
    pub(crate) acts: PerUserLimit,
    /// Connections that cannot be accepted. Their user is not known.
    pub(crate) accepting: Throttle,
    /// Connections that were closed because there were too many.
    pub(crate) connections: PerUserLimit,
    /// Requests that failed for a reason that the operator must fix.
    pub(crate) faults: PerUserLimit,
    /// Connections that were closed for a fault of the peer.
    pub(crate) malformed: PerUserLimit,
    /// Requests that were refused for lack of a grant, a use or a key.
    pub(crate) refusals: PerUserLimit,
}

impl LogLimits {
    /// Sets the grants that decide which users have counts of their own.
    pub(crate) fn set_grants(&self, grants: &Grants) {
        for limit in self.per_user() {
            limit.lock().grants = grants.clone();
        }
    }

    /// Logs withheld counts that no later event has logged, within about two intervals. Never
    /// returns.
    pub(crate) async fn log_withheld(&self) {
        loop {
            tokio::select! {
                () = self.acts.withheld.notified() => {}
                () = self.connections.withheld.notified() => {}
                () = self.faults.withheld.notified() => {}
                () = self.malformed.withheld.notified() => {}
                () = self.refusals.withheld.notified() => {}
            }
            // Two intervals: the line of an event says more, so the next event gets one interval
            // to log the count.
            while self.is_withholding() {
                tokio::time::sleep(2 * INTERVAL).await;
                self.log(Some(Instant::now()));
            }
        }
    }

    /// Logs all withheld counts, at the end of the daemon.
    pub(crate) fn log_all_withheld(&self) {
        self.log(None);
    }

    fn is_withholding(&self) -> bool {
        self.per_user().into_iter().any(PerUserLimit::is_withholding)
    }

    fn per_user(&self) -> [&PerUserLimit; 5] {
        [&self.acts, &self.connections, &self.faults, &self.malformed, &self.refusals]
    }

    fn log(&self, now: Option<Instant>) {
        for (limit, event) in [
            (&self.acts, "refused administrative acts"),
            (&self.connections, "too many connections: closed some"),
            (&self.faults, "requests failed"),
            (&self.malformed, "closed connections of a peer"),
            (&self.refusals, "refused a peer"),
        ] {
            for WithheldCount { user, reason, times } in limit.take_withheld(now) {
                match user {
                    Some(LoggedUser { uid, service }) => {
                        let service = service.as_deref();
                        tracing::info!(uid, service, reason, times, "{event}, since the last such line");
                    }
                    None => tracing::info!(reason, times, "{event}, of many users"),
                }
            }
        }
    }
}

/// Limit of one kind of line: one event a second for each user and reason.
#[derive(Default)]
pub(crate) struct PerUserLimit {
    state: Mutex<State>,
    /// Notified when an event is counted without a line.
    withheld: Notify,
}

impl PerUserLimit {
    /// Counts an event. Returns the number of events since the last line of this user and reason,
    /// this event included. `None` if the event is to be logged later, as a part of a count: the
    /// last line is too recent, or the user has no counts of its own.
    pub(crate) fn admit(&self, peer: &Peer, reason: &'static str) -> Option<u64> {
        self.admit_at(Instant::now(), peer, reason)
    }

    fn admit_at(&self, now: Instant, peer: &Peer, reason: &'static str) -> Option<u64> {
        let times = self.lock().admit(now, peer, reason);
        if times.is_none() {
            self.withheld.notify_one();
        }
        times
    }

    /// Takes the counts that no event within [`INTERVAL`] before `now` could log. Takes all counts
    /// without `now`.
    fn take_withheld(&self, now: Option<Instant>) -> Vec<WithheldCount> {
        let mut state = self.lock();
        let State { users, others, .. } = &mut *state;
        let users = users
            .iter_mut()
            .flat_map(|(user, counts)| counts.events.iter_mut().map(|event| (Some(user.clone()), event)));
        let all = users.chain(others.iter_mut().map(|event| (None, event)));
        all.filter_map(|(user, event)| {
            let is_due = now.is_none_or(|now| now.duration_since(event.logged) >= INTERVAL);
            let times = if is_due { core::mem::take(&mut event.count) } else { 0 };
            event.logged = if times > 0 { now.unwrap_or(event.logged) } else { event.logged };
            (times > 0).then_some(WithheldCount { user, reason: event.reason, times })
        })
        .collect()
    }

    fn is_withholding(&self) -> bool {
        let state = self.lock();
        let of_users = state.users.values().flat_map(|counts| &counts.events);
        of_users.chain(&state.others).any(|event| event.count > 0)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of events that were counted without a line.
#[derive(Debug, Eq, PartialEq)]
struct WithheldCount {
    /// `None` for the users that are counted together.
    user: Option<LoggedUser>,
    reason: &'static str,
    times: u64,
}

/// User as the log shows it. The service is set if grants tell services apart.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct LoggedUser {
    uid: u32,
    service: Option<Arc<str>>,
}

/// Way in which grants name a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NamedBy {
    UserId,
    GroupOrService,
    /// The user has no grant.
    Nothing,
}

/// Counts of one user.
struct UserCounts {
    named_by: NamedBy,
    events: Vec<Event>,
}

#[derive(Default)]
struct State {
    grants: Grants,
    users: HashMap<LoggedUser, UserCounts>,
    /// Counts of all users without counts of their own.
    others: Vec<Event>,
}

impl State {
    fn admit(&mut self, now: Instant, peer: &Peer, reason: &'static str) -> Option<u64> {
        let user = LoggedUser { uid: peer.uid, service: peer.service.clone() };
        let named_by = match self.grants.name(peer) {
            Some(who) if who.uid.is_some() => NamedBy::UserId,
            Some(_) => NamedBy::GroupOrService,
            None => NamedBy::Nothing,
        };
        if !self.users.contains_key(&user) && !self.has_room(now, named_by) {
            // The line of an event names one user, so it cannot tell the count of all of them.
            Event::of(&mut self.others, now, reason).count += 1;
            return None;
        }
        let counts = self.users.entry(user).or_insert_with(|| UserCounts { named_by, events: Vec::new() });
        Event::of(&mut counts.events, now, reason).admit(now)
    }

    /// True if one more user of this kind may have counts of its own.
    fn has_room(&mut self, now: Instant, named_by: NamedBy) -> bool {
        let most = match named_by {
            NamedBy::UserId => return true,
            NamedBy::GroupOrService => MAX_MEMBERS,
            NamedBy::Nothing => MAX_WITHOUT_GRANT,
        };
        let count = |users: &HashMap<_, UserCounts>| {
            users.values().filter(|counts| counts.named_by == named_by).count()
        };
        if count(&self.users) < most {
            return true;
        }
        // Users without recent events and withheld counts make room. Active users keep their
        // counts.
        self.users.retain(|_, counts| {
            counts.named_by != named_by || counts.events.iter().any(|event| !event.is_over(now))
        });
        count(&self.users) < most
    }
}

/// Events of one user with the same reason.
struct Event {
    reason: &'static str,
    /// Time of the last line, or of the first event if `was_logged` is false.
    logged: Instant,
    was_logged: bool,
    /// Number of events since the last line.
    count: u64,
}

impl Event {
    /// Finds or adds the events with a reason.
    fn of<'a>(events: &'a mut Vec<Self>, now: Instant, reason: &'static str) -> &'a mut Self {
        let index = events.iter().position(|event| event.reason == reason).unwrap_or_else(|| {
            events.push(Self { reason, logged: now, was_logged: false, count: 0 });
            events.len() - 1
        });
        &mut events[index]
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.was_logged && now.duration_since(self.logged) < INTERVAL {
            return None;
        }
        (self.logged, self.was_logged) = (now, true);
        Some(core::mem::take(&mut self.count))
    }

    /// True if all events are logged, the last of them at least [`QUIET`] ago.
    fn is_over(&self, now: Instant) -> bool {
        self.count == 0 && now.duration_since(self.logged) >= QUIET
    }
}

/// Shortest time between two lines of one user and reason.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time after its last line for which a user keeps its counts.
const QUIET: Duration = Duration::from_secs(10);

/// Maximum number of users with counts of their own among the users that grants name only by group
/// or service.
const MAX_MEMBERS: usize = 64;

/// Maximum number of users with counts of their own among the users without a grant.
const MAX_WITHOUT_GRANT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::authorise::{Grant, Who};

    fn user(uid: u32) -> LoggedUser {
        LoggedUser { uid, service: None }
    }

    fn peer(uid: u32) -> Peer {
        Peer { uid, ..Peer::default() }
    }

    /// Limit under grants to some users, and to the group with the number 60.
    fn with_grants_to(users: &[u32]) -> PerUserLimit {
        let limit = PerUserLimit::default();
        let group = Who { gid: Some(60), ..Who::default() };
        let all = users.iter().map(|uid| Who::user(*uid)).chain([group]);
        limit.lock().grants = Grants::new(all.map(Grant::everything).collect());
        limit
    }

    #[test]
    fn one_line_a_second_for_each_user_and_reason_and_no_event_uncounted() {
        let limit = with_grants_to(&[33]);
        let start = Instant::now();
        let admit =
            |millis, uid, reason| limit.admit_at(start + Duration::from_millis(millis), &peer(uid), reason);
        assert_eq!(admit(0, 7, "a"), Some(1));
        for millis in 1..900 {
            assert_eq!(admit(millis, 7, "a"), None);
        }
        // A flood hides neither another user nor another reason.
        assert_eq!(admit(900, 33, "a"), Some(1));
        assert_eq!(admit(900, 8, "a"), Some(1));
        assert_eq!(admit(900, 7, "b"), Some(1));
        let service = Peer { service: Some("php-fpm.service".into()), ..peer(7) };
        assert_eq!(limit.admit_at(start + Duration::from_millis(900), &service, "a"), Some(1));
        assert_eq!(admit(1000, 7, "a"), Some(900));
        assert_eq!(admit(1001, 7, "a"), None);
        let withheld = |millis| limit.take_withheld(Some(start + Duration::from_millis(millis)));
        assert_eq!(withheld(1500), [], "the next event may log the count");
        assert_eq!(withheld(2000), [WithheldCount { user: Some(user(7)), reason: "a", times: 1 }]);
        assert!(!limit.is_withholding());
        assert_eq!(admit(2999, 7, "a"), None, "a withheld count is a line, too");
        assert_eq!(limit.take_withheld(None), [WithheldCount { user: Some(user(7)), reason: "a", times: 1 }]);
    }

    #[test]
    fn many_users_take_neither_memory_nor_lines_of_other_users() {
        let limit = with_grants_to(&[33]);
        let start = Instant::now();
        let mut logged = 0;
        for uid in 100_000..110_000 {
            logged += limit.admit_at(start, &peer(uid), "no-grant").unwrap_or(0);
        }
        assert_eq!(logged, MAX_WITHOUT_GRANT as u64);
        assert_eq!(limit.lock().users.len(), MAX_WITHOUT_GRANT);
        assert_eq!(limit.admit_at(start, &peer(33), "use-refused"), Some(1));
        let member = Peer { gid: 60, ..peer(9000) };
        assert_eq!(limit.admit_at(start, &member, "use-refused"), Some(1), "named by its group");
        assert_eq!(
            limit.admit_at(start, &peer(100_000), "no-grant"),
            None,
            "an active user keeps its counts"
        );
        let withheld = limit.take_withheld(Some(start + INTERVAL));
        assert!(
            withheld.contains(&WithheldCount { user: None, reason: "no-grant", times: 10_000 - logged }),
            "{withheld:?}"
        );
        assert_eq!(withheld.iter().map(|count| count.times).sum::<u64>() + logged, 10_001);
        let later = start + INTERVAL + QUIET;
        assert_eq!(limit.admit_at(later, &peer(5), "no-grant"), Some(1), "inactive users make room");
        assert_eq!(limit.lock().users.len(), 3);
    }
}
