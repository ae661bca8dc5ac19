//! The place for a result whose length may vary: a signature or a premaster secret.

use core::ffi::c_int;
use core::ptr;

use crate::error::{Error, Reason};

/// A place for a result, or a question for the greatest length of the result.
pub(crate) struct OutBuffer<'a> {
    /// Null if OpenSSL asks for the length alone.
    place: *mut u8,
    length: &'a mut usize,
    /// Bytes at `place`.
    room: usize,
}

impl<'a> OutBuffer<'a> {
    /// # Safety
    /// `place` is null or has `room` writable bytes, for as long as the value is used.
    pub(crate) unsafe fn new(place: *mut u8, length: &'a mut usize, room: usize) -> Self {
        Self { place, length, room }
    }

    /// Whether OpenSSL asks for the length alone.
    pub(crate) fn asks_length(&self) -> bool {
        self.place.is_null()
    }

    /// Answers with the greatest length of the result, in bytes.
    pub(crate) fn answer_length(self, greatest: usize) -> c_int {
        *self.length = greatest;
        1
    }

    /// Fails if a result is longer than its place. `what` names the result in the error.
    pub(crate) fn check_room(&self, length: usize, what: &str) -> Result<(), Error> {
        if length > self.room {
            let text = format_args!("the program has too little room for the {what}");
            return Err(Error::new(Reason::Internal, text));
        }
        Ok(())
    }

    /// Answers with the result. `what` names the result in the error if it is longer than its
    /// place.
    pub(crate) fn fill(self, result: &[u8], what: &str) -> Result<c_int, Error> {
        if self.asks_length() {
            return Err(Error::null());
        }
        self.check_room(result.len(), what)?;
        // SAFETY: `new` was promised `room` writable bytes at `place`, and the result is not
        // longer.
        unsafe { ptr::copy_nonoverlapping(result.as_ptr(), self.place, result.len()) };
        *self.length = result.len();
        Ok(1)
    }
}
