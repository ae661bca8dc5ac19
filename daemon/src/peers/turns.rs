//! Turns of users on the thread of a reactor.
//!
//! A request that takes some 10 microseconds is answered on the thread where it arrived, because a
//! hop to another thread would cost more. But nothing on such a thread can be interrupted, and
//! tokio runs its tasks one after the other: a user with many connections would have the thread to
//! itself.
//!
//! So time on the thread is divided into rounds of [`ROUND`]. A user may work at once until the
//! time of the round is used up, and once in each round in any case. All other work waits for the
//! end of the round, which comes when every task that was ready has run. Then
//! [`crate::ground::fair`] chooses whose turn is next, for at most the time of one round.

use core::future::poll_fn;
use core::pin::pin;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use crate::ground::fair::{Queue, User};
use crate::peers::users::Account;

/// Turns on one reactor.
pub(crate) struct Turns {
    round: Mutex<Round>,
    /// Notified when the time of the round is used up, or a user waits.
    round_over: Notify,
}

struct Round {
    /// Time that each user has worked in this round without waiting for a turn.
    worked: Vec<(User, Duration)>,
    /// Time that all users have worked in this round.
    total: Duration,
    waiting: Queue<oneshot::Sender<()>>,
}

/// Turn of a user.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Turn {
    /// The user did not wait for the turn.
    AtOnce,
    /// The user has waited for the turn, and was charged this estimate for it.
    Waited(Duration),
}

impl Turns {
    pub(crate) fn new() -> Self {
        let round = Round { worked: Vec::new(), total: Duration::ZERO, waiting: Queue::new() };
        Self { round: Mutex::new(round), round_over: Notify::new() }
    }

    /// Runs `work` in turns of a user, and charges the user for the time of each step. `now` is the
    /// current time. Returns the result with the time at which `work` was done.
    pub(crate) async fn run_in_turn<T>(
        &self,
        account: &Account,
        now: Instant,
        work: impl Future<Output = T>,
    ) -> (T, Instant) {
        let (mut turn, mut begin) = match self.try_turn(account.id) {
            Some(turn) => (turn, Some(now)),
            None => (self.wait(account.id, account.turn_estimate()).await, None),
        };
        let mut work = pin!(work);
        poll_fn(|context| {
            let begin = begin.take().unwrap_or_else(Instant::now);
            let polled = work.as_mut().poll(context);
            let end = Instant::now();
            let time = end.saturating_duration_since(begin);
            self.charge(account.id, turn, time);
            account.record_turn(time);
            // Later steps only take a result that was made elsewhere. They are short, so they wait
            // for no turn.
            turn = Turn::AtOnce;
            polled.map(|result| (result, end))
        })
        .await
    }

    /// Turn for a user that needs not wait. `None` if the user must [`wait`](Self::wait). The
    /// caller reports the time of the turn to [`charge`](Self::charge).
    pub(crate) fn try_turn(&self, user: User) -> Option<Turn> {
        let round = self.round();
        let has_worked = || round.worked.iter().any(|(one, _)| *one == user);
        let has_time = round.total < ROUND || !has_worked();
        (has_time && (round.waiting.waiting() == 0 || round.waiting.cost_of(user).is_zero()))
            .then_some(Turn::AtOnce)
    }

    /// Waits for a turn that is expected to take the time `estimate`. No turn is lost if the future
    /// is dropped.
    pub(crate) async fn wait(&self, user: User, estimate: Duration) -> Turn {
        let (turn, waits) = oneshot::channel();
        let estimate = estimate.max(MIN_ESTIMATE);
        self.round().waiting.push(user, estimate, turn);
        self.round_over.notify_one();
        // An error means that `run` has ended. It ends only with the reactor, as this task does.
        let _ = waits.await;
        Turn::Waited(estimate)
    }

