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
/// A thread that is given back costs some 20 us, more than a fast unit takes to sign: so the first 2 ms are waited for
/// here, unless the signature before took longer than that.
#[cfg(feature = "tokio")]
pub(crate) fn finish(daemon: &Daemon, pace: &Pace, mut call: Call) -> Result<response::Body, RequestError> {
    use core::sync::atomic::Ordering::Relaxed;
    use std::time::Instant;

    if !crate::tokio::is_on_worker() {
        return daemon.client.finish(call);
    }
    if !pace.is_slow.load(Relaxed) {
        if let Some(answer) = daemon.client.finish_soon(&mut call, SHORT)? {
            return Ok(answer);
        }
        pace.is_slow.store(true, Relaxed);
    }
    let began = Instant::now();
    let answer = ::tokio::task::block_in_place(|| daemon.client.finish(call));
    if began.elapsed() < SHORT {
        pace.is_slow.store(false, Relaxed);
    }
    answer
}

/// How long others can wait.
#[cfg(feature = "tokio")]
const SHORT: core::time::Duration = core::time::Duration::from_millis(2);
