//! Waiting for a signature: on this thread, or with the thread given back to its runtime.

use keyward_client::{Call, Signature};

use crate::RequestError;

/// Memory of how long the last signature by a key took.
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

/// Starts a call and waits for its answer. While a slow signature is waited for, the thread is
/// given back to its runtime where the runtime allows that, so the other tasks of the thread go on.
///
/// Giving a thread back costs some 20 us, more than a fast unit takes to sign. So a signature is
/// waited for on this thread at first, unless the previous one was slow.
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

/// Time that a signature is waited for before the thread is given back.
///
/// Longer than a tick of the kernel, which is 4 ms on most machines. For a shorter wait the kernel
/// sets the timer of the processor and sets it back, for each signature: more than 5 us on a
/// virtual machine.
#[cfg(feature = "tokio")]
const HERE: core::time::Duration = core::time::Duration::from_millis(5);