    /// Charges a user for the time of a turn.
    pub(crate) fn charge(&self, user: User, turn: Turn, time: Duration) {
        let mut round = self.round();
        round.total += time;
        match turn {
            Turn::Waited(estimate) => round.waiting.charge(user, estimate, time),
            Turn::AtOnce => match round.worked.iter_mut().find(|(one, _)| *one == user) {
                Some((_, worked)) => *worked += time,
                None => round.worked.push((user, time)),
            },
        }
        if round.total >= ROUND {
            drop(round);
            self.round_over.notify_one();
        }
    }

    /// Ends rounds and gives turns, as long as the reactor runs.
    pub(crate) async fn run(&self) {
        loop {
            self.round_over.notified().await;
            while self.next_round() {
                // Continues after every task that is ready now, or has bytes to read.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Ends the round, and gives turns to a few users who wait. Returns `true` if there were any.
    /// Only a few, because the times are estimates: users who have just come get their turn next.
    fn next_round(&self) -> bool {
        let mut round = self.round();
        let Round { worked, total, waiting } = &mut *round;
        for (user, time) in worked.drain(..) {
            waiting.charge(user, Duration::ZERO, time);
        }
        *total = Duration::ZERO;
        let (mut number, mut given) = (0, Duration::ZERO);
        while number < MAX_TURNS && given < ROUND {
            let Some((user, cost, turn)) = waiting.pop() else { break };
            match turn.send(()) {
                Ok(()) => (number, given) = (number + 1, given + cost),
                // The session has ended meanwhile.
                Err(()) => waiting.charge(user, cost, Duration::ZERO),
            }
        }
        number > 0
    }

    /// Locks the round. No caller waits while it holds the lock, and all callers are on the thread
    /// of the reactor.
    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of turns that are given before other tasks run.
const MAX_TURNS: usize = 4;

/// Time that users may work before the round ends.
const ROUND: Duration = Duration::from_millis(1);

/// Smallest estimate of a turn: the time to read a request, refuse it and answer.
const MIN_ESTIMATE: Duration = Duration::from_micros(10);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ESTIMATE: Duration = Duration::from_micros(40);

    #[tokio::test]
    async fn a_user_who_has_worked_waits_and_another_does_not() {
        let turns = Arc::new(Turns::new());
        assert!(turns.try_turn(1).is_some());
        turns.charge(1, Turn::AtOnce, ROUND / 2);
        assert!(turns.try_turn(1).is_some(), "half a round is left");
        turns.charge(1, Turn::AtOnce, ROUND / 2);
        assert!(turns.try_turn(1).is_none() && turns.try_turn(2).is_some());
        turns.charge(2, Turn::AtOnce, ROUND);
        assert!(turns.try_turn(2).is_none() && turns.try_turn(3).is_some(), "once in each round in any case");
        let running = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.run().await }
        });
        while turns.try_turn(1).is_none() {
            tokio::task::yield_now().await;
        }
        running.abort();
    }

    #[tokio::test]
    async fn users_who_wait_take_turns() {
        let turns = Arc::new(Turns::new());
        turns.charge(1, Turn::AtOnce, ROUND);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for user in [1; 100].into_iter().chain([2; 10]) {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let turn = turns.wait(user, ESTIMATE).await;
                order.lock().unwrap().push(user);
                turns.charge(user, turn, ESTIMATE);
            }));
        }
        tokio::task::yield_now().await;
        let running = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.run().await }
        });
        for task in tasks {
            task.await.unwrap();
        }
        running.abort();
        let order = order.lock().unwrap();
        let last = order.iter().rposition(|user| *user == 2).unwrap();
        assert!(last < 25, "{last} in {order:?}");
    }

    #[tokio::test]
    async fn sessions_that_have_ended_take_no_turn() {
        let turns = Turns::new();
        for _ in 0..100 {
            let mut waits = Box::pin(turns.wait(1, ESTIMATE));
            tokio::select! {
                biased;
                _ = &mut waits => panic!("nobody gives turns"),
                () = core::future::ready(()) => {}
            }
        }
        assert!(!turns.next_round());
        assert_eq!(turns.round().waiting.waiting(), 0);
    }
}
