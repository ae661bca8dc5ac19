//! Whose call is next: between clients by cost, so that one with many or expensive calls slows down itself.
//!
//! Long calls, such as RSA signatures, leave the threads that serve connections, and share the processors in turn.
//! Short ones are answered where they are. Their turn matters only while several clients call: then a call goes to
//! the end of what its thread has to do, and of one client only a few do at a time.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::thread;
use std::time::Instant;

use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use rustix::process::setpriority_process;
use rustix::thread::gettid;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::sleep_until;

use super::clients::Client;
use crate::fair::{Gate, Place, User};

/// The turns of all clients.
pub(crate) struct Turns {
    long: Gate,
    short: Gate,
    rivals: Rivals,
}

impl Turns {
    pub(crate) fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            long: Gate::new(processors, MOST_WAITING),
            short: Gate::new(2 * processors, MOST_WAITING),
            rivals: Rivals::new(),
        }
    }

    /// Waits for the turn of a long call.
    ///
    /// # Errors
    /// `CKR_HOST_MEMORY` if too many calls of the client wait.
    pub(crate) async fn long(&self, client: &Client) -> Result<Turn, Error> {
        Ok(Turn(Some(enter(&self.long, client, LONG).await?)))
    }

    /// Waits for the turn of a short call, if clients have to take turns.
    ///
    /// # Errors
    /// As for [`Self::long`].
    pub(crate) async fn short(&self, client: &Client) -> Result<Turn, Error> {
        if !self.rivals.are_there(client.number) {
            return Ok(Turn(None));
        }
        let place = enter(&self.short, client, SHORT).await?;
        tokio::task::yield_now().await;
        Ok(Turn(Some(place)))
    }
}

async fn enter(gate: &Gate, client: &Client, cost: Duration) -> Result<Place, Error> {
    let full = || Error::new(ckr::CKR_HOST_MEMORY, "too many calls of this client wait; try again");
    let entered = match client.begin_to_wait() {
        Some(_waiting) => gate.enter(client.number, cost).await.ok(),
        None => None,
    };
    if entered.is_none() {
        sleep_until(client.refusal_time()).await;
    }
    entered.ok_or_else(full)
}

/// The turn of a call.
pub(crate) struct Turn(Option<Place>);

impl Turn {
    /// Does the work on a thread of its own, which leaves the processors to those that serve connections, and charges
    /// the client for it.
    pub(crate) fn work_apart<T>(self, work: impl FnOnce() -> T) -> T {
        thread_local!(static NICED: Cell<bool> = const { Cell::new(false) });
        if !NICED.replace(true) {
            // Refused nowhere; without it short calls wait longer while the processors are busy.
            let _ = setpriority_process(Some(gettid()), NICE);
        }
        self.work(work)
    }

    /// Does the work, and charges the client for it.
    pub(crate) fn work<T>(self, work: impl FnOnce() -> T) -> T {
        let Self(Some(mut place)) = self else { return work() };
        let begin = processor_time();
        let done = work();
        place.charge(processor_time().saturating_sub(begin) + TRANSPORT);
        done
    }
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
/// What a call costs beside its work: TLS, HTTP/2, gRPC (docs/grep11.md, How fast it is).
const TRANSPORT: Duration = Duration::from_micros(50);
/// Nice value of the threads for long calls (nice(2)): a tenth of a processor beside a thread with 0, and all of it
/// beside none.
const NICE: i32 = 10;
/// How long a client counts as one that calls, in milliseconds.
const REMEMBERED: u64 = 1000;
/// Calls of all clients that may wait.
const MOST_WAITING: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::unit_server::admission::Caller;

    #[tokio::test]
    async fn the_second_client_is_next_whatever_the_first_has_waiting() {
        let turns =
            Arc::new(Turns { long: Gate::new(1, 100), short: Gate::new(1, 100), rivals: Rivals::new() });
        let (heavy, light) = (Caller::example(1), Caller::example(2));
        let held = turns.long(&heavy.client).await.unwrap();
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        for caller in core::iter::repeat_n(&heavy, 10).chain([&light]) {
            let (turns, client, order) = (Arc::clone(&turns), Arc::clone(&caller.client), order.clone());
            tokio::spawn(async move {
                let turn = turns.long(&client).await.unwrap();
                turn.work(|| order.send(client.number).unwrap());
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        assert_eq!(served.recv().await, Some(light.client.number));
    }

    #[test]
    fn one_client_alone_has_no_rivals() {
        let rivals = Rivals::new();
        assert!((0..10).all(|_| !rivals.are_there(0)));
        assert!(rivals.are_there(1) && rivals.are_there(0));
    }
}
