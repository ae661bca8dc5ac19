//! Work that takes milliseconds, such as a signature with RSA 4096: on threads of its own, for
//! which users wait in turn.
//!
//! The threads are there from the start and stay: nothing depends on whether the system has one
//! left when it is needed. Half of them give way to the threads that serve connections, where these
//! want the processor. There goes what a user asks for beyond its [`FEW`] first requests: a user
//! who floods the daemon leaves others the processor, and one who asks for little does not wait for
//! the cheap requests of somebody else.

use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::sync::oneshot;

use crate::fair::{Full, Gate, MOST_WAITING, Place, User};

/// The threads, and who waits for them.
pub struct LongWork {
    first: Lane,
    more: Lane,
    under_way: Arc<UnderWay>,
}

/// A gate, and as many threads as it has places.
struct Lane {
    gate: Gate,
    jobs: Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

/// How many requests of each user wait or are worked on.
#[derive(Default)]
struct UnderWay(Mutex<HashMap<User, usize>>);

impl LongWork {
    /// Starts two threads for each processor.
    ///
    /// # Errors
    /// There are no threads to be had.
    pub fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let (first, more) = (Lane::start(processors, false)?, Lane::start(processors, true)?);
        Ok(Self { first, more, under_way: Arc::default() })
    }

    /// Waits for a turn. `cost` is an estimate of how long the work will take.
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// [`Full`]: too many requests wait, and most of them are of this user.
    pub async fn enter(&self, user: User, cost: Duration) -> Result<LongTurn, Full> {
        let (counted, number) = Counted::enter(&self.under_way, user);
        let lane = if number <= FEW { &self.first } else { &self.more };
        let place = lane.gate.enter(user, cost).await?;
        Ok(LongTurn { place, jobs: lane.jobs.clone(), counted })
    }
}

impl Lane {
    fn start(places: usize, gives_way: bool) -> io::Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..places {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().name("unit".into()).spawn(move || {
                if gives_way {
                    // Where that is refused, the thread works as the others do.
                    let _ = setpriority_process(Some(gettid()), NICE);
                }
                while let Some(job) = next(&waiting) {
                    job();
                }
            })?;
        }
        Ok(Self { gate: Gate::new(places, MOST_WAITING), jobs })
    }
}

/// Waits for the next job; none if there will be no more.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// The turn of a request.
pub struct LongTurn {
    place: Place,
    jobs: Sender<Job>,
    counted: Counted,
}

impl LongTurn {
    /// Does the work, which charges its user by the place. The turn ends with the work, even if
    /// nobody waits for that any more. None if the work panicked.
    pub async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut Place) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, done) = oneshot::channel();
        let Self { mut place, jobs, counted } = self;
        let job = move || {
            // A mistake in one piece of work must not take a thread from all others.
            let worked = catch_unwind(AssertUnwindSafe(|| work(&mut place)));
            // What the user asks for next does not come beside this.
            drop((place, counted));
            if let Ok(worked) = worked {
                // The user may have left.
                let _ = answer.send(worked);
            }
        };
        jobs.send(Box::new(job)).ok()?;
        done.await.ok()
    }
}

/// Counts a request of a user until it is dropped.
struct Counted {
    under_way: Arc<UnderWay>,
    user: User,
}

impl Counted {
    /// Counts a request; returns how many there are with it.
    fn enter(under_way: &Arc<UnderWay>, user: User) -> (Self, usize) {
        let mut users = under_way.users();
        let count = users.entry(user).or_default();
        *count += 1;
        (Self { under_way: Arc::clone(under_way), user }, *count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut users = self.under_way.users();
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}

impl UnderWay {
    fn users(&self) -> MutexGuard<'_, HashMap<User, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests of a user that do not give way to cheap ones of others. A server that signs in its
/// worker processes has as many under way as processors.
const FEW: usize = 2;

/// Nice value of the threads that give way (nice(2)): a tenth of a processor beside a thread with
/// 0, and all of it beside none.
const NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn work_is_done_also_after_some_that_panicked() {
        let work = LongWork::start().unwrap();
        for _ in 0..100 {
            let turn = work.enter(1, MS).await.unwrap();
            assert_eq!(turn.work(|_| -> u8 { panic!("as by mistake") }).await, None);
        }
        assert_eq!(work.enter(1, MS).await.unwrap().work(|_| 7).await, Some(7));
    }

    #[tokio::test]
    async fn what_a_user_has_beyond_a_few_requests_gives_way() {
        let work = LongWork::start().unwrap();
        let nice = || rustix::process::getpriority_process(Some(gettid())).unwrap();
        let held: Vec<_> = vec![work.enter(1, MS).await.unwrap(), work.enter(1, MS).await.unwrap()];
        let third = work.enter(1, MS).await.unwrap();
        assert_eq!(third.work(move |_| nice()).await, Some(NICE));
        let mut held = held.into_iter();
        assert_eq!(held.next().unwrap().work(move |_| nice()).await, Some(0));
        assert_eq!(held.next().unwrap().work(move |_| nice()).await, Some(0));
        assert!(work.under_way.users().is_empty());
    }

    #[tokio::test]
    async fn those_who_left_are_not_counted() {
        let work = LongWork::start().unwrap();
        let turn = work.enter(1, MS).await.unwrap();
        {
            let mut left = Box::pin(turn.work(|_| thread::sleep(10 * MS)));
            tokio::select! {
                biased;
                _ = &mut left => panic!("done at once"),
                () = core::future::ready(()) => {}
            }
        }
        while !work.under_way.users().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
