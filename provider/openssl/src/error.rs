//! The error of every entry point, the OpenSSL error queue, and the panic boundary.

use core::ffi::{CStr, c_char, c_int, c_ulong};
use core::panic::Location;
use core::ptr;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use keyward_proto::Outcome;

use crate::kind::Kind;

/// Runs the body of an entry point. An error goes to the OpenSSL error queue of this thread, and
/// the entry point returns the value that means failure. A panic stops here and becomes an error.
pub(crate) fn panic_boundary<R: Failure>(body: impl FnOnce() -> Result<R, Error>) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            error.push();
            R::FAILURE
        }
        Err(panic) => {
            // To drop the payload could panic again, outside of the panic boundary.
            core::mem::forget(panic);
            Error::new(Reason::Internal, "fault in the provider; please report it").push();
            R::FAILURE
        }
    }
}

/// A type that entry points return, with the value that means failure to OpenSSL.
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

/// Reason why an entry point fails.
#[derive(Debug)]
pub(crate) struct Error {
    /// `None` if OpenSSL asked a question and "no" is an ordinary answer: nothing is queued.
    report: Option<Report>,
}

#[derive(Debug)]
struct Report {
    reason: Reason,
    text: String,
    location: &'static Location<'static>,
}

impl Error {
    /// An error for the queue. A person reads `text` in the log of the server.
    #[track_caller]
    pub(crate) fn new(reason: Reason, text: impl core::fmt::Display) -> Self {
        let report = Report { reason, text: format!("keyward: {text}"), location: Location::caller() };
        Self { report: Some(report) }
    }

    /// The answer "no", which is not a fault.
    pub(crate) const fn silent() -> Self {
        Self { report: None }
    }

    /// The error for a pointer that is null and must not be null.
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
        // SAFETY: ERR_set_error(3): the format takes one string, and both are NUL-terminated and
        // copied.
        unsafe { openssl_sys::ERR_set_error(library(), reason.number(), c"%s".as_ptr(), text.as_ptr()) };
    }
}

/// Reason of an error, with the fixed words that OpenSSL prints beside the text of the error. Many
/// servers log only these words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reason {
    Configuration,
    Internal,
    /// The program asked for the private part of a key.
    KeptPrivate,
    NotSupported,
    Reference,
    Unavailable,
    /// The daemon refused the request with this outcome.
    Refused(Outcome),
    /// Key or grant lacks a use for a request of this kind.
    RefusedKind(Outcome, Kind),
}

impl Reason {
    /// Every reason. The outcomes of the daemon are numbered without gaps.
    fn all() -> impl Iterator<Item = Self> {
        let ours = [
            Self::Configuration,
            Self::Internal,
            Self::KeptPrivate,
            Self::NotSupported,
            Self::Reference,
            Self::Unavailable,
        ];
        let outcomes = (0..).map_while(|number| Outcome::try_from(number).ok());
        let lacking = [Outcome::UseRefused, Outcome::UseNotGranted].into_iter();
        let kinds = lacking.flat_map(|outcome| Kind::ALL.map(|kind| Self::RefusedKind(outcome, kind)));
        ours.into_iter().chain(outcomes.map(Self::Refused)).chain(kinds)
    }

    /// The number of the reason. Numbers stay the same between versions.
    fn number(self) -> c_int {
        match self {
            Self::Configuration => 100,
            Self::Internal => 101,
            Self::NotSupported => 102,
            Self::Reference => 103,
            Self::Unavailable => 105,
            Self::KeptPrivate => 106,
            Self::Refused(outcome) => 200 + outcome as c_int,
            Self::RefusedKind(outcome, kind) => 1000 + 20 * outcome as c_int + kind as c_int,
        }
    }

