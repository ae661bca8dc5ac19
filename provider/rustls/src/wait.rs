//! Waiting for a signature: where we are, or out of the way of a runtime.

use keyward_client::{Call, Signature};

use crate::RequestError;

/// What signatures of a key took last, as far as it matters.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    #[cfg(feature = "tokio")]
    is_slow: core::sync::atomic::AtomicBool,
}

/// Makes a call and waits for its answer.
#[cfg(not(feature = "tokio"))]
pub(crate) fn answer(
    _: &Pace,
    start: impl FnOnce() -> Result<Call<Signature>, RequestError>,
) -> Result<Signature, RequestError> {
    start()?.finish()
}

/// Makes a call and waits for its answer. Where it is slow and the thread belongs to a runtime that can do without it, the other
/// tasks of the thread go on meanwhile.
///
/// A thread that is given back costs some 20 us, more than a fast unit takes to sign: so where the signature before was not
/// slow, this one is waited for here at first.
#[cfg(feature = "tokio")]
pub(crate) fn answer(
    pace: &Pace,
    start: impl FnOnce() -> Result<Call<Signature>, RequestError>,
) -> Result<Signature, RequestError> {
    use core::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    use ::tokio::task::block_in_place;
    use keyward_client::Progress;

    if !crate::tokio::is_on_worker() {
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
    // Written only when it changes: all threads that sign read it.
    if pace.is_slow.load(Relaxed) != is_slow {
        pace.is_slow.store(is_slow, Relaxed);
    }
    answer
}

/// What others cannot wait for.
#[cfg(feature = "tokio")]
const SLOW: core::time::Duration = core::time::Duration::from_millis(2);

/// How long a signature is waited for without giving back the thread. Longer than a tick of the kernel, which is 4 ms on most
/// machines: for a time that ends before the next one it sets the timer of the processor, and sets it back, for each
/// signature, which takes more than 5 us on a virtual machine.
#[cfg(feature = "tokio")]
const HERE: core::time::Duration = core::time::Duration::from_millis(5);
