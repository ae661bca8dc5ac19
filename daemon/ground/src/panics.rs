//! Panics of a library that are expected, caught, and told in our own words.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

/// Runs something that may panic, and says nothing of that but a line at level debug: no message
/// and no backtrace on standard error, which would send the reader to the wrong place.
///
/// # Errors
/// It panicked.
pub fn caught<T>(f: impl FnOnce() -> T) -> thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| match IS_EXPECTED.get() {
            true => tracing::debug!("a library gave up: {info}"),
            false => loud(info),
        }));
    });
    let before = IS_EXPECTED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(f));
    IS_EXPECTED.set(before);
    done
}

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_where_it_was_said_to_be() {
        let inner = caught(|| caught(|| -> () { panic!("as a test") }).is_err() && IS_EXPECTED.get());
        assert!(inner.unwrap());
        assert!(!IS_EXPECTED.get());
        assert_eq!(caught(|| 7).unwrap(), 7);
    }
}
