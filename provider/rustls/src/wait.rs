//! Waiting for a signature: on this thread, or with the thread given back to its runtime.

use keyward_client::{Call, Signature};

use crate::RequestError;

/// Time of the last signature by a key, to predict the next one.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    #[cfg(feature = "tokio")]
    is_slow: core::sync::atomic::AtomicBool,
}

/// Starts a call and waits for its answer.
#[cfg(not(feature = "tokio"))]
pub(crate) fn answer(
    _: &Pace,
    start: impl FnOnce() -> Result<Call<Signature>, RequestError>,
) -> Result<Signature, RequestError> {
    start()?.finish()
}

/// Starts a call and waits for its answer. During a slow signature, the thread is given back to its
/// runtime if the runtime allows that, so the other tasks of the thread continue.
///
/// Giving a thread back costs some 20 us, more than the signature of a fast unit. So this thread
/// waits first, unless the previous signature was slow.
#[cfg(feature = "tokio")]
pub(crate) fn answer(
    pace: &Pace,
    start: impl FnOnce() -> Result<Call<Signature>, RequestError>,
) -> Result<Signature, RequestError> {
    use core::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    use keyward_client::Progress;
    use tokio::task::block_in_place;

    if !crate::handshake::is_on_worker() {
        return start()?.finish();
    }
    let began = Instant::now();
    let answer = if pace.is_slow.load(Relaxed) {
        block_in_place(|| start()?.finish())
    } else {
        start().and_then(|call| match call.finish_within(HERE)? {
            Progress::Ready(signature) => Ok(signature),
            Progress::Pending(call) => block_in_place(|| call.finish()),
        })
    };
    let is_slow = began.elapsed() > SLOW;
    // Written only when the value changes, because all threads that sign read it.
    if pace.is_slow.load(Relaxed) != is_slow {
        pace.is_slow.store(is_slow, Relaxed);
    }
    answer
}

/// Time from which a signature counts as slow.
#[cfg(feature = "tokio")]
const SLOW: core::time::Duration = core::time::Duration::from_millis(2);

/// Time that this thread waits before it is given back.
///
/// Longer than a tick of the kernel, which is 4 ms on most machines. For a shorter wait, the kernel
/// sets the timer of the processor and sets it back for each signature: more than 5 us on a virtual
/// machine.
#[cfg(feature = "tokio")]
const HERE: core::time::Duration = core::time::Duration::from_millis(5);