    fn words(self) -> &'static CStr {
        match self {
            Self::Configuration => c"bad provider configuration",
            Self::Internal => c"internal error",
            Self::KeptPrivate => c"private key does not leave the daemon",
            Self::NotSupported => c"not supported",
            Self::Reference => c"bad key reference",
            Self::Unavailable => c"daemon unavailable",
            Self::RefusedKind(Outcome::UseNotGranted, kind) => match kind {
                Kind::Certificate => c"grant does not include to sign certificates",
                Kind::CertificateRequest => c"grant lacks the use csr",
                Kind::ClientHandshake => c"grant lacks the use tls-client",
                Kind::Digest => c"grant does not include to sign digests",
                Kind::KeyExchange => c"grant lacks the use rsa-key-exchange",
            },
            Self::RefusedKind(_, kind) => match kind {
                Kind::Certificate => c"key is not for signing certificates",
                Kind::CertificateRequest => c"key lacks the use csr",
                Kind::ClientHandshake => c"key lacks the use tls-client",
                Kind::Digest => c"key is not for signing digests",
                Kind::KeyExchange => c"key lacks the use rsa-key-exchange",
            },
            Self::Refused(outcome) => match outcome {
                Outcome::Unspecified | Outcome::Done => c"refused by the daemon",
                Outcome::Malformed => c"request not understood by the daemon",
                Outcome::NotSupported => c"operation not supported by the daemon",
                Outcome::NoGrant => c"no grant for this user and key",
                Outcome::UnknownKey => c"no such key",
                Outcome::UnknownVersion => c"no such version of the key",
                Outcome::KeyDisabled => c"key disabled",
                Outcome::UseRefused => c"key lacks a use for this",
                Outcome::UseNotGranted => c"grant lacks a use for this",
                Outcome::OtherMasterKey => c"key wrapped by another master key",
                Outcome::BlobDamaged => c"stored key damaged",
                Outcome::DeadlineExceeded => c"no answer in time",
                Outcome::Overloaded => c"daemon overloaded",
                Outcome::UnitUnavailable => c"crypto unit unavailable",
                Outcome::Internal => c"daemon failed",
                Outcome::NoDowngradeSentinel => c"TLS 1.3 not offered; needs use tls12-server",
                Outcome::DheRefused => c"DHE needs use tls12-dhe-server",
                Outcome::OtherDhGroup => c"unknown DH group; take ffdhe2048",
                Outcome::OtherPublicKey => c"reference is for another key of this label",
                Outcome::NotRecorded => c"daemon cannot write its audit trail",
                Outcome::UnitSealed => c"the unit is sealed",
            },
        }
    }
}

/// True if the error queue of this thread holds an error.
pub(crate) fn any_queued() -> bool {
    // SAFETY: ERR_peek_last_error(3) takes no arguments and may be called at any time.
    unsafe { openssl_sys::ERR_peek_last_error() != 0 }
}

/// The library number of our errors. Registers our words on first use.
fn library() -> c_int {
    static LIBRARY: OnceLock<c_int> = OnceLock::new();
    *LIBRARY.get_or_init(|| {
        // SAFETY: ERR_get_next_error_library(3) takes no arguments and may be called at any time.
        let library = unsafe { openssl_sys::ERR_get_next_error_library() };
        // Number 0 of a library is its name.
        let name = core::iter::once((0, c"keyward"));
        let words = Reason::all().map(|reason| (reason.number(), reason.words()));
        let mut strings: Vec<_> =
            name.chain(words).map(|(number, words)| entry(library, number, words)).collect();
        strings.push(openssl_sys::ERR_STRING_DATA { error: 0, string: ptr::null::<c_char>() });
        // SAFETY: ERR_load_strings(3) keeps pointers to the entries. They are never freed: `leak`.
        unsafe { openssl_sys::ERR_load_strings(library, strings.leak().as_mut_ptr()) };
        library
    })
}

/// Number and words of one reason, packed like ERR_PACK in `openssl/err.h`.
fn entry(library: c_int, reason: c_int, words: &'static CStr) -> openssl_sys::ERR_STRING_DATA {
    let packed = (library & 0xff) << 23 | (reason & 0x7f_ffff);
    openssl_sys::ERR_STRING_DATA { error: c_ulong::from(packed.unsigned_abs()), string: words.as_ptr() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_reason_has_its_own_number_and_words() {
        let known: Vec<_> = Reason::all().collect();
        assert!(
            known.contains(&Reason::Refused(Outcome::OtherPublicKey)),
            "outcomes are numbered without gaps"
        );
        let numbers: HashSet<_> = known.iter().map(|reason| reason.number()).collect();
        let words: HashSet<_> = known.iter().map(|reason| reason.words()).collect();
        // No request is refused with `Done`, so `Done` may share the words of `Unspecified`.
        assert_eq!((numbers.len(), words.len()), (known.len(), known.len() - 1));
        // OpenSSL cuts lines of logs at 256 bytes (ERR_error_string(3)).
        assert!(words.iter().all(|words| words.count_bytes() < 50));
    }

    #[test]
    fn a_panic_and_an_error_become_failures_with_a_text() {
        assert_eq!(panic_boundary::<c_int>(|| panic!("as a test")), 0);
        assert_eq!(
            panic_boundary::<c_int>(|| Err(Error::new(
                Reason::Refused(Outcome::KeyDisabled),
                "key \"shop\" refused: \0"
            ))),
            0
        );
        assert_eq!(panic_boundary(|| Ok(7)), 7);
        let mut texts = Vec::new();
        loop {
            let (mut data, mut flags) = (ptr::null(), 0);
            // SAFETY: ERR_get_error_all(3) accepts null for results that the caller does not need.
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
            // SAFETY: the queue returns a NUL-terminated text that lives until the next error call.
            texts.push(unsafe { CStr::from_ptr(data) }.to_string_lossy().into_owned());
        }
        assert_eq!(
            texts,
            ["keyward: fault in the provider; please report it", "keyward: key \"shop\" refused: ?"]
        );
    }
}
