//! Turns between users who want more than there is: by cost, so that a user who asks for expensive things gets
//! fewer of them.
//!
//! [`Queue`] is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each user has a
//! clock that advances by the cost of its requests, and the user whose clock is behind all others
//! is next. A user who comes back after a pause starts at the clock of the user that was served
//! last, so a pause saves nothing up. Nor is anything owed that was used while nobody waited: a
//! server that has worked alone for an hour starts level with a user who comes then.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Names a user. The owner of the queue gives out the numbers.
pub type User = u32;

/// The user that administrators are, and the daemon itself.
pub const NOBODY: User = 0;

/// Requests that wait, by user.
pub struct Queue<T> {
    users: HashMap<User, Line<T>>,
    /// The clock of the user that was served last.
    now: Duration,
    waiting: usize,
}

struct Line<T> {
    /// The sum of what the user was charged; while nothing of the user waits, at least `Queue::now`.
    clock: Duration,
    /// The cost of all that waits.
    cost: Duration,
    requests: VecDeque<(Duration, T)>,
}

impl<T> Queue<T> {
    /// A queue in which nobody waits.
    pub fn new() -> Self {
        Self { users: HashMap::new(), now: Duration::ZERO, waiting: 0 }
    }

    /// How many requests wait, of all users.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The cost of all that waits for a user.
    pub fn cost_of(&self, user: User) -> Duration {
        self.users.get(&user).map_or(Duration::ZERO, |line| line.cost)
    }

    /// Appends a request to those of its user. `cost` is an estimate.
    pub fn push(&mut self, user: User, cost: Duration, request: T) {
        let line = self.line(user);
        line.cost += cost;
        line.requests.push_back((cost, request));
        self.waiting += 1;
    }

    /// Takes the next request out, and charges its user the estimate.
    pub fn pop(&mut self) -> Option<(User, Duration, T)> {
        let busy = self.users.iter().filter(|(_, line)| !line.requests.is_empty());
        // Among equals the one who asks for less.
        let user = *busy.min_by_key(|(_, line)| (line.clock, line.cost))?.0;
        let line = self.users.get_mut(&user)?;
        let (cost, request) = line.requests.pop_front()?;
        self.waiting -= 1;
        self.now = self.now.max(line.clock);
        line.clock += cost;
        line.cost = line.cost.saturating_sub(cost);
        Some((user, cost, request))
    }

    /// Takes out the newest request of the user who has the most waiting, if those are more than `user` would
    /// have with one more.
    pub fn give_up_for(&mut self, user: User) -> Option<T> {
        let own = self.users.get(&user).map_or(0, |line| line.requests.len());
        let longest = self.users.values_mut().max_by_key(|line| line.requests.len())?;
        let (cost, request) = (longest.requests.len() > own + 1).then(|| longest.requests.pop_back())??;
        longest.cost = longest.cost.saturating_sub(cost);
        self.waiting -= 1;
        Some(request)
    }

    /// Corrects the clock of a user, once a request that was charged `estimate` is known to have cost `cost`.
    pub fn charge(&mut self, user: User, estimate: Duration, cost: Duration) {
        let line = self.line(user);
        let begin = line.clock.saturating_sub(estimate);
        line.clock = begin + cost;
        if self.waiting == 0 {
            self.now = self.now.max(begin);
        }
        if self.users.len() > KEPT {
            // Users that have nothing waiting and owe nothing begin anew when they come back.
            let now = self.now;
            self.users.retain(|_, line| !line.requests.is_empty() || line.clock > now);
        }
    }

