//! A thread that hears from the daemon when keys change.

use core::time::Duration;
use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use keyward_client::{Call, Changes, Progress};
use keyward_proto::Label;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::resolver::Shared;
use crate::{Error, RequestError};

/// Lets the thread go on until it is dropped. Nobody waits for its end, which may take as long as a request to the daemon.
pub(crate) struct Follower {
    /// Its other end is at the thread, which sees this one close.
    _end: UnixStream,
}

impl Follower {
    pub(crate) fn start(shared: Arc<Shared>) -> Result<Self, Error> {
        let (end, ended) = UnixStream::pair().map_err(Error::Follow)?;
        let thread = thread::Builder::new().name("keyward-follow".into());
        thread.spawn(move || Thread { shared, ended }.run()).map_err(Error::Follow)?;
        Ok(Self { _end: end })
    }
}

struct Thread {
    shared: Arc<Shared>,
    ended: UnixStream,
}

impl Thread {
    fn run(self) {
        let mut revision = 0;
        let mut pause = FIRST_PAUSE;
        // Those of which the daemon has not said anything yet that will hold.
        let mut owed: HashSet<&Label> = HashSet::new();
        loop {
            let time = if owed.is_empty() { WATCH } else { pause };
            match self.changes(revision, time) {
                Ok(None) => return,
                Ok(Some(changes)) => {
                    self.shared.set_silence(None);
                    revision = changes.revision;
                    let told = |label: &&Label| changes.everything || changes.labels.contains(label);
                    owed.extend(self.shared.labels().filter(told));
                    owed = self.shared.ask_for_all(owed);
                    pause = if owed.is_empty() { FIRST_PAUSE } else { LAST_PAUSE.min(pause * 2) };
                }
                Err(error) => {
                    self.shared.set_silence(Some(&error));
                    // So that the next answer comes at once, and says that there is one.
                    revision = 0;
                    if self.sleeps(pause) {
                        return;
                    }
                    pause = LAST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// The changes behind a revision, as soon as there are some or that time is over; none at the end of the thread.
    fn changes(&self, after: u64, time: Duration) -> Result<Option<Changes>, RequestError> {
        let mut call = self.shared.daemon.client.start_watch(after, time)?;
        loop {
            if self.ends_while_waiting(&call) {
                return Ok(None);
            }
            match call.poll()? {
                Progress::Ready(changes) => return Ok(Some(changes)),
                Progress::Pending(pending) => call = pending,
            }
        }
    }

    /// Waits for the answer to a call, until its deadline, or for the end of the thread: whether that has come.
    fn ends_while_waiting(&self, call: &Call<Changes>) -> bool {
        let left = call.deadline().saturating_duration_since(Instant::now());
        let mut either = [
            PollFd::new(&self.ended, PollFlags::IN),
            PollFd::from_borrowed_fd(call.descriptor(), PollFlags::IN),
        ];
        wait(&mut either, left);
        either.first().is_some_and(|ended| !ended.revents().is_empty())
    }

    /// Sleeps: whether the end of the thread has come meanwhile.
    fn sleeps(&self, time: Duration) -> bool {
        let mut ended = [PollFd::new(&self.ended, PollFlags::IN)];
        wait(&mut ended, time);
        ended.first().is_some_and(|ended| !ended.revents().is_empty())
    }
}

/// Waits for descriptors at most for a time; a signal may cut that short.
fn wait(descriptors: &mut [PollFd<'_>], time: Duration) {
    let time = Timespec::try_from(time).ok();
    let _ = poll(descriptors, time.as_ref());
}

/// How long the daemon may leave a watch unanswered: as a check that it is still there.
const WATCH: Duration = Duration::from_secs(60);

/// How long to wait before a daemon that does not answer, or of a key nothing that will hold, is asked again: twice as long
/// each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
