//! Account of one user: requests that wait, memory of long frames, and use of grants. All
//! connections of the user share the account.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::config::Config;
use crate::ground::allowance::Allowance;
use crate::ground::fair::User;
use crate::policy::authorise::{Grant, Limits};

/// Account of one user, or of several users that count as one ([`super::owner`]).
pub(crate) struct Account {
    /// Number of the user in every queue.
    pub(crate) id: User,
    /// Number of the user in the queue of turns for incomplete frames. A separate number, so that
    /// these turns do not wait behind complete requests of the user.
    pub(crate) id_of_parts: User,
    /// Requests that have arrived and are not answered.
    requests: AtomicUsize,
    /// Sessions that do not read until a request permit is free.
    paused: AtomicUsize,
    request_permit_freed: Notify,
    /// Bytes of long frames that are arriving or waiting.
    long_frames: AtomicUsize,
    /// Expected time of a turn of this user in nanoseconds: close to the longest recent turn.
    turn_estimate: AtomicU64,
    /// Allowance of requests above the limit that are read and refused.
    refused_requests: Allowance,
    /// Allowance of answers to these requests.
    refusals: Allowance,
    grants: Mutex<GrantUsage>,
}

/// Reason why there is no permit for a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TooManyRequests {
    /// The request is to be refused as overloaded.
    Refuse,
    /// The request is to be left unread, because the user has used up its allowance of refusals.
    LeaveUnread,
}

impl Account {
    pub(crate) fn new(id: User) -> Self {
        Self {
            id,
            id_of_parts: id | PARTS,
            requests: AtomicUsize::new(0),
            paused: AtomicUsize::new(0),
            request_permit_freed: Notify::new(),
            long_frames: AtomicUsize::new(0),
            turn_estimate: AtomicU64::new(0),
            refused_requests: Allowance::new(REFUSED_AT_ONCE, REFUSED),
            refusals: Allowance::new(REFUSED_AT_ONCE, REFUSED),
            grants: Mutex::default(),
        }
    }

    /// Takes a permit for a request that has arrived.
    ///
    /// # Errors
    /// The user has [`MAX_REQUESTS`] requests that are not answered.
    pub(crate) fn request_permit(&self) -> Result<RequestPermit<'_>, TooManyRequests> {
        if self.requests.fetch_add(1, Ordering::Relaxed) < MAX_REQUESTS {
            return Ok(RequestPermit(self));
        }
        self.requests.fetch_sub(1, Ordering::Relaxed);
        let may_refuse = self.refused_requests.take();
        Err(if may_refuse { TooManyRequests::Refuse } else { TooManyRequests::LeaveUnread })
    }

    /// Waits until the rate limit admits one more refusal as overloaded. Refused requests that have
    /// waited behind another request of their connection would otherwise be answered all at once.
    pub(crate) async fn wait_to_send_refusal(&self) {
        let wait = self.refusals.overdraw(1);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Expected time of a turn of this user.
    pub(crate) fn turn_estimate(&self) -> Duration {
        Duration::from_nanos(self.turn_estimate.load(Ordering::Relaxed))
    }

    /// Updates the estimate with the time of a turn.
    pub(crate) fn record_turn(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 8);
        let estimate = self.turn_estimate.load(Ordering::Relaxed);
        // Rises at once and falls slowly: a user whose turns were short is not expected to keep
        // them short.
        self.turn_estimate.store(time.max(estimate - estimate / 8), Ordering::Relaxed);
    }

    /// Waits until a request permit is free, and does not take it.
    pub(crate) async fn wait_for_request_permit(&self) {
        self.paused.fetch_add(1, Ordering::SeqCst);
        let _paused = Paused(self);
        loop {
            let mut freed = core::pin::pin!(self.request_permit_freed.notified());
            Notified::enable(freed.as_mut());
            if self.requests.load(Ordering::SeqCst) < MAX_REQUESTS {
                return;
            }
            freed.await;
        }
    }

    /// Takes a permit for the memory of a long frame. `None` if the long frames of this user, or of
    /// all users, take too many bytes already.
    pub(crate) fn frame_permit(self: &Arc<Self>, bytes: usize) -> Option<FramePermit> {
        let own = self.long_frames.fetch_add(bytes, Ordering::Relaxed);
        let all = LONG_FRAMES.fetch_add(bytes, Ordering::Relaxed);
        let permit = FramePermit { account: Arc::clone(self), bytes };
        // Each user may always have one long frame, whatever the other users have.
        (own == 0 || own + bytes <= MAX_LONG_FRAMES && all + bytes <= MAX_LONG_FRAMES_OF_ALL)
            .then_some(permit)
    }

    /// Takes a permit for an operation from the first of `grants` that has one. `None` if the
    /// limits of all of them are used up. `config` is the configuration of the grants, and each
    /// grant comes with its number there.
    pub(crate) fn operation_permit<'g>(
        self: &Arc<Self>,
        config: &Arc<Config>,
        grants: impl Iterator<Item = (usize, &'g Grant)>,
    ) -> Option<OperationPermit> {
        for (number, grant) in grants {
            let Limits { rate, in_flight } = grant.limits;
            if rate.is_none() && in_flight.is_none() {
                return Some(OperationPermit(None));
            }
            let mut usage = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
            let usage = usage.of(config, number, grant);
            let most = in_flight.map_or(usize::MAX, |most| usize::try_from(most.get()).unwrap_or(usize::MAX));
            // Before the rate: a use of the rate cannot be given back.
            let permit = OperationPermit(Some(Arc::clone(&usage.in_flight)));
            if permit.count() <= most && usage.rate.as_ref().is_none_or(Allowance::take) {
                return Some(permit);
            }
        }
        None
    }
}