    fn line(&mut self, user: User) -> &mut Line<T> {
        let new = || Line { clock: self.now, cost: Duration::ZERO, requests: VecDeque::new() };
        let line = self.users.entry(user).or_insert_with(new);
        if line.requests.is_empty() {
            line.clock = line.clock.max(self.now);
        }
        line
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A number of places, for which users wait in turn.
pub struct Gate(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Most requests that wait.
    most: usize,
}

struct State {
    free: usize,
    queue: Queue<oneshot::Sender<Place>>,
}

/// More requests wait than there is room for, and this one is of a user with the most of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

impl Gate {
    /// A gate with so many places, for which at most so many requests wait.
    pub fn new(places: usize, most: usize) -> Self {
        let state = State { free: places, queue: Queue::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), most }))
    }

    /// Waits for a place. `cost` is an estimate of how long the place will be held.
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Full`]: at once, or later, when a user with fewer requests has come.
    pub async fn enter(&self, user: User, cost: Duration) -> Result<Place, Full> {
        let waits = {
            let mut state = self.0.lock();
            if state.free > 0 && state.queue.waiting() == 0 {
                state.free -= 1;
                state.queue.charge(user, Duration::ZERO, cost);
                return Ok(Place { gate: Arc::clone(&self.0), user, cost });
            }
            if state.queue.waiting() >= self.0.most && state.queue.give_up_for(user).is_none() {
                return Err(Full);
            }
            let (place, waits) = oneshot::channel();
            state.queue.push(user, cost, place);
            waits
        };
        waits.await.map_err(|_| Full)
    }
}

impl Shared {
    /// Holds the lock for a few steps, never while somebody waits.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a place to the next who still waits for one.
    fn give_away(self: &Arc<Self>) {
        loop {
            let (user, cost, waits) = {
                let mut state = self.lock();
                match state.queue.pop() {
                    Some(next) => next,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            if waits.is_closed() {
                self.lock().queue.charge(user, cost, Duration::ZERO);
                continue;
            }
            // One who leaves at this very moment gives the place away in turn, by dropping it.
            drop(waits.send(Place { gate: Arc::clone(self), user, cost }));
            return;
        }
    }
}

/// A place, which the next one gets when this is dropped.
pub struct Place {
    gate: Arc<Shared>,
    user: User,
    cost: Duration,
}

impl Place {
    /// Charges the user the real cost instead of the estimate.
    pub fn charge(&mut self, cost: Duration) {
        self.gate.lock().queue.charge(self.user, self.cost, cost);
        self.cost = cost;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.give_away();
    }
}

/// Requests of all users that may wait at a [`Gate`].
pub const MOST_WAITING: usize = 16 * 1024;

/// Users beyond so many are looked through for those that can be forgotten.
const KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn order(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        core::iter::from_fn(|| queue.pop().map(|(_, _, request)| request)).collect()
    }

    #[test]
    fn users_take_turns_by_cost() {
        let mut queue = Queue::new();
        for _ in 0..3 {
            queue.push(1, 4 * MS, "big");
        }
        for _ in 0..9 {
            queue.push(2, MS, "small");
        }
        let order = order(&mut queue);
        let before = |n| order.iter().take_while(|one| **one != "big" || { n } == 0).count();
        assert_eq!(order.len(), 12);
        assert!(before(1) <= 1, "{order:?}");
        // Four milliseconds of the one go with four of the other.
        assert_eq!(order[..9].iter().filter(|one| **one == "big").count(), 2, "{order:?}");
    }

    #[test]
    fn a_pause_saves_nothing_up_and_a_debt_is_kept() {
        let mut queue = Queue::new();
        for _ in 0..100 {
            queue.push(1, MS, "one");
            queue.pop();
        }
        // User 2 comes late, and is not owed the hundred milliseconds.
        for _ in 0..10 {
            queue.push(1, MS, "one");
            queue.push(2, MS, "two");
        }
        let twos = order(&mut queue)[..10].iter().filter(|one| **one == "two").count();
        assert!((5..=6).contains(&twos), "{twos}");
        // What was cheap by the estimate, and was not, is paid as long as somebody waits.
        for _ in 0..11 {
            queue.push(1, MS, "one");
            queue.push(2, MS, "two");
        }
        let (user, ..) = queue.pop().unwrap();
        queue.charge(user, MS, 50 * MS);
        let other = if user == 1 { "two" } else { "one" };
        assert_eq!(order(&mut queue)[..10], [other; 10]);
    }

    #[test]
    fn nothing_is_owed_for_work_while_nobody_waited() {
        let mut queue = Queue::new();
        for _ in 0..1000 {
            // At once, and in turns of its own.
            queue.charge(1, Duration::ZERO, 60_000 * MS);
            queue.push(1, MS, "one");
            queue.pop();
        }
        for _ in 0..10 {
            queue.push(2, MS, "two");
            queue.push(1, MS, "one");
        }
        let ones = order(&mut queue)[..10].iter().filter(|one| **one == "one").count();
        assert!((4..=6).contains(&ones), "{ones}");
    }

    #[test]
    fn users_who_owe_nothing_are_forgotten() {
        let mut queue = Queue::new();
        for user in 0..10_000 {
            queue.push(user, MS, "one");
            queue.pop();
            queue.charge(user, MS, Duration::ZERO);
        }
        assert!(queue.users.len() <= KEPT + 1, "{}", queue.users.len());
    }

    #[tokio::test]
    async fn a_place_goes_to_the_user_whose_turn_it_is() {
        let gate = Gate::new(1, 100);
        let first = gate.enter(1, MS).await.unwrap();
        let mut flood: Vec<_> = (0..10).map(|_| Box::pin(gate.enter(1, MS))).collect();
        for waits in &mut flood {
            assert!(futures_poll(waits.as_mut()).await.is_none());
        }
        let mut other = Box::pin(gate.enter(2, MS));
        assert!(futures_poll(other.as_mut()).await.is_none());
        assert_eq!(gate.0.lock().queue.cost_of(1), 10 * MS);
        drop(first);
        let place = futures_poll(other.as_mut()).await.expect("its turn").unwrap();
        // Those who have left are passed over.
        flood.truncate(1);
        drop(place);
        assert!(futures_poll(flood[0].as_mut()).await.is_some());
        drop(flood);
        gate.enter(1, MS).await.unwrap();
    }

    #[tokio::test]
    async fn who_has_the_most_waiting_makes_room() {
        let gate = Gate::new(1, 4);
        let held = gate.enter(1, MS).await.unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| Box::pin(gate.enter(1, MS))).collect();
        for waits in &mut flood {
            assert!(futures_poll(waits.as_mut()).await.is_none());
        }
        assert_eq!(gate.enter(1, MS).await.err(), Some(Full));
        let mut other = Box::pin(gate.enter(2, MS));
        assert!(futures_poll(other.as_mut()).await.is_none());
        assert_eq!(futures_poll(flood[3].as_mut()).await.map(|place| place.err()), Some(Some(Full)));
        assert!(futures_poll(flood[2].as_mut()).await.is_none());
        drop(held);
        assert!(futures_poll(other.as_mut()).await.is_some());
    }

    /// What a future gives when it is asked once.
    async fn futures_poll<F: Future>(mut future: core::pin::Pin<&mut F>) -> Option<F::Output> {
        core::future::poll_fn(|context| match future.as_mut().poll(context) {
            core::task::Poll::Ready(done) => core::task::Poll::Ready(Some(done)),
            core::task::Poll::Pending => core::task::Poll::Ready(None),
        })
        .await
    }
}
