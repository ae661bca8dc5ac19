//! The place for a result whose length may vary: a signature or a premaster secret.

use core::ffi::c_int;
use core::ptr::{self, NonNull};

use crate::error::{Error, Reason};

/// A place that OpenSSL gives for a result.
pub(crate) struct OutBuffer<'a> {
    place: NonNull<u8>,
    length: &'a mut usize,
    /// Bytes at `place`.
    room: usize,
}

impl<'a> OutBuffer<'a> {
    /// Takes the place for a result. If `place` is null, OpenSSL asks for the greatest length of
    /// the result, in bytes: answers with it and returns `None`.
    ///
    /// # Safety
    /// `place` is null or has `room` writable bytes, for as long as the value is used.
    pub(crate) unsafe fn new(
        place: *mut u8,
        length: &'a mut usize,
        room: usize,
        greatest: impl FnOnce() -> Result<usize, Error>,
    ) -> Result<Option<Self>, Error> {
        if let Some(place) = NonNull::new(place) {
            return Ok(Some(Self { place, length, room }));
        }
        *length = greatest()?;
        Ok(None)
    }

    /// Fails if a result is longer than its place. `what` names the result in the error.
    #[inline]
    pub(crate) fn check_room(&self, length: usize, what: &str) -> Result<(), Error> {
        if length > self.room { Err(too_little_room(what)) } else { Ok(()) }
    }

    /// Answers with the result. `what` names the result in the error if the result is too long.
    #[inline]
    pub(crate) fn fill(self, result: &[u8], what: &str) -> Result<c_int, Error> {
        self.check_room(result.len(), what)?;
        // SAFETY: `new` was promised `room` writable bytes at `place`, and the result is not
        // longer.
        unsafe { ptr::copy_nonoverlapping(result.as_ptr(), self.place.as_ptr(), result.len()) };
        *self.length = result.len();
        Ok(1)
    }
}

#[cold]
fn too_little_room(what: &str) -> Error {
    Error::new(Reason::Internal, format_args!("the program has too little room for the {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_goes_to_its_place_if_it_fits() {
        let (mut place, mut length) = ([0xffu8; 4], 0);
        assert!(buffer(None, &mut length).is_none());
        assert_eq!(length, 72);
        assert!(buffer(Some(&mut place), &mut length).unwrap().fill(&[1; 5], "signature").is_err());
        assert_eq!((place, length), ([0xff; 4], 72));
        assert!(buffer(Some(&mut place), &mut length).unwrap().fill(&[1, 2, 3], "signature").is_ok());
        assert_eq!((place, length), ([1, 2, 3, 0xff], 3));
    }

    fn buffer<'a>(place: Option<&'a mut [u8; 4]>, length: &'a mut usize) -> Option<OutBuffer<'a>> {
        let place = place.map_or(ptr::null_mut(), |place| place.as_mut_ptr());
        // SAFETY: `place` is null or has 4 bytes for as long as the value is used.
        unsafe { OutBuffer::new(place, length, 4, || Ok(72)) }.unwrap()
    }
}
