//! The thread that looks after closed files, so that the writer never waits for it.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use crate::compression::{clean, compress};
use crate::files::stored;
use crate::trail::Message;

/// The writer's side of the thread.
pub(crate) struct Housekeeper {
    jobs: Sender<Job>,
    is_stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    /// True while the thread is at work.
    is_busy: bool,
    /// A job for the time when the thread is not.
    next: Option<Job>,
}

/// Work of the thread.
#[derive(Debug)]
pub(crate) struct Job {
    /// First record of the file that is open.
    pub(crate) current: u64,
}

impl Housekeeper {
    /// Starts the thread. It sends [`Message::Tidied`] after each job.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(directory: PathBuf, done: Sender<Message>) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut closed = Closed { directory, is_stopping: Arc::clone(&is_stopping), has_failed: false };
        let run = move || {
            for job in received {
                closed.tidy(&job);
                if done.send(Message::Tidied).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("audit-files".into()).spawn(run)?;
        Ok(Self { jobs, is_stopping, thread, is_busy: false, next: None })
    }

    /// Has a job done, after the present one. A job that waits is replaced.
    pub(crate) fn ask(&mut self, job: Job) {
        if self.is_busy {
            self.next = Some(job);
        } else {
            self.is_busy = self.jobs.send(job).is_ok();
        }
    }

    /// Goes on after [`Message::Tidied`].
    pub(crate) fn done(&mut self) {
        self.is_busy = false;
        if let Some(job) = self.next.take() {
            self.ask(job);
        }
    }

    /// Ends the thread. A file that is half compressed stays as it was.
    pub(crate) fn stop(self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        drop(self.jobs);
        // A panic of the thread has its own line in the log.
        let _panicked = self.thread.join();
    }
}

/// Closed files, as the thread knows them.
struct Closed {
    directory: PathBuf,
    is_stopping: Arc<AtomicBool>,
    /// True if the log says that there is a problem.
    has_failed: bool,
}

impl Closed {
    fn tidy(&mut self, job: &Job) {
        let tidied = self.compress(job.current);
        if let Err(error) = &tidied
            && !self.has_failed
        {
            let directory = self.directory.display();
            tracing::warn!(%directory, "cannot compress closed files of the audit trail: {error}");
        }
        self.has_failed = tidied.is_err();
    }

    fn compress(&self, current: u64) -> io::Result<()> {
        clean(&self.directory)?;
        for file in stored(&self.directory)? {
            if let Some(plain) = file.plain.filter(|_| file.first < current) {
                compress(&self.directory, &plain, &self.is_stopping)?;
            }
        }
        Ok(())
    }
}
