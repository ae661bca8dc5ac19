//! The thread that waits for the disk, so that the writer can go on meanwhile.

use core::time::Duration;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;

/// The writer's side of the thread.
pub(crate) struct Disk {
    jobs: Sender<Job>,
    done: Receiver<io::Result<()>>,
    /// True while the writer waits for a job.
    pub(crate) is_busy: bool,
}

/// Something that ends when the disk has answered.
pub(crate) type Job = Box<dyn FnOnce() -> io::Result<()> + Send>;

impl Disk {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let (result, done) = mpsc::channel();
        let run = move || {
            for job in received {
                if result.send(job()).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("audit-disk".into()).spawn(run)?;
        Ok(Self { jobs, done, is_busy: false })
    }

    /// Gives the thread a job. [`Disk::result`] has its result.
    pub(crate) fn begin(&mut self, job: Job) {
        // A thread that has ended shows in the result.
        self.is_busy = self.jobs.send(job).is_ok();
    }

    /// Result of the job, if the job ends within some time.
    pub(crate) fn result(&mut self, limit: Duration) -> Option<io::Result<()>> {
        let result = match self.done.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => {
                Err(io::Error::other("the thread that waits for the disk has ended"))
            }
        };
        self.is_busy = false;
        Some(result)
    }
}
