//! Waiting for the daemon while the host does other work: ASYNC_start_job(3).
//!
//! Some hosts run handshakes in asynchronous jobs: HAProxy with `ssl-mode-async`, and
//! `s_server -async`. During a request the job pauses and the host gets control back. The host
//! watches a descriptor until there may be an answer. Outside a job, or if the host forbids pauses,
//! the calling thread waits.
//!
//! The descriptor is an epoll(7) of ours. Each wait context has one, and so has each TLS
//! connection. During a request the epoll holds the connection to the daemon and a timer, otherwise
//! nothing. The epoll stays open until the host frees the wait context, because hosts keep tables
//! by descriptor. HAProxy checks only now and then which descriptors came or went, and aborts if a
//! new descriptor has a number that is still in its table.
//!
//! A job may never be resumed: the host may close the connection during a pause. Then the stack of
//! the job is lost and no destructor runs. So this module keeps only a plain pointer on the stack
//! across a pause, and the wait context owns everything else. (Tools that sign a message in parts,
//! or a digest, have a copy of the message or digest on the stack. TLS does not.)

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process;
use std::time::Instant;

use keyward_client::{Answer, Call, Error as ClientError, Premaster, Progress, Signature};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

/// Reason why there is no answer.
pub(crate) enum Error {
    Client(ClientError),
    /// The host ran another job with the same wait context before it resumed this job. The call of
    /// this job is gone, and the answer may belong to the other job.
    Shared,
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

/// Waits for the answer to a call: in a job by pauses, otherwise by blocking.
pub(crate) fn finish<T: Parked>(call: Call<T>) -> Result<T, Error> {
    let Some(context) = WaitContext::current() else { return Ok(call.finish()?) };
    let call = match call.poll()? {
        Progress::Ready(answer) => return Ok(answer),
        Progress::Pending(call) => call,
    };
    // Only now, when there is something to wait for: a host learns of descriptors when a job
    // pauses, and HAProxy aborts over a descriptor that it does not know.
    match context.wait_for(T::park(call)) {
        // SAFETY: `wait_for` returned the data of the wait context of the job that runs.
        Ok((waiting, turn)) => unsafe { finish_in_job(waiting, turn) },
        Err(call) => finish_here(call),
    }
}

/// Waits for the answer to a call that cannot be waited for in a job.
fn finish_here<T: Parked>(call: Option<AnyCall>) -> Result<T, Error> {
    Ok(call.and_then(T::unpark).ok_or(Error::Shared)?.finish()?)
}

/// Pauses until the call that `waiting` was given in this turn is answered.
///
/// # Safety
/// `waiting` belongs to the wait context of the job that runs. The wait context outlives the job,
/// and nobody else uses `waiting` while the job runs.
unsafe fn finish_in_job<T: Parked>(waiting: *mut Waiting, turn: u64) -> Result<T, Error> {
    loop {
        // The job may never be resumed. So the stack owns, borrows and locks nothing of ours here.
        ASYNC_pause_job();
        // SAFETY: the caller vouches that `waiting` lives, and that nobody else uses it while the
        // job runs.
        let now = unsafe { &mut *waiting };
        if now.turn != turn {
            return Err(Error::Shared);
        }
        now.unwatch();
        let call = now.call.take().and_then(T::unpark).ok_or(Error::Shared)?;
        // The host resumed without a look at the descriptor, or it forbids pauses. A short wait
        // keeps this loop from using the processor. `poll` reports an error of the wait.
        let _ = call.wait(SPIN);
        match call.poll() {
            Ok(Progress::Pending(call)) => now.call = Some(T::park(call)),
            Ok(Progress::Ready(answer)) => {
                now.end();
                return Ok(answer);
            }
            Err(error) => {
                now.end();
                return Err(error.into());
            }
        }
        if !now.watch() {
            break;
        }
    }
    // SAFETY: the job has run since the last pause, so what the caller vouches for still holds.
    finish_here(unsafe { &mut *waiting }.end())
}

/// A call that a wait context keeps while its job is paused, whatever its answer.
pub(crate) enum AnyCall {
    Signature(Call<Signature>),
    Premaster(Call<Premaster>),
}

impl AnyCall {
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Signature(call) => call.descriptor(),
            Self::Premaster(call) => call.descriptor(),
        }
    }

    fn deadline(&self) -> Instant {
        match self {
            Self::Signature(call) => call.deadline(),
            Self::Premaster(call) => call.deadline(),
        }
    }
}