/// Permit for a request, from its arrival to its answer.
pub(crate) struct RequestPermit<'a>(&'a Account);

impl Drop for RequestPermit<'_> {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
        if self.0.paused.load(Ordering::SeqCst) > 0 {
            self.0.request_permit_freed.notify_one();
        }
    }
}

/// Count of one session that waits for a request permit.
struct Paused<'a>(&'a Account);

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.paused.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Permit for the memory of a long frame.
pub(crate) struct FramePermit {
    account: Arc<Account>,
    bytes: usize,
}

impl Drop for FramePermit {
    fn drop(&mut self) {
        self.account.long_frames.fetch_sub(self.bytes, Ordering::Relaxed);
        LONG_FRAMES.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of the long frames of all users.
static LONG_FRAMES: AtomicUsize = AtomicUsize::new(0);

/// Permit for an operation in flight. Holds the counter of the grant, if the grant has limits.
pub(crate) struct OperationPermit(Option<Arc<AtomicUsize>>);

impl OperationPermit {
    /// Counts the operation. Returns the number of operations in flight, this one included.
    fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Drop for OperationPermit {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Use that a user has made of the grants of one configuration.
#[derive(Default)]
struct GrantUsage {
    config: Option<Arc<Config>>,
    by_number: HashMap<usize, UsageOfGrant>,
}

struct UsageOfGrant {
    rate: Option<Allowance>,
    in_flight: Arc<AtomicUsize>,
}

impl GrantUsage {
    /// Use of one grant. Begins anew with each configuration, where numbers mean other grants.
    fn of(&mut self, config: &Arc<Config>, number: usize, grant: &Grant) -> &UsageOfGrant {
        if !self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
            *self = Self { config: Some(Arc::clone(config)), by_number: HashMap::new() };
        }
        self.by_number.entry(number).or_insert_with(|| UsageOfGrant {
            rate: grant.limits.rate.map(|rate| Allowance::new(rate.get(), rate.get())),
            in_flight: Arc::default(),
        })
    }
}

/// Bit that makes [`Account::id_of_parts`]. The numbers of users stay below, because there are
/// never as many users at a time.
const PARTS: User = 1 << 31;

/// Maximum number of requests of a user that are not answered. A server that asks for one signature
/// for each connection stays below.
const MAX_REQUESTS: usize = 1024;

/// Requests of a user above [`MAX_REQUESTS`] that are refused, in each second. Together with
/// [`REFUSED_AT_ONCE`] at most 1,000 in any second.
const REFUSED: u32 = 900;

/// Requests of a user above [`MAX_REQUESTS`] that are refused at once.
const REFUSED_AT_ONCE: u32 = 100;

/// Maximum length of the long frames of a user that are arriving or waiting, together, in bytes (4
/// MiB).
const MAX_LONG_FRAMES: usize = 4 << 20;

/// Maximum length of the long frames of all users together, in bytes (64 MiB), except for one frame
/// of each user.
const MAX_LONG_FRAMES_OF_ALL: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use core::num::NonZeroU32;

    use super::*;
    use crate::policy::authorise::Who;

    #[test]
    fn requests_above_the_limit_are_refused_and_then_left_unread() {
        let account = Arc::new(Account::new(1));
        let mut waiting: Vec<_> = (0..MAX_REQUESTS).map(|_| account.request_permit().ok().unwrap()).collect();
        let refused =
            (0..2000).filter(|_| account.request_permit().err() == Some(TooManyRequests::Refuse)).count();
        assert!((100..200).contains(&refused), "{refused}");
        assert_eq!(account.request_permit().err(), Some(TooManyRequests::LeaveUnread));
        waiting.pop();
        assert!(account.request_permit().is_ok());
    }

    #[tokio::test]
    async fn paused_sessions_are_woken_one_by_one() {
        let account = Arc::new(Account::new(1));
        let mut waiting: Vec<_> = (0..MAX_REQUESTS).map(|_| account.request_permit().ok().unwrap()).collect();
        let woken = Arc::new(AtomicUsize::new(0));
        let sessions: Vec<_> = (0..10)
            .map(|_| {
                let (account, woken) = (Arc::clone(&account), Arc::clone(&woken));
                tokio::spawn(async move {
                    account.wait_for_request_permit().await;
                    woken.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        while account.paused.load(Ordering::Relaxed) < sessions.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        waiting.truncate(MAX_REQUESTS - sessions.len());
        for session in sessions {
            session.await.unwrap();
        }
        assert_eq!(account.paused.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_frames_are_limited_and_each_user_may_have_one() {
        let frame = 256 * 1024;
        let (one, other) = (Arc::new(Account::new(1)), Arc::new(Account::new(2)));
        let held: Vec<_> = (0..MAX_LONG_FRAMES / frame).map(|_| one.frame_permit(frame).unwrap()).collect();
        assert!(one.frame_permit(frame).is_none());
        assert!(other.frame_permit(frame).is_some());
        drop(held);
        assert!(one.frame_permit(frame).is_some());
        assert_eq!(one.long_frames.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn limits_count_per_user_and_any_grant_below_its_limits_will_do() {
        let limited = |rate, in_flight| Grant {
            limits: Limits { rate: NonZeroU32::new(rate), in_flight: NonZeroU32::new(in_flight) },
            ..Grant::everything(Who::user(7))
        };
        let config = Arc::new(Config::default());
        let (one, other) = (Arc::new(Account::new(1)), Arc::new(Account::new(2)));
        let grants = [limited(0, 2), limited(3, 0)];
        let admit =
            |account: &Arc<Account>, config| account.operation_permit(config, grants.iter().enumerate());
        let held: Vec<_> =
            (0..5).map(|_| admit(&one, &config).expect("two in flight, three of the rate")).collect();
        assert!(admit(&one, &config).is_none() && admit(&other, &config).is_some());
        drop(held);
        assert!(admit(&one, &config).is_some(), "the first grant has permits again");
        let free = [limited(0, 1), Grant::everything(Who::user(7))];
        let _first = one.operation_permit(&config, free.iter().enumerate()).unwrap();
        assert!(one.operation_permit(&config, free.iter().enumerate()).is_some(), "the second has no limits");
    }
}
