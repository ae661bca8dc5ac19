//! Whose turn it is on the thread of a reactor.
//!
//! A request that takes some ten microseconds is answered where it arrived: a hop to another thread would cost
//! more. Nothing on such a thread can be interrupted, and tokio takes its tasks one after the other, so a user
//! with many connections would have the thread to itself. Hence rounds: users may work at once until a
//! round has had its time, and in any case once in each round. All else waits until the round is over, which is
//! when every task that was ready has run. Then turns are given by [`crate::ground::fair`], for as long as a round.

use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::ground::fair::{Queue, User};

/// The turns on one reactor.
pub(crate) struct Turns {
    round: Mutex<Round>,
    /// The round has had its time, or somebody waits.
    over: Notify,
}

struct Round {
    /// How long users have worked in this round without waiting, each user once.
    taken: Vec<(User, Duration)>,
    /// How long all of them have worked.
    total: Duration,
    waiting: Queue<oneshot::Sender<()>>,
}

/// A turn, which was taken at once or waited for.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Turn {
    AtOnce,
    /// It was charged this estimate already.
    Waited(Duration),
}

impl Turns {
    pub(crate) fn new() -> Self {
        let round = Round { taken: Vec::new(), total: Duration::ZERO, waiting: Queue::new() };
        Self { round: Mutex::new(round), over: Notify::new() }
    }

    /// A turn for a user, if there is one without waiting. [`Self::charge`] is told how long it took.
    pub(crate) fn now(&self, user: User) -> Option<Turn> {
        let round = self.round();
        let has_worked = || round.taken.iter().any(|(one, _)| *one == user);
        let free = round.total < ROUND || !has_worked();
        (free && (round.waiting.waiting() == 0 || round.waiting.cost_of(user).is_zero()))
            .then_some(Turn::AtOnce)
    }

    /// Waits for a turn, which is expected to take as long as `estimate`. Nothing is lost if the future is
    /// dropped.
    pub(crate) async fn wait(&self, user: User, estimate: Duration) -> Turn {
        let (turn, waits) = oneshot::channel();
        let estimate = estimate.max(SHORTEST);
        self.round().waiting.push(user, estimate, turn);
        self.over.notify_one();
        // `run` ends with the reactor alone, and this task with it.
        let _ = waits.await;
        Turn::Waited(estimate)
    }

    /// Charges a user for a turn.
    pub(crate) fn charge(&self, user: User, turn: Turn, time: Duration) {
        let mut round = self.round();
        round.total += time;
        match turn {
            Turn::Waited(estimate) => round.waiting.charge(user, estimate, time),
            Turn::AtOnce => match round.taken.iter_mut().find(|(one, _)| *one == user) {
                Some((_, taken)) => *taken += time,
                None => round.taken.push((user, time)),
            },
        }
        if round.total >= ROUND {
            drop(round);
            self.over.notify_one();
        }
    }

    /// Ends rounds and gives turns, for as long as the reactor runs.
    pub(crate) async fn run(&self) {
        loop {
            self.over.notified().await;
            while self.give() {
                // Behind every task that is ready now, and those that have bytes to read.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Ends the round, and gives turns to a few who wait; whether there were any. Few, since nobody
    /// knows how long they take: those who have just come have their turn at once after that.
    fn give(&self) -> bool {
        let mut round = self.round();
        let Round { taken, total, waiting } = &mut *round;
        for (user, time) in taken.drain(..) {
            waiting.charge(user, Duration::ZERO, time);
        }
        *total = Duration::ZERO;
        let (mut number, mut given) = (0, Duration::ZERO);
        while number < FEW && given < ROUND {
            let Some((user, cost, turn)) = waiting.pop() else { break };
            match turn.send(()) {
                Ok(()) => (number, given) = (number + 1, given + cost),
                // The peer has left.
                Err(()) => waiting.charge(user, cost, Duration::ZERO),
            }
        }
        number > 0
    }

    /// Held for a few steps; only the thread of the reactor ever asks for it.
    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most turns that are given before it is looked who has come.
const FEW: usize = 4;

/// How long users may work before the others are looked at.
const ROUND: Duration = Duration::from_millis(1);

/// The least that a turn is expected to take: reading a request, refusing it, and answering.
const SHORTEST: Duration = Duration::from_micros(10);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ESTIMATE: Duration = Duration::from_micros(40);

    #[tokio::test]
    async fn a_user_who_has_worked_waits_and_another_does_not() {
        let turns = Arc::new(Turns::new());
        assert!(turns.now(1).is_some());
        turns.charge(1, Turn::AtOnce, ROUND / 2);
        assert!(turns.now(1).is_some(), "half a round is left");
        turns.charge(1, Turn::AtOnce, ROUND / 2);
        assert!(turns.now(1).is_none() && turns.now(2).is_some());
        turns.charge(2, Turn::AtOnce, ROUND);
        assert!(turns.now(2).is_none() && turns.now(3).is_some(), "once in each round in any case");
        let running = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.run().await }
        });
        while turns.now(1).is_none() {
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
    async fn those_who_left_take_no_turn() {
        let turns = Turns::new();
        for _ in 0..100 {
            let mut waits = Box::pin(turns.wait(1, ESTIMATE));
            tokio::select! {
                biased;
                _ = &mut waits => panic!("nobody gives turns"),
                () = core::future::ready(()) => {}
            }
        }
        assert!(!turns.give());
        assert_eq!(turns.round().waiting.waiting(), 0);
    }
}
