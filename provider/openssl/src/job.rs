//! Waiting for the daemon without keeping the host from other work: ASYNC_start_job(3).
//!
//! A host that runs its handshakes in asynchronous jobs (HAProxy with `ssl-mode-async`, `s_server -async`) gets control back
//! while a request is under way: the job pauses, and the host watches the descriptors that we name until there may be
//! an answer. Outside a job, or where pausing is blocked, we wait where we are.
//!
//! A job may never be resumed, when its connection is torn down meanwhile: what lies on its stack is lost then, and
//! no destructor runs. So across a pause the stack holds a plain pointer and nothing that owns anything; the call is on
//! the heap, and whoever comes first frees it: we at its end, or the host with the wait context.

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use core::time::Duration;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use keyward_client::{Call, Client, Error};
use keyward_proto::message::response;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use rustix::time::{timerfd_create, timerfd_settime};

/// Waits for the answer to a call, as the host would have it.
pub(crate) fn finish(client: &Client, call: Call) -> Result<response::Body, Error> {
    match WaitContext::current() {
        Some(context) => finish_in(context, client, call),
        None => client.finish(call),
    }
}

/// The wait context of the asynchronous job that we run in (ASYNC_WAIT_CTX_new(3)).
#[derive(Clone, Copy)]
struct WaitContext(NonNull<c_void>);

/// A call across pauses.
struct Paused {
    call: Call,
    /// Wakes the host at the deadline, where the daemon does not.
    timer: Option<OwnedFd>,
    /// What the host watches for the call.
    watched: Option<RawFd>,
}

fn finish_in(context: WaitContext, client: &Client, call: Call) -> Result<response::Body, Error> {
    let timer = timer(call.deadline());
    let paused = Box::into_raw(Box::new(Paused { call, timer, watched: None }));
    loop {
        // SAFETY: `paused` is ours until it is freed: here below, or by the host, which then never comes back to this stack.
        let now = unsafe { &mut *paused };
        let answer = client.answer(&mut now.call).transpose();
        if answer.is_some() || !now.is_watched(context, paused) {
            now.forget(context, paused);
            // SAFETY: it came from `into_raw` above, and the host knows nothing of it any more.
            let Paused { call, .. } = *unsafe { Box::from_raw(paused) };
            return answer.unwrap_or_else(|| client.finish(call));
        }
        // SAFETY: ASYNC_pause_job(3) takes nothing; nothing of ours is borrowed or locked across it.
        unsafe { ASYNC_pause_job() };
        // SAFETY: as above.
        let now = unsafe { &mut *paused };
        // A host that resumes without looking, or pausing is blocked: it must not go round and round.
        // What goes wrong is told with the answer.
        let _ = client.wait(&now.call, SPIN);
    }
}

impl WaitContext {
    fn current() -> Option<Self> {
        // SAFETY: ASYNC_get_current_job(3) takes nothing, and answers null outside a job.
        let job = unsafe { ASYNC_get_current_job() };
        if job.is_null() {
            return None;
        }
        // SAFETY: the job is the one that runs now.
        NonNull::new(unsafe { ASYNC_get_wait_ctx(job) }).map(Self)
    }

    fn watch(
        self,
        key: *const c_void,
        descriptor: RawFd,
        data: *mut c_void,
        cleanup: Option<Cleanup>,
    ) -> bool {
        // SAFETY: ASYNC_WAIT_CTX_new(3): the key is compared and never followed; the data belongs to the cleanup.
        unsafe { ASYNC_WAIT_CTX_set_wait_fd(self.0.as_ptr(), key, descriptor, data, cleanup) != 0 }
    }

    fn forget(self, key: *const c_void) {
        // SAFETY: ASYNC_WAIT_CTX_new(3): a key that is not there is an error and no harm.
        unsafe { ASYNC_WAIT_CTX_clear_fd(self.0.as_ptr(), key) };
    }
}

impl Paused {
    /// Has the host watch the descriptors of the call, unless it does. Returns whether it will.
    fn is_watched(&mut self, context: WaitContext, this: *mut Self) -> bool {
        let Some(descriptor) = self.call.descriptor().map(|descriptor| descriptor.as_raw_fd()) else {
            return false;
        };
        if self.watched == Some(descriptor) {
            return true;
        }
        self.forget(context, this);
        // Only one of the two has the cleanup, which frees both.
        let watched = context.watch(this.cast(), descriptor, this.cast(), Some(abandoned));
        self.watched = watched.then_some(descriptor);
        if let Some(timer) = self.timer.as_ref().filter(|_| watched) {
            context.watch(timer_key(this), timer.as_raw_fd(), ptr::null_mut(), None);
        }
        watched
    }

    fn forget(&mut self, context: WaitContext, this: *mut Self) {
        if self.watched.take().is_some() {
            context.forget(this.cast());
            if self.timer.is_some() {
                context.forget(timer_key(this));
            }
        }
    }
}

/// The host frees the wait context of a job that it will not resume.
unsafe extern "C" fn abandoned(
    _context: *mut c_void,
    _key: *const c_void,
    _descriptor: c_int,
    data: *mut c_void,
) {
    crate::error::fence(|| {
        // SAFETY: the data is the `Paused` of a job that never comes back to it, and this is called once.
        drop(unsafe { Box::from_raw(data.cast::<Paused>()) });
        Ok(())
    });
}

/// A key beside that of the call: an address within the same object.
fn timer_key(this: *mut Paused) -> *const c_void {
    this.cast::<u8>().wrapping_add(1).cast::<c_void>().cast_const()
}

/// A descriptor that becomes readable at the deadline; none if the system has none left, and the daemon's own deadline
/// must do.
fn timer(deadline: Instant) -> Option<OwnedFd> {
    let timer =
        timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).ok()?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Itimerspec { it_interval: zero, it_value: Timespec::try_from(left).ok()? };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value).ok()?;
    Some(timer)
}

/// How long we wait ourselves after a pause that brought nothing.
const SPIN: Duration = Duration::from_millis(1);

type Cleanup = unsafe extern "C" fn(*mut c_void, *const c_void, c_int, *mut c_void);

// From openssl/async.h, the same from 3.0 on; see ASYNC_start_job(3) and ASYNC_WAIT_CTX_new(3).
unsafe extern "C" {
    fn ASYNC_get_current_job() -> *mut c_void;
    fn ASYNC_get_wait_ctx(job: *mut c_void) -> *mut c_void;
    fn ASYNC_pause_job() -> c_int;
    fn ASYNC_WAIT_CTX_set_wait_fd(
        context: *mut c_void,
        key: *const c_void,
        descriptor: c_int,
        data: *mut c_void,
        cleanup: Option<Cleanup>,
    ) -> c_int;
    fn ASYNC_WAIT_CTX_clear_fd(context: *mut c_void, key: *const c_void) -> c_int;
}
