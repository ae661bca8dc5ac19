//! Waiting for a signature: where we are, or out of the way of a runtime.

use keyward_client::Call;
use keyward_proto::message::response;

use crate::{Daemon, RequestError};

/// What signatures of a key took last, as far as it matters.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    #[cfg(feature = "tokio")]
    is_slow: core::sync::atomic::AtomicBool,
}

/// Waits for the answer to a call.
#[cfg(not(feature = "tokio"))]
pub(crate) fn finish(daemon: &Daemon, _: &Pace, call: Call) -> Result<response::Body, RequestError> {
    daemon.client.finish(call)
}

/// Waits for the answer to a call. Where it is slow and the thread belongs to a runtime that can do without it, the other
/// tasks of the thread go on meanwhile.
///
/// A thread that is given back costs some 20 us, more than a fast unit takes to sign: so where the signature before was not
/// slow, this one is waited for here at first.
#[cfg(feature = "tokio")]
pub(crate) fn finish(daemon: &Daemon, pace: &Pace, mut call: Call) -> Result<response::Body, RequestError> {
    use core::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    if !crate::tokio::is_on_worker() {
        return daemon.client.finish(call);
    }
    let began = Instant::now();
    let answer = if pace.is_slow.load(Relaxed) {
        ::tokio::task::block_in_place(|| daemon.client.finish(call))
    } else {
        match daemon.client.finish_soon(&mut call, HERE) {
            Ok(None) => ::tokio::task::block_in_place(|| daemon.client.finish(call)),
            Ok(Some(answer)) => Ok(answer),
            Err(error) => Err(error),
        }
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
