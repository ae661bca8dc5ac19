//! Expected panics of a library. The caller turns a caught panic into an error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::thread;

/// Runs `f`, and catches its panic. A panic writes a log line at level debug only: the usual
/// message and backtrace on standard error would mislead the reader.
///
/// # Errors
/// The payload of the panic of `f`.
pub fn caught<T>(f: impl FnOnce() -> T) -> thread::Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default_hook = panic::take_hook();
        panic::set_hook(Box::new(move |info| match IS_EXPECTED.get() {
            true => tracing::debug!("a library panicked: {info}"),
            false => default_hook(info),
        }));
    });
    let before = IS_EXPECTED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    IS_EXPECTED.set(before);
    result
}

thread_local! {
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_expected_inside_caught_only() {
        let inner = caught(|| caught(|| -> () { panic!("as a test") }).is_err() && IS_EXPECTED.get());
        assert!(inner.unwrap());
        assert!(!IS_EXPECTED.get());
        assert_eq!(caught(|| 7).unwrap(), 7);
    }
}
