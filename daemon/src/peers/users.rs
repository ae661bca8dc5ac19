//! What the connections of one user share: how much may wait for it, and what it has used up.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::config::Config;
use crate::ground::allowance::Allowance;
use crate::ground::fair::User;
use crate::policy::authorise::{Grant, Limits};

/// One user as all its connections see it. Users whom no grant names are one user together.
pub(crate) struct Account {
    /// Names the user in every queue.
    pub(crate) id: User,
    /// Names the user where bytes wait that complete no request: not behind requests that have
    /// arrived.
    pub(crate) id_of_parts: User,
    /// Requests that have arrived and are not answered.
    waiting: AtomicUsize,
    /// Sessions that do not read until fewer requests wait.
    parked: AtomicUsize,
    room: Notify,
    /// Bytes of long frames, arriving or waiting.
    held: AtomicUsize,
    /// How long a turn of this user takes, in nanoseconds: the longest of the last ones.
    typical: AtomicU64,
    /// Requests that are taken in to be refused.
    overloads: Allowance,
    /// Answers that say so.
    told: Allowance,
    under_grants: Mutex<UnderGrants>,
}

/// Why a request is not taken in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NoRoom {
    /// It is to be refused as overloaded.
    Refuse,
    /// It is to be left unread: enough were refused of late.
    Leave,
}

impl Account {
    pub(crate) fn new(id: User) -> Self {
        Self {
            id,
            id_of_parts: id | OF_PARTS,
            waiting: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            room: Notify::new(),
            held: AtomicUsize::new(0),
            typical: AtomicU64::new(0),
            overloads: Allowance::new(REFUSED_AT_ONCE, REFUSED),
            told: Allowance::new(REFUSED_AT_ONCE, REFUSED),
            under_grants: Mutex::default(),
        }
    }

    /// Takes a request in that has arrived.
    pub(crate) fn arrive(&self) -> Result<Waiting<'_>, NoRoom> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING {
            return Ok(Waiting(self));
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Err(if self.overloads.take() { NoRoom::Refuse } else { NoRoom::Leave })
    }

    /// Waits until this user may be told once more that a request was one too many. Those that were
    /// refused may come in a bunch, where they have waited behind another answer of their
    /// connection.
    pub(crate) async fn may_be_told(&self) {
        let wait = self.told.overdraw(1);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// How long a turn of this user may be expected to take.
    pub(crate) fn typical(&self) -> Duration {
        Duration::from_nanos(self.typical.load(Ordering::Relaxed))
    }

    /// A turn took so long.
    pub(crate) fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 8);
        let typical = self.typical.load(Ordering::Relaxed);
        // Up at once and down slowly: who has been cheap for long is not expected to stay so.
        self.typical.store(time.max(typical - typical / 8), Ordering::Relaxed);
    }

    /// Waits until fewer requests wait than may.
    pub(crate) async fn room(&self) {
        self.parked.fetch_add(1, Ordering::SeqCst);
        let _parked = Parked(self);
        loop {
            let mut room = core::pin::pin!(self.room.notified());
            Notified::enable(room.as_mut());
            if self.waiting.load(Ordering::SeqCst) < MOST_WAITING {
                return;
            }
            room.await;
        }
    }

    /// Bytes for a long frame; none if the long frames of this user, or those of all users, have too many already.
    pub(crate) fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let own = self.held.fetch_add(bytes, Ordering::Relaxed);
        let all = HELD.fetch_add(bytes, Ordering::Relaxed);
        let held = Held { account: Arc::clone(self), bytes };
        // One frame is everybody's, whatever the others hold.
        (own == 0 || own + bytes <= MOST_HELD && all + bytes <= MOST_HELD_BY_ALL).then_some(held)
    }

    /// Whether one of the grants has room for one more request of this user; it is counted until the result is
    /// dropped. `config` is the one that the grants stand in.
    pub(crate) fn admit<'g>(
        self: &Arc<Self>,
        config: &Arc<Config>,
        grants: impl Iterator<Item = (usize, &'g Grant)>,
    ) -> Option<Admitted> {
        let mut found = None;
        for (number, grant) in grants {
            let Limits { rate, in_flight } = grant.limits;
            if rate.is_none() && in_flight.is_none() {
                return Some(Admitted(None));
            }
            let under_grants = &mut *lock(&self.under_grants);
            if !under_grants.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
                *under_grants = UnderGrants { config: Some(Arc::clone(config)), by_number: HashMap::new() };
            }
            let use_of = under_grants.by_number.entry(number).or_insert_with(|| UnderGrant {
                rate: rate.map(|rate| Allowance::new(rate.get(), rate.get())),
                in_flight: Arc::default(),
            });
            let most = in_flight.map_or(usize::MAX, |most| usize::try_from(most.get()).unwrap_or(usize::MAX));
            let in_flight = Arc::clone(&use_of.in_flight);
            // Taken before the rate is asked, which is not given back.
            let admitted = Admitted(Some(in_flight));
            if admitted.enter() > most {
                continue;
            }
            if use_of.rate.as_ref().is_none_or(Allowance::take) {
                found = Some(admitted);
                break;
            }
        }
        found
    }
}

