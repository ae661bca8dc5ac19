//! Patience with another process that is ending.
//!
//! A daemon whose starter was killed with SIGKILL ends some milliseconds later, and a supervisor
//! may have started the next daemon by then.

use core::time::Duration;
use std::thread;
use std::time::Instant;

/// Repeats an attempt for up to two seconds while another process uses what the attempt needs.
///
/// # Errors
/// The last error of the attempt.
pub fn retried<T, E>(
    mut attempt: impl FnMut() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error) if is_in_use(&error) && Instant::now() < deadline => thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// The kernel frees the memory of a process before it closes its files.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_error_of_use_is_tried_again() {
        let attempts = |results: &[Result<(), bool>]| {
            let mut results = results.iter();
            let result = retried(|| *results.next().unwrap(), |is_in_use| *is_in_use);
            (result, results.len())
        };
        assert_eq!(attempts(&[Err(true), Err(true), Ok(()), Ok(())]), (Ok(()), 1));
        assert_eq!(attempts(&[Err(true), Err(false), Ok(())]), (Err(false), 1));
        let began = Instant::now();
        assert_eq!(retried(|| Err::<(), _>(1), |_| true), Err(1));
        assert!(began.elapsed() >= PATIENCE);
    }
}
