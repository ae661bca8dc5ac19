//! Waiting for the daemon without keeping the host from other work: ASYNC_start_job(3).
//!
//! A host that runs its handshakes in asynchronous jobs (HAProxy with `ssl-mode-async`, `s_server -async`) gets control back
//! while a request is under way: the job pauses, and the host watches a descriptor until there may be an answer. Outside
//! a job, or where pausing is blocked, we wait where we are.
//!
//! The descriptor is an epoll(7) of our own, one for each wait context and so for each TLS connection. It holds the
//! connection to the daemon and a timer while there is a request, and nothing otherwise. It stays open until the host frees
//! the wait context, since hosts keep tables by descriptor: HAProxy looks for those that came or went only now and then, and
//! ends if it meets one under a number that it still knows.
//!
//! A job may never be resumed, when its connection is torn down meanwhile: what lies on its stack is lost then, and
//! no destructor runs. So across a pause this module's part of it is a plain pointer, and everything else belongs to the wait
//! context. (Tools that sign a message in parts, or a digest, have a copy of that on the stack; TLS does not.)

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process;
use std::time::Instant;

use keyward_client::{Call, Client, Error as ClientError, above_standard_streams};
use keyward_proto::message::response;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

/// Why there is no answer.
pub(crate) enum Error {
    Client(ClientError),
    /// The host ran another job with the wait context of one that it resumed afterwards. The first one's call is gone, and
    /// what may be there is the answer to the other's.
    Shared,
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// Waits for the answer to a call, as the host would have it.
pub(crate) fn finish(client: &Client, mut call: Call) -> Result<response::Body, Error> {
    let Some(context) = WaitContext::current() else { return Ok(client.finish(call)?) };
    if let Some(answer) = client.answer(&mut call)? {
        return Ok(answer);
    }
    // Only now that there is something to wait for: a host gets to know of descriptors when a job pauses, and HAProxy
    // ends over one that it was never told of.
    match context.wait_for(call) {
        // SAFETY: `wait_for` has found it in the wait context of the job that runs.
        Ok((waiting, turn)) => unsafe { finish_in_job(waiting, turn, client) },
        Err(call) => Ok(client.finish(call.ok_or(ClientError::Garbled)?)?),
    }
}

/// Pauses until the call that `waiting` was given in this turn is answered.
///
/// # Safety
/// `waiting` belongs to the wait context of the job that runs. The wait context outlives the job, and nobody
/// else uses `waiting` while the job runs.
unsafe fn finish_in_job(waiting: *mut Waiting, turn: u64, client: &Client) -> Result<response::Body, Error> {
    loop {
        // The job may never be resumed: the stack owns, borrows and locks nothing of ours here.
        ASYNC_pause_job();
        // SAFETY: the caller vouches that it lives and that nobody else uses it while the job runs.
        let now = unsafe { &mut *waiting };
        if now.turn != turn {
            return Err(Error::Shared);
        }
        now.unwatch();
        let Some(call) = &mut now.call else { break };
        // A host that resumes without looking, or pausing is blocked: it must not go round and round. What goes wrong
        // is told with the answer.
        let _ = client.wait(call, SPIN);
        if let Some(answer) = client.answer(call).transpose() {
            now.end();
            return Ok(answer?);
        }
        if !now.watch() {
            break;
        }
    }
    // SAFETY: the job has run since the last pause, so what the caller vouches for still holds.
    let call = unsafe { &mut *waiting }.end();
    Ok(client.finish(call.ok_or(ClientError::Garbled)?)?)
}

/// What belongs to a wait context: a descriptor for the host, and the call that is under way, if there is one.
struct Waiting {
    /// The process that made it. A child shares the epoll with its parent, so it must leave it alone.
    owner: u32,
    epoll: OwnedFd,
    call: Option<Call>,
    /// Counts the calls that it was given, so that a job can tell whether this is still its own.
    turn: u64,
    /// Wakes the host at the deadline of the call, where the daemon does not.
    timer: Option<OwnedFd>,
    /// Whether the connection of the call is in the epoll.
    watched: bool,
}

impl Waiting {
    fn new() -> Result<Self, Errno> {
        let epoll = above_standard_streams(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Self { owner: process::id(), epoll, call: None, turn: 0, timer: None, watched: false })
    }

    /// Begins to watch for a call, and tells which turn it is, or gives it back.
    fn begin(&mut self, call: Call) -> Result<u64, Option<Call>> {
        // A host may use the wait context of a job that it gave up again.
        self.unwatch();
        self.end();
        self.call = Some(call);
        self.turn += 1;
        if self.watch() {
            return Ok(self.turn);
        }
        self.unwatch();
        Err(self.end())
    }

    /// Has the host woken when there may be an answer, or none is to be waited for any more. Returns whether it will be.
    fn watch(&mut self) -> bool {
        if self.owner != process::id() {
            return false;
        }
        let Some(call) = &self.call else { return false };
        let Some(connection) = call.descriptor() else { return false };
        if self.timer.is_none() {
            // Without one a daemon that is stuck would keep the host waiting for ever.
            self.timer = timer(call.deadline()).filter(|timer| self.add(timer.as_fd()).is_ok());
        }
        self.watched = self.timer.is_some() && self.add(connection).is_ok();
        self.watched
    }

