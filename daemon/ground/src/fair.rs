//! Fair shares between users, measured by cost: a user with expensive requests gets fewer of them.
//!
//! [`Queue`] is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996). Each user has a
//! virtual clock, which advances by the cost of each request. The user with the lowest clock is
//! next. After a pause, a user starts at the clock of the user that was served last, so a pause
//! earns no credit. Work without competition creates no debt: a user who worked alone for an hour
//! starts level with a user who arrives then.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Number of a user. The owner of the queue assigns the numbers.
pub type User = u32;

/// Number for requests of administrators and of the daemon itself.
pub const NOBODY: User = 0;

/// Waiting requests by user.
pub struct Queue<T> {
    users: HashMap<User, UserQueue<T>>,
    /// Clock of the user that was served last.
    now: Duration,
    waiting: usize,
}

struct UserQueue<T> {
    /// Sum of the charged costs. At least `Queue::now` for a user without waiting requests.
    clock: Duration,
    /// Cost of the waiting requests.
    cost: Duration,
    requests: VecDeque<(Duration, T)>,
}

impl<T> Queue<T> {
    /// Empty queue.
    pub fn new() -> Self {
        Self { users: HashMap::new(), now: Duration::ZERO, waiting: 0 }
    }

    /// Number of waiting requests of all users.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Cost of the waiting requests of a user.
    pub fn cost_of(&self, user: User) -> Duration {
        self.users.get(&user).map_or(Duration::ZERO, |queue| queue.cost)
    }

    /// Appends a request to the requests of its user. `cost` is an estimate.
    pub fn push(&mut self, user: User, cost: Duration, request: T) {
        let queue = self.user_queue(user);
        queue.cost += cost;
        queue.requests.push_back((cost, request));
        self.waiting += 1;
    }

    /// Removes the next request, and charges its user the estimate.
    pub fn pop(&mut self) -> Option<(User, Duration, T)> {
        let busy = self.users.iter().filter(|(_, queue)| !queue.requests.is_empty());
        // Of users with the same clock, the user with the lowest waiting cost.
        let user = *busy.min_by_key(|(_, queue)| (queue.clock, queue.cost))?.0;
        let queue = self.users.get_mut(&user)?;
        let (cost, request) = queue.requests.pop_front()?;
        self.waiting -= 1;
        self.now = self.now.max(queue.clock);
        queue.clock += cost;
        queue.cost = queue.cost.saturating_sub(cost);
        Some((user, cost, request))
    }

    /// Makes room for a request of `user`: removes the newest request of the user with the most
    /// waiting requests. Returns `None` if `user` would then have the most.
    pub fn evict_for(&mut self, user: User) -> Option<T> {
        let own = self.users.get(&user).map_or(0, |queue| queue.requests.len());
        self.evict_above(own + 1)
    }

    /// Removes the newest request of the user with the most waiting requests.
    pub fn evict(&mut self) -> Option<T> {
        self.evict_above(0)
    }

    /// Removes the newest request of the user with the most, if these are more than `number`.
    fn evict_above(&mut self, number: usize) -> Option<T> {
        let longest = self.users.values_mut().max_by_key(|queue| queue.requests.len())?;
        let (cost, request) = (longest.requests.len() > number).then(|| longest.requests.pop_back())??;
        longest.cost = longest.cost.saturating_sub(cost);
        self.waiting -= 1;
        Some(request)
    }

    /// Replaces a charged estimate by the real cost of a request.
    pub fn charge(&mut self, user: User, estimate: Duration, cost: Duration) {
        let queue = self.user_queue(user);
        let begin = queue.clock.saturating_sub(estimate);
        queue.clock = begin + cost;
        if self.waiting == 0 {
            self.now = self.now.max(begin);
        }
        if self.users.len() > MAX_USERS {
            // A user without waiting requests and without debt would start at `now` anyway.
            let now = self.now;
            self.users.retain(|_, queue| !queue.requests.is_empty() || queue.clock > now);
        }
    }