/// An answer that a job can wait for.
pub(crate) trait Parked: Answer {
    fn park(call: Call<Self>) -> AnyCall;
    /// Takes the call out again; `None` if it is of another kind.
    fn unpark(call: AnyCall) -> Option<Call<Self>>;
}

impl Parked for Signature {
    fn park(call: Call<Self>) -> AnyCall {
        AnyCall::Signature(call)
    }

    fn unpark(call: AnyCall) -> Option<Call<Self>> {
        match call {
            AnyCall::Signature(call) => Some(call),
            AnyCall::Premaster(_) => None,
        }
    }
}

impl Parked for Premaster {
    fn park(call: Call<Self>) -> AnyCall {
        AnyCall::Premaster(call)
    }

    fn unpark(call: AnyCall) -> Option<Call<Self>> {
        match call {
            AnyCall::Premaster(call) => Some(call),
            AnyCall::Signature(_) => None,
        }
    }
}

/// Data of a wait context: the descriptor for the host, and the current call if there is one.
struct Waiting {
    /// The process that made the epoll. A child shares the epoll with its parent, so the child must
    /// not change it.
    owner: u32,
    epoll: OwnedFd,
    call: Option<AnyCall>,
    /// Number of calls so far. A job compares it to see whether the current call is still its own.
    turn: u64,
    /// Wakes the host at the deadline of the call if the daemon does not answer before.
    timer: Option<OwnedFd>,
    /// True if the connection of the call is in the epoll.
    watched: bool,
}

impl Waiting {
    fn new() -> Result<Self, Errno> {
        let epoll = above_standard_streams(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Self { owner: process::id(), epoll, call: None, turn: 0, timer: None, watched: false })
    }

    /// Begins to watch for the answer to a call. Returns the turn of the call; returns the call if
    /// it cannot be watched.
    #[expect(clippy::result_large_err, reason = "the call comes back")]
    fn begin(&mut self, call: AnyCall) -> Result<u64, Option<AnyCall>> {
        // A host may use a wait context again after it gave up a job.
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

    /// Lets the descriptor wake the host when there may be an answer, or at the deadline. Returns
    /// whether the host will be woken.
    fn watch(&mut self) -> bool {
        if self.owner != process::id() {
            return false;
        }
        let Some(call) = &self.call else { return false };
        let connection = call.descriptor();
        if self.timer.is_none() {
            // Without a timer, the host would wait forever if the daemon is stuck.
            self.timer = timer(call.deadline()).filter(|timer| self.add(timer.as_fd()).is_ok());
        }
        self.watched = self.timer.is_some() && self.add(connection).is_ok();
        self.watched
    }

    /// Removes the connection from the epoll. This is necessary before each use of the connection,
    /// which may close the connection or give it to another call.
    fn unwatch(&mut self) {
        let connection = self.call.as_ref().map(AnyCall::descriptor);
        if let Some(connection) = connection.filter(|_| self.watched && self.owner == process::id()) {
            // This cannot fail: the connection is in the epoll.
            let _ = epoll::delete(&self.epoll, connection);
        }
        self.watched = false;
    }

    /// Ends the wait. Returns the call if it is not answered yet.
    fn end(&mut self) -> Option<AnyCall> {
        self.timer = None;
        self.call.take()
    }

    fn add(&self, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, descriptor, EventData::new_u64(0), EventFlags::IN)
    }
}

