//! The thread that looks after closed files, so that the writer never waits for it.

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use crate::compression::{clean, compress};
use crate::files::{stored, sync_directory};
use crate::retention::{Removal, Retention};
use crate::trail::Message;
use crate::{Extent, Policy};

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

/// Work of the thread: to compress closed files, and to find those that are to be removed.
#[derive(Debug)]
pub(crate) struct Job {
    /// First record of the file that is open.
    pub(crate) current: u64,
    /// Last record of the files that are removed before. 0: none is.
    pub(crate) remove: u64,
    /// Policy of the trail.
    pub(crate) policy: Policy,
}

/// Result of a job.
#[derive(Debug)]
pub(crate) struct Tidied {
    /// Files that are to be removed.
    pub(crate) removal: Option<Removal>,
    /// Extent of the directory, if it could be read.
    pub(crate) extent: Option<Extent>,
}

impl Housekeeper {
    /// Starts the thread. It sends [`Message::Tidied`] after each job.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn start(directory: PathBuf, done: Sender<Message>) -> io::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let is_stopping = Arc::new(AtomicBool::new(false));
        let retention = Retention::default();
        let mut closed =
            Closed { directory, is_stopping: Arc::clone(&is_stopping), has_failed: false, retention };
        let run = move || {
            for job in received {
                let tidied = closed.tidy(&job);
                if done.send(Message::Tidied(tidied)).is_err() {
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
            let remove = self.next.take().map_or(0, |next| next.remove).max(job.remove);
            self.next = Some(Job { remove, ..job });
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
    retention: Retention,
}

impl Closed {
    fn tidy(&mut self, job: &Job) -> Tidied {
        let removed = self.remove(job);
        // A disk without room for a compressed file needs the removal of others.
        let compressed = self.compress(job.current);
        let extent = extent(&self.directory);
        let removal = self.due(job);
        let (removal, undue) = match removal {
            Ok(removal) => (removal, None),
            Err(error) => (None, Some(error)),
        };
        let problem = removed.err().or(compressed.err()).or(undue);
        if let Some(error) = &problem
            && !self.has_failed
        {
            let directory = self.directory.display();
            tracing::warn!(%directory, "cannot compress or remove closed files of the audit trail: {error}");
        }
        self.has_failed = problem.is_some();
        Tidied { removal, extent: extent.ok() }
    }

    fn due(&mut self, job: &Job) -> io::Result<Option<Removal>> {
        let files = stored(&self.directory)?;
        self.retention.due(&files, job.current, &job.policy, SystemTime::now())
    }

    fn compress(&self, current: u64) -> io::Result<()> {
        clean(&self.directory)?;
        for file in stored(&self.directory)? {
            let is_worth_it = file.first < current && file.bytes > BLOCK;
            if let Some(plain) = file.plain.filter(|_| is_worth_it) {
                compress(&self.directory, &plain, &self.is_stopping)?;
            }
        }
        Ok(())
    }

    /// Removes files whose removal is recorded and signed. A process that is killed meanwhile
    /// leaves the newer ones of them, because each is gone from the disk before the next one goes.
    fn remove(&mut self, job: &Job) -> io::Result<()> {
        for file in stored(&self.directory)? {
            if file.first <= job.remove && file.first < job.current {
                for path in file.compressed.iter().chain(&file.plain) {
                    fs::remove_file(path)?;
                }
                sync_directory(&self.directory)?;
                self.retention.removed();
            }
        }
        Ok(())
    }
}

/// Extent of a directory.
fn extent(directory: &Path) -> io::Result<Extent> {
    let files = stored(directory)?.len() as u64;
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        // A file may be renamed meanwhile.
        bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(Extent { files, bytes })
}

/// Length of a block of most disks, in bytes. A shorter file takes no less room if it is
/// compressed.
const BLOCK: u64 = 4096;
