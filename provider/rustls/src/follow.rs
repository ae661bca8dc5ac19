//! A thread that the daemon informs when keys change.

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

/// Handle of the thread. The thread ends after the handle is dropped. Dropping does not wait for
/// the end, which may take as long as a request to the daemon.
pub(crate) struct Follower {
    /// End of a socket pair. The thread has the other end, and notices when this end is closed.
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
        // Labels whose last answer was missing or temporary; asked again at the next pause.
        let mut pending: HashSet<&Label> = HashSet::new();
        loop {
            let time = if pending.is_empty() { WATCH } else { pause };
            match self.changes(revision, time) {
                Ok(None) => return,
                Ok(Some(changes)) => {
                    self.shared.set_follow_error(None);
                    revision = changes.revision;
                    let has_changed = |label: &&Label| changes.everything || changes.labels.contains(label);
                    pending.extend(self.shared.labels().filter(has_changed));
                    pending = self.shared.update_all(pending);
                    pause = if pending.is_empty() { FIRST_PAUSE } else { LAST_PAUSE.min(pause * 2) };
                }
                Err(error) => {
                    self.shared.set_follow_error(Some(error));
                    // After revision 0 the daemon answers at once, which shows that it is back.
                    revision = 0;
                    if self.ends_within(pause) {
                        return;
                    }
                    pause = LAST_PAUSE.min(pause * 2);
                }
            }
        }
    }

    /// The changes after a revision, as soon as there are changes or `time` is over; `None` at the
    /// end of the thread.
    fn changes(&self, after: u64, time: Duration) -> Result<Option<Changes>, RequestError> {
        let mut call = self.shared.keyward.client.start_watch(after, time)?;
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

    /// Waits for the answer to a call, for its deadline, or for the end of the thread. Returns true
    /// at the end of the thread.
    fn ends_while_waiting(&self, call: &Call<Changes>) -> bool {
        let left = call.deadline().saturating_duration_since(Instant::now());
        let mut either = [
            PollFd::new(&self.ended, PollFlags::IN),
            PollFd::from_borrowed_fd(call.descriptor(), PollFlags::IN),
        ];
        wait(&mut either, left);
        either.first().is_some_and(|ended| !ended.revents().is_empty())
    }

    /// Sleeps. Returns true if the end of the thread came meanwhile.
    fn ends_within(&self, time: Duration) -> bool {
        let mut ended = [PollFd::new(&self.ended, PollFlags::IN)];
        wait(&mut ended, time);
        ended.first().is_some_and(|ended| !ended.revents().is_empty())
    }
}

/// Waits for descriptors, at most for `time`; a signal may end the wait early.
fn wait(descriptors: &mut [PollFd<'_>], time: Duration) {
    let time = Timespec::try_from(time).ok();
    let _ = poll(descriptors, time.as_ref());
}

/// Time after which the daemon answers a watch without changes: a check that the daemon is still
/// there.
const WATCH: Duration = Duration::from_secs(60);

/// Pause before the next request to a daemon that does not answer, or for a label whose last answer
/// was temporary. Doubled each time, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