/// The wait context of the asynchronous job that runs now (ASYNC_WAIT_CTX_new(3)).
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

    /// Attaches `call` to this wait context, and creates the data of the context on first use.
    /// Returns the data and the turn of the call; returns the call if it cannot be attached.
    #[expect(clippy::result_large_err, reason = "the call comes back")]
    fn wait_for(self, call: AnyCall) -> Result<(*mut Waiting, u64), Option<AnyCall>> {
        let (context, mut descriptor, mut data) = (self.0.as_ptr(), 0, ptr::null_mut());
        // SAFETY: ASYNC_WAIT_CTX_new(3): the key is compared and never dereferenced, and both
        // places may be written.
        let known = unsafe { ASYNC_WAIT_CTX_get_fd(context, key(), &raw mut descriptor, &raw mut data) };
        if known != 0 {
            let waiting = data.cast::<Waiting>();
            // SAFETY: the data under our key is ours and lives as long as the wait context. Nobody
            // else uses the data while the job runs.
            return unsafe { &mut *waiting }.begin(call).map(|turn| (waiting, turn));
        }
        let Ok(mut waiting) = Waiting::new() else { return Err(Some(call)) };
        let turn = waiting.begin(call)?;
        let descriptor = waiting.epoll.as_raw_fd();
        let waiting = Box::into_raw(Box::new(waiting));
        // SAFETY: ASYNC_WAIT_CTX_new(3): the key is compared and never dereferenced. From now on
        // the data belongs to the cleanup.
        let taken = unsafe {
            ASYNC_WAIT_CTX_set_wait_fd(self.0.as_ptr(), key(), descriptor, waiting.cast(), Some(free_waiting))
        };
        if taken == 0 {
            // SAFETY: the pointer came from `into_raw` above, and the wait context did not take it.
            let mut waiting = *unsafe { Box::from_raw(waiting) };
            waiting.unwatch();
            return Err(waiting.end());
        }
        Ok((waiting, turn))
    }
}

/// Cleanup for a wait context that the host frees, with or without a current call.
unsafe extern "C" fn free_waiting(
    _context: *mut c_void,
    _key: *const c_void,
    _descriptor: c_int,
    data: *mut c_void,
) {
    crate::error::panic_boundary(|| {
        // SAFETY: the wait context got the data together with this function, and calls the function
        // once.
        drop(unsafe { Box::from_raw(data.cast::<Waiting>()) });
        Ok(())
    });
}

/// The key of our descriptor in a wait context: an address of ours, which nobody else uses.
fn key() -> *const c_void {
    static KEY: u8 = 0;
    (&raw const KEY).cast()
}

/// A descriptor that becomes readable at the deadline; `None` if the system has no descriptor left.
fn timer(deadline: Instant) -> Option<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK);
    let timer = above_standard_streams(timer.ok()?).ok()?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Itimerspec { it_interval: zero, it_value: Timespec::try_from(left).ok()? };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value).ok()?;
    Some(timer)
}

/// Moves the descriptor above 2, so that it never takes the place of a closed stdin, stdout or
/// stderr of the host.
fn above_standard_streams(descriptor: OwnedFd) -> Result<OwnedFd, Errno> {
    if descriptor.as_raw_fd() > 2 { Ok(descriptor) } else { fcntl_dupfd_cloexec(&descriptor, 3) }
}

/// Time to wait here after a pause without an answer.
const SPIN: Duration = Duration::from_millis(1);

type Cleanup = unsafe extern "C" fn(*mut c_void, *const c_void, c_int, *mut c_void);

// From openssl/async.h, unchanged since 3.0; see ASYNC_start_job(3) and ASYNC_WAIT_CTX_new(3). The
// two safe functions take no argument and may be called at any time: outside a job the first one
// returns null, and the second one does nothing.
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
