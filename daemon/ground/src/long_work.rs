//! Worker threads for work that takes milliseconds, such as a signature with RSA 4096. Users wait
//! for the threads in fair shares.
//!
//! All threads start with the server and stay, so the work never fails for want of a thread. Half
//! of the threads have a low priority: they yield the processor to the threads that serve
//! connections. A user's first [`MOST_URGENT`] requests run at normal priority, further requests at
//! low priority. So a user who floods the daemon leaves the processor to others, and a user with
//! few requests does not wait for the cheap requests of others.

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

use crate::fair::{Full, Gate, GatePermit, MOST_WAITING, User};

/// Worker threads with their queues.
pub struct LongWork {
    urgent: Workers,
    low_priority: Workers,
    under_way: Arc<UnderWay>,
}

/// Gate with one thread for each of its permits.
struct Workers {
    gate: Gate,
    jobs: Sender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

/// Number of waiting and running requests by user.
#[derive(Default)]
struct UnderWay(Mutex<HashMap<User, usize>>);

impl LongWork {
    /// Starts two threads for each processor.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let (urgent, low_priority) = (Workers::start(processors, false)?, Workers::start(processors, true)?);
        Ok(Self { urgent, low_priority, under_way: Arc::default() })
    }

    /// Waits for a thread. `cost` is an estimate of the time of the work.
    ///
    /// Cancellation safe: a dropped future blocks no thread.
    ///
    /// # Errors
    /// [`Full`]: too many requests wait, and this user has the most of them.
    pub async fn enter(&self, user: User, cost: Duration) -> Result<LongTurn, Full> {
        let (counted, number) = Counted::enter(&self.under_way, user);
        let workers = if number <= MOST_URGENT { &self.urgent } else { &self.low_priority };
        let permit = workers.gate.enter(user, cost).await?;
        Ok(LongTurn { permit, jobs: workers.jobs.clone(), counted })
    }
}

impl Workers {
    fn start(threads: usize, has_low_priority: bool) -> io::Result<Self> {
        let (jobs, waiting) = channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().name("unit".into()).spawn(move || {
                if has_low_priority {
                    // If the kernel refuses, the thread runs at normal priority.
                    let _ = setpriority_process(Some(gettid()), NICE);
                }
                while let Some(job) = next(&waiting) {
                    job();
                }
            })?;
        }
        Ok(Self { gate: Gate::new(threads, MOST_WAITING), jobs })
    }
}

/// Waits for the next job. `None` at the end of the workers.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// Permit of a request to use a thread.
pub struct LongTurn {
    permit: GatePermit,
    jobs: Sender<Job>,
    counted: Counted,
}

impl LongTurn {
    /// Runs the work on a thread. The work charges its user through the permit. Returns `None` if
    /// the work panicked.
    ///
    /// The permit is held until the work ends, even if this future is dropped before.
    pub async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&mut GatePermit) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, done) = oneshot::channel();
        let Self { mut permit, jobs, counted } = self;
        let job = move || {
            // A bug in one piece of work must not end a thread that others need.
            let result = catch_unwind(AssertUnwindSafe(|| work(&mut permit)));
            // Before the answer: the user's next request must not be counted beside this one.
            drop((permit, counted));
            if let Ok(result) = result {
                // Fails if nobody waits any more.
                let _ = answer.send(result);
            }
        };
        jobs.send(Box::new(job)).ok()?;
        done.await.ok()
    }
}

/// Counts a request of a user. The count ends with the drop of this value.
struct Counted {
    under_way: Arc<UnderWay>,
    user: User,
}

impl Counted {
    /// Counts a request. Returns the number of requests of the user, this request included.
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

/// Requests of a user at normal priority. A server that signs in its worker processes has as many
/// requests under way as processors.
const MOST_URGENT: usize = 2;

/// Nice value of the threads with low priority (nice(2)). Beside a thread with nice 0, such a
/// thread gets a tenth of the processor; alone, all of the processor.
const NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn work_is_done_after_work_that_panicked() {
        let work = LongWork::start().unwrap();
        for _ in 0..100 {
            let turn = work.enter(1, MS).await.unwrap();
            assert_eq!(turn.work(|_| -> u8 { panic!("as by a bug") }).await, None);
        }
        assert_eq!(work.enter(1, MS).await.unwrap().work(|_| 7).await, Some(7));
    }

    #[tokio::test]
    async fn further_requests_of_a_user_have_low_priority() {
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
    async fn cancelled_requests_are_not_counted() {
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
