//! Order of the calls of clients. Clients have fair shares by cost, so a client with many or
//! expensive calls slows down only itself.
//!
//! Long calls, such as RSA signatures, run on worker threads, not on the threads that serve
//! connections. Short calls run on the thread of their connection. Short calls take turns only
//! while several clients call, or one client has many calls under way, after which the first call
//! of another client would have to wait. A call that takes turns goes to the end of the queue of
//! its thread, and only a few such calls run at a time.

use core::future::poll_fn;
use core::mem;
use core::pin::pin;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::thread;
use std::time::Instant;

use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep_until;

use super::clients::Client;
use keyward_ground::fair::{Full, Gate, GatePermit, MOST_WAITING, User};
use keyward_ground::long_work::LongWork;

/// Order of the calls of all clients.
pub(crate) struct Turns {
    long: LongWork,
    short: Gate,
    recent_clients: RecentClients,
}

impl Turns {
    /// Empty queues, with the worker threads.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn new() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let short = Gate::new(2 * processors, MOST_WAITING);
        Ok(Self { long: LongWork::start()?, short, recent_clients: RecentClients::new() })
    }

    /// Waits for the turn of a long call, runs the call on a worker thread, and charges its cost to
    /// the client. `None` if the work panicked.
    ///
    /// The turn lasts until the work ends, even if this future is dropped before.
    ///
    /// # Errors
    /// `CKR_HOST_MEMORY` if too many calls of the client wait.
    pub(crate) async fn long<T: Send + 'static>(
        &self,
        client: &Client,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let turn = enter(client, self.long.enter(client.number, LONG_COST)).await?;
        Ok(turn.work(move |permit| charged(permit, work)).await)
    }

    /// Waits for the turn of a short call, while clients take turns.
    ///
    /// # Errors
    /// See [`Self::long`].
    pub(crate) async fn short(&self, client: &Client) -> Result<Turn, Error> {
        let has_few = client.calls.load(Ordering::Relaxed) <= MAX_WITHOUT_TURN;
        if !self.recent_clients.are_several(client.number) && has_few {
            return Ok(Turn(None));
        }
        let permit = enter(client, self.short.enter(client.number, SHORT_COST)).await?;
        tokio::task::yield_now().await;
        Ok(Turn(Some(permit)))
    }
}

/// Order of the TLS handshakes of networks. One handshake computes at a time, which leaves
/// processors to the accepted connections. Each step of a handshake goes to the end of the queue of
/// its thread.
pub(crate) struct Handshakes(Gate);

impl Handshakes {
    /// Empty queue.
    pub(crate) fn new() -> Self {
        Self(Gate::new(1, MOST_WAITING))
    }

    /// Runs a future to its end, and waits for a turn before each poll. `None` if too many
    /// handshakes wait.
    pub(crate) async fn in_turn<F: Future>(&self, user: User, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let permit = self.0.enter(user, HANDSHAKE_COST).await.ok()?;
            tokio::task::yield_now().await;
            let mut turn = Turn(Some(permit));
            let polled = poll_fn(|context| {
                let turn = mem::replace(&mut turn, Turn(None));
                Poll::Ready(turn.work(|| future.as_mut().poll(context)))
            });
            if let Poll::Ready(done) = polled.await {
                return Some(done);
            }
            // Pends once. The waker of the future is the waker of this task, so the wake-up of the
            // future continues here.
            let mut is_first_poll = true;
            poll_fn(|_| if mem::take(&mut is_first_poll) { Poll::Pending } else { Poll::Ready(()) }).await;
        }
    }
}

/// Waits for a permit, unless too many calls of the client wait.
async fn enter<P>(client: &Client, permit: impl Future<Output = Result<P, Full>>) -> Result<P, Error> {
    let full = || Error::new(ckr::CKR_HOST_MEMORY, "too many calls of this client wait; try again later");
    let entered = match client.begin_to_wait() {
        Some(_waiting) => permit.await.ok(),
        None => None,
    };
    if entered.is_none() {
        sleep_until(client.refusal_time()).await;
    }
    entered.ok_or_else(full)
}