    /// Takes the connection out before anything is done with it: it may be given to another call, or closed.
    fn unwatch(&mut self) {
        let connection = self.call.as_ref().and_then(Call::descriptor);
        if let Some(connection) = connection.filter(|_| self.watched && self.owner == process::id()) {
            // It is in there.
            let _ = epoll::delete(&self.epoll, connection);
        }
        self.watched = false;
    }

    /// Nothing is waited for any more. What is left of the call comes back.
    fn end(&mut self) -> Option<Call> {
        self.timer = None;
        self.call.take()
    }

    fn add(&self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(0), EventFlags::IN)
    }
}

/// The wait context of the asynchronous job that we run in (ASYNC_WAIT_CTX_new(3)).
#[derive(Clone, Copy)]
struct WaitContext(NonNull<c_void>);

impl WaitContext {
    fn current() -> Option<Self> {
        let job = ASYNC_get_current_job();
        if job.is_null() {
            return None;
        }
        // SAFETY: the job is the one that runs now.
        NonNull::new(unsafe { ASYNC_get_wait_ctx(job) }).map(Self)
    }

    /// Gives it a call to wait for; what belongs to it comes back, which it is given when it is first asked, and the turn of
    /// the call. The call comes back if it cannot be waited for here.
    fn wait_for(self, call: Call) -> Result<(*mut Waiting, u64), Option<Call>> {
        let (context, mut descriptor, mut data) = (self.0.as_ptr(), 0, ptr::null_mut());
        // SAFETY: ASYNC_WAIT_CTX_new(3): the key is compared and never followed, and both places may be written.
        let known = unsafe { ASYNC_WAIT_CTX_get_fd(context, key(), &raw mut descriptor, &raw mut data) };
        if known != 0 {
            let waiting = data.cast::<Waiting>();
            // SAFETY: what was given under our key is ours, lives as long as the wait context, and while the job runs
            // nobody else uses it.
            return unsafe { &mut *waiting }.begin(call).map(|turn| (waiting, turn));
        }
        let Ok(mut waiting) = Waiting::new() else { return Err(Some(call)) };
        let turn = waiting.begin(call)?;
        let descriptor = waiting.epoll.as_raw_fd();
        let waiting = Box::into_raw(Box::new(waiting));
        // SAFETY: ASYNC_WAIT_CTX_new(3): the key is compared and never followed. The data belongs to the
        // cleanup from here on.
        let taken = unsafe {
            ASYNC_WAIT_CTX_set_wait_fd(self.0.as_ptr(), key(), descriptor, waiting.cast(), Some(free_waiting))
        };
        if taken == 0 {
            // SAFETY: it came from `into_raw` above, and the wait context did not take it.
            let mut waiting = *unsafe { Box::from_raw(waiting) };
            waiting.unwatch();
            return Err(waiting.end());
        }
        Ok((waiting, turn))
    }
}

/// The host frees a wait context, with or without a call that is under way.
unsafe extern "C" fn free_waiting(
    _context: *mut c_void,
    _key: *const c_void,
    _descriptor: c_int,
    data: *mut c_void,
) {
    crate::error::panic_boundary(|| {
        // SAFETY: the data is what the wait context was given with this function, and it calls it once.
        drop(unsafe { Box::from_raw(data.cast::<Waiting>()) });
        Ok(())
    });
}

/// What tells our descriptor from those of others in a wait context: an address of ours.
fn key() -> *const c_void {
    static KEY: u8 = 0;
    (&raw const KEY).cast()
}

/// A descriptor that becomes readable at the deadline; none if the system has none left.
fn timer(deadline: Instant) -> Option<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
    let timer = above_standard_streams(timer.ok()?).ok()?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Itimerspec { it_interval: zero, it_value: Timespec::try_from(left).ok()? };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value).ok()?;
    Some(timer)
}

/// How long we wait ourselves after a pause that brought nothing.
const SPIN: Duration = Duration::from_millis(1);

type Cleanup = unsafe extern "C" fn(*mut c_void, *const c_void, c_int, *mut c_void);

// From openssl/async.h, unchanged since 3.0; see ASYNC_start_job(3) and ASYNC_WAIT_CTX_new(3). The two safe
// functions take no argument and may be called at any time: outside a job the first one returns null, and the
// second one does nothing.
unsafe extern "C" {
    safe fn ASYNC_get_current_job() -> *mut c_void;
    safe fn ASYNC_pause_job() -> c_int;
    fn ASYNC_get_wait_ctx(job: *mut c_void) -> *mut c_void;
    fn ASYNC_WAIT_CTX_get_fd(
        context: *mut c_void,
        key: *const c_void,
        descriptor: *mut c_int,
        data: *mut *mut c_void,
    ) -> c_int;
    fn ASYNC_WAIT_CTX_set_wait_fd(
        context: *mut c_void,
        key: *const c_void,
        descriptor: c_int,
        data: *mut c_void,
        cleanup: Option<Cleanup>,
    ) -> c_int;
}