    fn user_queue(&mut self, user: User) -> &mut UserQueue<T> {
        let new = || UserQueue { clock: self.now, cost: Duration::ZERO, requests: VecDeque::new() };
        let queue = self.users.entry(user).or_insert_with(new);
        if queue.requests.is_empty() {
            queue.clock = queue.clock.max(self.now);
        }
        queue
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Limit on concurrent requests. Users wait for a permit, in fair shares.
pub struct Gate(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Maximum number of waiting requests.
    max_waiting: usize,
}

struct State {
    free: usize,
    queue: Queue<oneshot::Sender<GatePermit>>,
}

/// Error: the queue is full, and the user of the request has the most waiting requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

impl Gate {
    /// Gate with `permits` permits and at most `max_waiting` waiting requests.
    pub fn new(permits: usize, max_waiting: usize) -> Self {
        let state = State { free: permits, queue: Queue::new() };
        Self(Arc::new(Shared { state: Mutex::new(state), max_waiting }))
    }

    /// Waits for a permit. `cost` is an estimate of the time for which the permit will be held.
    ///
    /// Cancellation safe: a dropped future loses no permit.
    ///
    /// # Errors
    /// [`Full`]: at once, or later, when a user with fewer requests needs the room.
    pub async fn enter(&self, user: User, cost: Duration) -> Result<GatePermit, Full> {
        let permit = {
            let mut state = self.0.lock();
            if state.free > 0 && state.queue.waiting() == 0 {
                state.free -= 1;
                state.queue.charge(user, Duration::ZERO, cost);
                return Ok(GatePermit { gate: Arc::clone(&self.0), user, cost });
            }
            if state.queue.waiting() >= self.0.max_waiting && state.queue.evict_for(user).is_none() {
                return Err(Full);
            }
            let (sender, permit) = oneshot::channel();
            state.queue.push(user, cost, sender);
            permit
        };
        permit.await.map_err(|_| Full)
    }
}

impl Shared {
    /// Locks the state. The lock is held for a few steps, never across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a permit to the next request that still waits.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let (user, cost, sender) = {
                let mut state = self.lock();
                match state.queue.pop() {
                    Some(next) => next,
                    None => {
                        state.free += 1;
                        return;
                    }
                }
            };
            if sender.is_closed() {
                self.lock().queue.charge(user, cost, Duration::ZERO);
                continue;
            }
            // If the receiver is dropped meanwhile, the permit is dropped here and passed on again.
            drop(sender.send(GatePermit { gate: Arc::clone(self), user, cost }));
            return;
        }
    }
}

/// Permit of a [`Gate`]. When the permit is dropped, the next request gets the permit.
pub struct GatePermit {
    gate: Arc<Shared>,
    user: User,
    cost: Duration,
}

impl GatePermit {
    /// Charges the user the real cost in place of the estimate.
    pub fn charge(&mut self, cost: Duration) {
        self.gate.lock().queue.charge(self.user, self.cost, cost);
        self.cost = cost;
    }
}

impl Drop for GatePermit {
    fn drop(&mut self) {
        self.gate.pass_on();
    }
}

/// Maximum number of requests of all users that wait at a [`Gate`] of the daemon.
pub const MOST_WAITING: usize = 16 * 1024;

/// Number of users above which users without debt are removed.
const MAX_USERS: usize = 256;

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
        // Four milliseconds of one user for each four of the other.
        assert_eq!(order[..9].iter().filter(|one| **one == "big").count(), 2, "{order:?}");
    }

    #[test]
    fn a_pause_earns_no_credit_and_a_debt_is_kept() {
        let mut queue = Queue::new();
        for _ in 0..100 {
            queue.push(1, MS, "one");
            queue.pop();
        }
        // User 2 arrives late, and gets no credit for the hundred milliseconds.
        for _ in 0..10 {
            queue.push(1, MS, "one");
            queue.push(2, MS, "two");
        }
        let twos = order(&mut queue)[..10].iter().filter(|one| **one == "two").count();
        assert!((5..=6).contains(&twos), "{twos}");
        // A request that cost more than its estimate is paid for while requests wait.
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
    fn work_without_competition_creates_no_debt() {
        let mut queue = Queue::new();
        for _ in 0..1000 {
            // Both without waiting, and through the queue.
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
    fn users_without_debt_are_removed() {
        let mut queue = Queue::new();
        for user in 0..10_000 {
            queue.push(user, MS, "one");
            queue.pop();
            queue.charge(user, MS, Duration::ZERO);
        }
        assert!(queue.users.len() <= MAX_USERS + 1, "{}", queue.users.len());
    }

    #[tokio::test]
    async fn a_permit_goes_to_the_user_with_the_lowest_clock() {
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
        let permit = futures_poll(other.as_mut()).await.expect("a permit").unwrap();
        // Cancelled requests are skipped.
        flood.truncate(1);
        drop(permit);
        assert!(futures_poll(flood[0].as_mut()).await.is_some());
        drop(flood);
        gate.enter(1, MS).await.unwrap();
    }

    #[tokio::test]
    async fn the_user_with_the_most_waiting_requests_makes_room() {
        let gate = Gate::new(1, 4);
        let held = gate.enter(1, MS).await.unwrap();
        let mut flood: Vec<_> = (0..4).map(|_| Box::pin(gate.enter(1, MS))).collect();
        for waits in &mut flood {
            assert!(futures_poll(waits.as_mut()).await.is_none());
        }
        assert_eq!(gate.enter(1, MS).await.err(), Some(Full));
        let mut other = Box::pin(gate.enter(2, MS));
        assert!(futures_poll(other.as_mut()).await.is_none());
        assert_eq!(futures_poll(flood[3].as_mut()).await.map(|permit| permit.err()), Some(Some(Full)));
        assert!(futures_poll(flood[2].as_mut()).await.is_none());
        drop(held);
        assert!(futures_poll(other.as_mut()).await.is_some());
    }

    /// Polls a future once.
    async fn futures_poll<F: Future>(mut future: core::pin::Pin<&mut F>) -> Option<F::Output> {
        core::future::poll_fn(|context| match future.as_mut().poll(context) {
            core::task::Poll::Ready(done) => core::task::Poll::Ready(Some(done)),
            core::task::Poll::Pending => core::task::Poll::Ready(None),
        })
        .await
    }
}
