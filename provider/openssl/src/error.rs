//! One error, the OpenSSL error queue, and the fence that no panic crosses.

use core::ffi::{CStr, c_char, c_int, c_ulong};
use core::panic::Location;
use core::ptr;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// Runs the body of an entry point. An error goes to the OpenSSL error queue of this thread, and the entry
/// point returns what stands for failure. A panic ends here.
pub(crate) fn fence<R: Failure>(body: impl FnOnce() -> Result<R, Error>) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            error.push();
            R::FAILURE
        }
        Err(panic) => {
            // Dropping the payload could panic in turn, outside of any fence.
            core::mem::forget(panic);
            Error::new(Reason::Internal, "fault in the provider; please report it").push();
            R::FAILURE
        }
    }
}

/// A type that entry points return, with the value by which OpenSSL knows a failure.
pub(crate) trait Failure {
    const FAILURE: Self;
}

impl Failure for c_int {
    const FAILURE: Self = 0;
}

impl Failure for () {
    const FAILURE: Self = ();
}

impl<T> Failure for Option<T> {
    const FAILURE: Self = None;
}

impl<T> Failure for *const T {
    const FAILURE: Self = ptr::null();
}

/// Why an entry point fails.
#[derive(Debug)]
pub(crate) struct Error {
    /// `None`: OpenSSL asked a question of which "no" is an ordinary answer; nothing is queued.
    report: Option<Report>,
}

#[derive(Debug)]
struct Report {
    reason: Reason,
    text: String,
    location: &'static Location<'static>,
}

impl Error {
    /// An error for the queue. The text is for the person who reads the log of the server.
    #[track_caller]
    pub(crate) fn new(reason: Reason, text: impl core::fmt::Display) -> Self {
        let report = Report { reason, text: format!("keyward: {text}"), location: Location::caller() };
        Self { report: Some(report) }
    }

    /// A "no" that is no fault.
    pub(crate) const fn silent() -> Self {
        Self { report: None }
    }

    /// A pointer that must not be null is.
    #[track_caller]
    pub(crate) fn null() -> Self {
        Self::new(Reason::Internal, "the program passed a null pointer where the provider needs an object")
    }

    fn push(&self) {
        let Some(Report { reason, text, location }) = &self.report else { return };
        let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
        let file = CString::new(location.file()).unwrap_or_default();
        let line = c_int::try_from(location.line()).unwrap_or_default();
        // SAFETY: ERR_new(3) takes no arguments and may be called at any time.
        unsafe { openssl_sys::ERR_new() };
        // SAFETY: ERR_set_debug(3): both texts are NUL-terminated and copied.
        unsafe { openssl_sys::ERR_set_debug(file.as_ptr(), line, c"".as_ptr()) };
        // SAFETY: ERR_set_error(3): the format takes one string, and both are NUL-terminated and copied.
        unsafe { openssl_sys::ERR_set_error(library(), *reason as c_int, c"%s".as_ptr(), text.as_ptr()) };
    }
}

/// What went wrong, in the fixed words that OpenSSL prints beside the text of an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(i32)]
pub(crate) enum Reason {
    Configuration = 100,
    Internal = 101,
    NotSupported = 102,
    Reference = 103,
    Refused = 104,
    Unavailable = 105,
}

impl Reason {
    const ALL: [(Self, &CStr); 6] = [
        (Self::Configuration, c"bad provider configuration"),
        (Self::Internal, c"internal error"),
        (Self::NotSupported, c"not supported"),
        (Self::Reference, c"bad key reference"),
        (Self::Refused, c"refused by the daemon"),
        (Self::Unavailable, c"daemon unavailable"),
    ];
}

/// The number under which our errors are queued, with our words registered on first use.
fn library() -> c_int {
    static LIBRARY: OnceLock<c_int> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        // SAFETY: ERR_get_next_error_library(3) takes no arguments and may be called at any time.
        let library = unsafe { openssl_sys::ERR_get_next_error_library() };
        // Number 0 of a library is its name.
        let name = core::iter::once((0, c"keyward"));
        let words = Reason::ALL.iter().map(|(reason, words)| (*reason as c_int, *words));
        let mut strings: Vec<_> =
            name.chain(words).map(|(number, words)| entry(library, number, words)).collect();
        strings.push(openssl_sys::ERR_STRING_DATA { error: 0, string: ptr::null::<c_char>() });
        // SAFETY: ERR_load_strings(3) keeps pointers to the entries, so they are leaked, once in a process.
        unsafe { openssl_sys::ERR_load_strings(library, strings.leak().as_mut_ptr()) };
        library
    })
}

/// Number and words of one reason, packed as ERR_PACK in `openssl/err.h` does it.
fn entry(library: c_int, reason: c_int, words: &'static CStr) -> openssl_sys::ERR_STRING_DATA {
    let packed = (library & 0xff) << 23 | (reason & 0x7f_ffff);
    openssl_sys::ERR_STRING_DATA { error: c_ulong::from(packed.unsigned_abs()), string: words.as_ptr() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_and_an_error_become_failures_with_a_text() {
        assert_eq!(fence::<c_int>(|| panic!("as a test")), 0);
        assert_eq!(fence::<c_int>(|| Err(Error::new(Reason::Refused, "key \"shop\" refused: \0"))), 0);
        assert_eq!(fence(|| Ok(7)), 7);
        let mut texts = Vec::new();
        loop {
            let (mut data, mut flags) = (ptr::null(), 0);
            // SAFETY: ERR_get_error_all(3) accepts null for what is not wanted.
            let code = unsafe {
                openssl_sys::ERR_get_error_all(
                    ptr::null_mut(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    &raw mut data,
                    &raw mut flags,
                )
            };
            if code == 0 {
                break;
            }
            // SAFETY: the queue hands out a NUL-terminated text that lives until the next error call.
            texts.push(unsafe { CStr::from_ptr(data) }.to_string_lossy().into_owned());
        }
        assert_eq!(
            texts,
            ["keyward: fault in the provider; please report it", "keyward: key \"shop\" refused: ?"]
        );
    }
}
