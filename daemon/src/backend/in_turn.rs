//! Blocking work of a request, on another thread, in fair turns of the users.

use core::time::Duration;
use std::time::Instant;

use super::{BackendError, Context};
use crate::ground::fair::{Full, GatePermit};
use crate::ground::long_work::LongWork;

/// Does blocking work on another thread when it is the turn of the user. `cost` is an estimate of
/// the time of the work. Sets the times of the wait and of the work in `context`.
///
/// # Errors
/// [`BackendError`] if the work has not begun before the deadline, if too many requests wait, or if
/// the work fails.
pub(super) async fn in_turn<T, E>(
    long_work: &LongWork,
    cost: Duration,
    context: &mut Context,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, BackendError>
where
    T: Send + 'static,
    BackendError: From<E>,
{
    let begin = Instant::now();
    let turn = tokio::time::timeout_at(context.deadline.into(), long_work.enter(context.user, cost)).await;
    let turn = turn.map_err(|_| BackendError::Late)?.map_err(|Full| BackendError::Overloaded)?;
    context.times.queue = begin.elapsed();
    let deadline = context.deadline;
    let timed = move |permit: &mut GatePermit| {
        let begin = Instant::now();
        if begin >= deadline {
            permit.charge(Duration::ZERO);
            return Err(BackendError::Late);
        }
        let done = work();
        let took = begin.elapsed();
        permit.charge(took);
        Ok((done?, took))
    };
    let (done, took) = turn.work(timed).await.ok_or(BackendError::GivenUp)??;
    context.times.unit = took;
    Ok(done)
}
