//! Whose call is next: between clients by cost, so that one with many or expensive calls slows down itself.
//!
//! Long calls, such as RSA signatures, leave the threads that serve connections, and share the
//! processors in turn. Short ones are answered where they are. Their turn matters only while
//! several clients call, or one has many calls under way, behind which the first call of another
//! one would be: then a call goes to the end of what its thread has to do, and only a few do at a
//! time.

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

/// The turns of all clients.
pub(crate) struct Turns {
    long: LongWork,
    short: Gate,
    rivals: Rivals,
}

impl Turns {
    /// # Errors
    /// There are no threads to be had.
    pub(crate) fn new() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let short = Gate::new(2 * processors, MOST_WAITING);
        Ok(Self { long: LongWork::start()?, short, rivals: Rivals::new() })
    }

    /// Does a long call in its turn, on a thread apart, and charges the client for it. None if the
    /// work panicked.
    ///
    /// # Errors
    /// `CKR_HOST_MEMORY` if too many calls of the client wait.
    pub(crate) async fn long<T: Send + 'static>(
        &self,
        client: &Client,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let turn = enter(client, self.long.enter(client.number, LONG)).await?;
        Ok(turn.work(move |permit| charged(permit, work)).await)
    }

    /// Waits for the turn of a short call, if clients have to take turns.
    ///
    /// # Errors
    /// As for [`Self::long`].
    pub(crate) async fn short(&self, client: &Client) -> Result<Turn, Error> {
        let few = client.calls.load(Ordering::Relaxed) <= FEW;
        if !self.rivals.are_there(client.number) && few {
            return Ok(Turn(None));
        }
        let permit = enter(client, self.short.enter(client.number, SHORT)).await?;
        tokio::task::yield_now().await;
        Ok(Turn(Some(permit)))
    }
}

/// Turns between networks for the handshakes of TLS. One computes at a time, so that connections
/// which are there have processors left, and each time it is at the end of what its thread has to
/// do.
pub(crate) struct Handshakes(Gate);

impl Handshakes {
    pub(crate) fn new() -> Self {
        Self(Gate::new(1, MOST_WAITING))
    }

    /// Asks a future in turn, each time it may go on. `None` if too many wait.
    pub(crate) async fn in_turn<F: Future>(&self, user: User, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let permit = self.0.enter(user, HANDSHAKE).await.ok()?;
            tokio::task::yield_now().await;
            let mut turn = Turn(Some(permit));
            let asked = poll_fn(|context| {
                let turn = mem::replace(&mut turn, Turn(None));
                Poll::Ready(turn.work(|| future.as_mut().poll(context)))
            });
            if let Poll::Ready(done) = asked.await {
                return Some(done);
            }
            // Whatever wakes the future wakes this task.
            let mut asked = true;
            poll_fn(|_| if mem::take(&mut asked) { Poll::Pending } else { Poll::Ready(()) }).await;
        }
    }
}

/// Waits for a permit, if not too many calls of the client do.
async fn enter<P>(client: &Client, permit: impl Future<Output = Result<P, Full>>) -> Result<P, Error> {
    let full = || Error::new(ckr::CKR_HOST_MEMORY, "too many calls of this client wait; try again");
    let entered = match client.begin_to_wait() {
        Some(_waiting) => permit.await.ok(),
        None => None,
    };
    if entered.is_none() {
        sleep_until(client.refusal_time()).await;
    }
    entered.ok_or_else(full)
}

/// The turn of a call.
pub(crate) struct Turn(Option<GatePermit>);

impl Turn {
    /// Does the work, and charges the client for it.
    pub(crate) fn work<T>(self, work: impl FnOnce() -> T) -> T {
        match self.0 {
            Some(mut permit) => charged(&mut permit, work),
            None => work(),
        }
    }
}

/// Does the work, and charges the client of a permit for it.
fn charged<T>(permit: &mut GatePermit, work: impl FnOnce() -> T) -> T {
    let begin = processor_time();
    let done = work();
    permit.charge(processor_time().saturating_sub(begin) + TRANSPORT);
    done
}

/// Whether there are several clients that call.
struct Rivals {
    start: Instant,
    /// Who called last.
    last: AtomicU32,
    /// Until when it counts that another one did before, in milliseconds from `start` on.
    until: AtomicU64,
}

impl Rivals {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU32::new(0), until: AtomicU64::new(0) }
    }

    fn are_there(&self, user: User) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.last.load(Ordering::Relaxed) != user {
            self.last.store(user, Ordering::Relaxed);
            self.until.store(now.saturating_add(REMEMBERED), Ordering::Relaxed);
        }
        now < self.until.load(Ordering::Relaxed)
    }
}

/// What this thread has used of a processor.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Estimates, until the call has been measured.
const LONG: Duration = Duration::from_millis(2);
const SHORT: Duration = Duration::from_micros(100);
const HANDSHAKE: Duration = Duration::from_millis(1);
/// What a call costs beside its work: TLS, HTTP/2, gRPC (docs/grep11.md, How fast it is).
const TRANSPORT: Duration = Duration::from_micros(50);
/// Calls of one client that need no turns: another client that comes waits for no more than these.
const FEW: usize = 32;
/// How long a client counts as one that calls, in milliseconds.
const REMEMBERED: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admission::Caller;

    #[tokio::test]
    async fn the_second_client_is_next_whatever_the_first_has_waiting() {
        let turns = Arc::new(Turns { short: Gate::new(1, 100), ..Turns::new().unwrap() });
        let [heavy, light] = Caller::examples();
        turns.rivals.are_there(heavy.client.number);
        assert!(turns.rivals.are_there(light.client.number));
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
    async fn a_handshake_of_another_network_is_next_whatever_the_first_has_begun() {
        let handshakes = Arc::new(Handshakes::new());
        let (order, mut done) = tokio::sync::mpsc::unbounded_channel();
        for user in core::iter::repeat_n(1, 10).chain([2]) {
            let (handshakes, order) = (Arc::clone(&handshakes), order.clone());
            tokio::spawn(async move {
                // Waits for the other side once, as a handshake does.
                let handshake = async {
                    tokio::task::yield_now().await;
                    order.send(user).unwrap();
                };
                handshakes.in_turn(user, handshake).await.unwrap();
            });
        }
        let mut permit = 0;
        while done.recv().await.unwrap() == 1 {
            permit += 1;
        }
        assert!(permit < 3, "{permit} before it");
        assert_eq!(handshakes.in_turn(1, async { 7 }).await, Some(7));
    }

    #[test]
    fn one_client_alone_has_no_rivals() {
        let rivals = Rivals::new();
        assert!((0..10).all(|_| !rivals.are_there(0)));
        assert!(rivals.are_there(1) && rivals.are_there(0));
    }
}