/// A request that has arrived and is not answered.
pub(crate) struct Waiting<'a>(&'a Account);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.0.parked.load(Ordering::SeqCst) > 0 {
            self.0.room.notify_one();
        }
    }
}

struct Parked<'a>(&'a Account);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Bytes that a long frame takes.
pub(crate) struct Held {
    account: Arc<Account>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
        HELD.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of the long frames of all users.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// A request that counts against a grant, if the grant has limits.
pub(crate) struct Admitted(Option<Arc<AtomicUsize>>);

impl Admitted {
    /// Counts it; returns how many there are with it.
    fn enter(&self) -> usize {
        self.0.as_ref().map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What a user has used of the grants of one configuration.
#[derive(Default)]
struct UnderGrants {
    config: Option<Arc<Config>>,
    by_number: HashMap<usize, UnderGrant>,
}

struct UnderGrant {
    rate: Option<Allowance>,
    in_flight: Arc<AtomicUsize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Beyond the numbers of users: there are not as many at a time.
const OF_PARTS: User = 1 << 31;

/// Most requests of a user that wait. A server that asks for one signature a connection never has as many.
const MOST_WAITING: usize = 1024;

/// How many requests of a user are refused for being too many: so many a second, and so many at once. Together
/// they are a thousand in any second.
const REFUSED: u32 = 900;
const REFUSED_AT_ONCE: u32 = 100;

/// Most bytes that the long frames of a user take, arriving or waiting (4 MiB).
const MOST_HELD: usize = 4 << 20;

/// Most bytes that the long frames of all users take (64 MiB), but for one of each user.
const MOST_HELD_BY_ALL: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use core::num::NonZeroU32;

    use super::*;
    use crate::policy::authorise::Who;

    #[test]
    fn so_many_wait_some_are_refused_and_the_others_left_unread() {
        let account = Arc::new(Account::new(1));
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| account.arrive().ok().unwrap()).collect();
        let refused = (0..2000).filter(|_| account.arrive().err() == Some(NoRoom::Refuse)).count();
        assert!((100..200).contains(&refused), "{refused}");
        assert_eq!(account.arrive().err(), Some(NoRoom::Leave));
        waiting.pop();
        assert!(account.arrive().is_ok());
    }

    #[tokio::test]
    async fn sessions_that_do_not_read_are_woken_one_by_one() {
        let account = Arc::new(Account::new(1));
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| account.arrive().ok().unwrap()).collect();
        let woken = Arc::new(AtomicUsize::new(0));
        let sessions: Vec<_> = (0..10)
            .map(|_| {
                let (account, woken) = (Arc::clone(&account), Arc::clone(&woken));
                tokio::spawn(async move {
                    account.room().await;
                    woken.fetch_add(1, Ordering::Relaxed);
                })
            })
            .collect();
        while account.parked.load(Ordering::Relaxed) < sessions.len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(woken.load(Ordering::Relaxed), 0);
        waiting.truncate(MOST_WAITING - sessions.len());
        for session in sessions {
            session.await.unwrap();
        }
        assert_eq!(account.parked.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn long_frames_take_what_there_is_for_the_user_and_everybody_has_one() {
        let frame = 256 * 1024;
        let (one, other) = (Arc::new(Account::new(1)), Arc::new(Account::new(2)));
        let held: Vec<_> = (0..MOST_HELD / frame).map(|_| one.hold(frame).unwrap()).collect();
        assert!(one.hold(frame).is_none());
        assert!(other.hold(frame).is_some());
        drop(held);
        assert!(one.hold(frame).is_some());
        assert_eq!(one.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn limits_are_those_of_a_user_and_any_grant_with_room_will_do() {
        let limited = |rate, in_flight| Grant {
            limits: Limits { rate: NonZeroU32::new(rate), in_flight: NonZeroU32::new(in_flight) },
            ..Grant::everything(Who::user(7))
        };
        let config = Arc::new(Config::default());
        let (one, other) = (Arc::new(Account::new(1)), Arc::new(Account::new(2)));
        let grants = [limited(0, 2), limited(3, 0)];
        let admit = |account: &Arc<Account>, config| account.admit(config, grants.iter().enumerate());
        let held: Vec<_> =
            (0..5).map(|_| admit(&one, &config).expect("two in flight, three of the rate")).collect();
        assert!(admit(&one, &config).is_none() && admit(&other, &config).is_some());
        drop(held);
        assert!(admit(&one, &config).is_some(), "the first grant has room again");
        let free = [limited(0, 1), Grant::everything(Who::user(7))];
        let _first = one.admit(&config, free.iter().enumerate()).unwrap();
        assert!(one.admit(&config, free.iter().enumerate()).is_some(), "the second has no limits");
    }
}