/// Turn of a call; without a permit if clients take no turns.
pub(crate) struct Turn(Option<GatePermit>);

impl Turn {
    /// Runs the work, and charges its cost to the client.
    pub(crate) fn work<T>(self, work: impl FnOnce() -> T) -> T {
        match self.0 {
            Some(mut permit) => charged(&mut permit, work),
            None => work(),
        }
    }
}

/// Runs the work, and charges its cost to the client of the permit.
fn charged<T>(permit: &mut GatePermit, work: impl FnOnce() -> T) -> T {
    let begin = processor_time();
    let done = work();
    permit.charge(processor_time().saturating_sub(begin) + TRANSPORT_COST);
    done
}

/// Detector of several clients that call within [`RECENT`].
struct RecentClients {
    start: Instant,
    /// Number of the client that called last.
    last: AtomicU32,
    /// Time until which the last change of the client counts, in milliseconds since `start`.
    until: AtomicU64,
}

impl RecentClients {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU32::new(0), until: AtomicU64::new(0) }
    }

    /// Notes a call of `user`. True if another client has called recently.
    fn are_several(&self, user: User) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.last.load(Ordering::Relaxed) != user {
            self.last.store(user, Ordering::Relaxed);
            self.until.store(now.saturating_add(RECENT), Ordering::Relaxed);
        }
        now < self.until.load(Ordering::Relaxed)
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Estimated costs, used until a call is measured.
const LONG_COST: Duration = Duration::from_millis(2);
const SHORT_COST: Duration = Duration::from_micros(100);
const HANDSHAKE_COST: Duration = Duration::from_millis(1);
/// Cost of a call besides its work: TLS, HTTP/2 and gRPC (docs/grep11.md, "How fast it is").
const TRANSPORT_COST: Duration = Duration::from_micros(50);
/// Maximum number of calls of one client that take no turns. A new client waits for these calls at
/// most.
const MAX_WITHOUT_TURN: usize = 32;
/// Time for which a client counts as calling after its call, in milliseconds.
const RECENT: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admission::Caller;

    #[tokio::test]
    async fn the_second_client_is_next_before_the_waiting_calls_of_the_first() {
        let turns = Arc::new(Turns { short: Gate::new(1, 100), ..Turns::new().unwrap() });
        let [heavy, light] = Caller::examples();
        turns.recent_clients.are_several(heavy.client.number);
        assert!(turns.recent_clients.are_several(light.client.number));
        let held = turns.short(&heavy.client).await.unwrap();
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        for caller in core::iter::repeat_n(&heavy, 10).chain([&light]) {
            let (turns, client, order) = (Arc::clone(&turns), Arc::clone(&caller.client), order.clone());
            tokio::spawn(async move {
                let turn = turns.short(&client).await.unwrap();
                turn.work(|| order.send(client.number).unwrap());
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        assert_eq!(served.recv().await, Some(light.client.number));
    }

    #[tokio::test]
    async fn a_handshake_of_another_network_is_next_before_those_of_the_first() {
        let handshakes = Arc::new(Handshakes::new());
        let (order, mut done) = tokio::sync::mpsc::unbounded_channel();
        for user in core::iter::repeat_n(1, 10).chain([2]) {
            let (handshakes, order) = (Arc::clone(&handshakes), order.clone());
            tokio::spawn(async move {
                // Pends once, as a handshake does.
                let handshake = async {
                    tokio::task::yield_now().await;
                    order.send(user).unwrap();
                };
                handshakes.in_turn(user, handshake).await.unwrap();
            });
        }
        let mut before = 0;
        while done.recv().await.unwrap() == 1 {
            before += 1;
        }
        assert!(before < 3, "{before} handshakes before the one of the other network");
        assert_eq!(handshakes.in_turn(1, async { 7 }).await, Some(7));
    }

    #[test]
    fn one_client_alone_is_not_several() {
        let recent_clients = RecentClients::new();
        assert!((0..10).all(|_| !recent_clients.are_several(0)));
        assert!(recent_clients.are_several(1) && recent_clients.are_several(0));
    }
}
