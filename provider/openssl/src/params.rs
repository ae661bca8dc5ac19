//! Safe types for OSSL_PARAM(3) arrays: arrays that OpenSSL lends to us, and arrays that we lend to
//! it.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::marker::PhantomData;
use core::{ptr, slice, str};

use crate::abi::{INTEGER, OCTET_STRING, Param, UNMODIFIED, UNSIGNED_INTEGER, UTF8_PTR, UTF8_STRING};

/// An array of parameters that OpenSSL lends until the call ends.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Params<'a>(*mut Param, PhantomData<&'a Param>);

impl<'a> Params<'a> {
    /// No parameters: OpenSSL may pass null.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(ptr::null_mut(), PhantomData);

    /// The parameter with this key; `None` if the array does not have it.
    pub(crate) fn find(self, key: &CStr) -> Option<Value<'a>> {
        let mut next = self.0;
        if next.is_null() {
            return None;
        }
        loop {
            // SAFETY: OpenSSL passes an array that ends with a null key, and the loop stops there.
            let param = unsafe { ptr::read(next) };
            if param.key.is_null() {
                return None;
            }
            // SAFETY: keys are NUL-terminated.
            if unsafe { CStr::from_ptr(param.key) } == key {
                return Some(Value { param: next, view: param, lifetime: PhantomData });
            }
            // SAFETY: this entry was not the last one.
            next = unsafe { next.add(1) };
        }
    }
}

/// Parameter of a [`Params`] array: a value to read, or a place to answer in.
pub(crate) struct Value<'a> {
    param: *mut Param,
    view: Param,
    lifetime: PhantomData<&'a Param>,
}

impl<'a> Value<'a> {
    /// A signed or unsigned integer of 4 or 8 bytes.
    pub(crate) fn integer(&self) -> Option<i64> {
        let bytes = self.bytes()?;
        match (self.view.data_type, bytes.len()) {
            (INTEGER, 4) => Some(i32::from_ne_bytes(bytes.try_into().ok()?).into()),
            (INTEGER, 8) => Some(i64::from_ne_bytes(bytes.try_into().ok()?)),
            (UNSIGNED_INTEGER, 4) => Some(u32::from_ne_bytes(bytes.try_into().ok()?).into()),
            (UNSIGNED_INTEGER, 8) => u64::from_ne_bytes(bytes.try_into().ok()?).try_into().ok(),
            _ => None,
        }
    }

    /// A text, without the NUL at its end.
    pub(crate) fn utf8(&self) -> Option<&'a str> {
        let bytes = self.bytes().filter(|_| self.view.data_type == UTF8_STRING)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        str::from_utf8(bytes.get(..end)?).ok()
    }

    /// A string of octets.
    pub(crate) fn octets(&self) -> Option<&'a [u8]> {
        self.bytes().filter(|_| self.view.data_type == OCTET_STRING)
    }

    /// An unsigned integer of any size, big-endian without leading zeros.
    pub(crate) fn unsigned(&self) -> Option<Vec<u8>> {
        let bytes = self.bytes().filter(|_| self.view.data_type == UNSIGNED_INTEGER)?;
        let mut bytes = bytes.to_vec();
        native_to_big_endian(&mut bytes);
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        Some(bytes)
    }

    fn bytes(&self) -> Option<&'a [u8]> {
        let data = self.view.data.cast::<u8>();
        if data.is_null() || self.view.data_size > isize::MAX.unsigned_abs() {
            return None;
        }
        // SAFETY: OpenSSL vouches for `data_size` readable bytes at `data` until the call ends.
        Some(unsafe { slice::from_raw_parts(data, self.view.data_size) })
    }

    /// Answers with an integer. Returns whether the integer fitted.
    pub(crate) fn answer_integer(&self, value: u32) -> bool {
        let wide = u64::from(value).to_ne_bytes();
        match (self.view.data_type, self.view.data_size) {
            (INTEGER | UNSIGNED_INTEGER, 8) => self.answer(&wide),
            (INTEGER | UNSIGNED_INTEGER, _) => self.answer(&value.to_ne_bytes()),
            _ => false,
        }
    }

    /// Answers with a text, by copy or by pointer: the parameter says which. Returns whether the
    /// text fitted.
    pub(crate) fn answer_utf8(&self, value: &'static CStr) -> bool {
        match self.view.data_type {
            // The NUL needs room, but the size of the answer does not count it (OSSL_PARAM(3)).
            UTF8_STRING => {
                let fitted = self.answer(value.to_bytes_with_nul());
                self.set_return_size(value.count_bytes());
                fitted
            }
            UTF8_PTR => {
                self.set_return_size(value.count_bytes());
                let place = self.view.data.cast::<*const c_char>();
                if !place.is_null() {
                    // SAFETY: OSSL_PARAM(3): for this type `data` points to a pointer for us to
                    // set.
                    unsafe { ptr::write(place, value.as_ptr()) };
                }
                true
            }
            _ => false,
        }
    }

    /// Answers with a string of octets. Returns whether the string fitted.
    pub(crate) fn answer_octets(&self, value: &[u8]) -> bool {
        self.view.data_type == OCTET_STRING && self.answer(value)
    }

    /// Answers with an unsigned integer. `value` is big-endian. Returns whether the integer fitted.
    pub(crate) fn answer_unsigned(&self, value: &[u8]) -> bool {
        if self.view.data_type != UNSIGNED_INTEGER {
            return false;
        }
        let mut bytes = value.to_vec();
        if !self.view.data.is_null() && self.view.data_size > bytes.len() {
            // A larger place gets zeros in front.
            bytes.splice(0..0, core::iter::repeat_n(0, self.view.data_size - value.len()));
        }
        native_to_big_endian(&mut bytes);
        self.answer(&bytes)
    }

    /// Copies an answer into its place. If there is no place, only sets the length of the answer.
    fn answer(&self, value: &[u8]) -> bool {
        self.set_return_size(value.len());
        let place = self.view.data.cast::<u8>();
        if place.is_null() {
            return true;
        }
        if self.view.data_size < value.len() {
            return false;
        }
        // SAFETY: OpenSSL vouches for `data_size` writable bytes at `data`, and `value` is not
        // longer.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), place, value.len()) };
        true
    }

    fn set_return_size(&self, size: usize) {
        // SAFETY: `param` points into the array that OpenSSL lent, and OSSL_PARAM(3) says that we
        // set the return size.
        unsafe { (*self.param).return_size = size };
    }
}

/// Builder of an array of parameters that we lend to OpenSSL until its callback ends.
#[derive(Default)]
pub(crate) struct ParamBuilder {
    fields: Vec<(&'static CStr, c_uint, Vec<u8>)>,
}

impl ParamBuilder {
    pub(crate) fn integer(mut self, key: &'static CStr, value: c_int) -> Self {
        self.fields.push((key, INTEGER, value.to_ne_bytes().to_vec()));
        self
    }

    /// An unsigned integer. `value` is big-endian.
    pub(crate) fn unsigned(mut self, key: &'static CStr, value: &[u8]) -> Self {
        let mut bytes = value.to_vec();
        native_to_big_endian(&mut bytes);
        self.fields.push((key, UNSIGNED_INTEGER, bytes));
        self
    }

    pub(crate) fn utf8(mut self, key: &'static CStr, value: &str) -> Self {
        self.fields.push((key, UTF8_STRING, value.as_bytes().to_vec()));
        self
    }

    pub(crate) fn octets(mut self, key: &'static CStr, value: &[u8]) -> Self {
        self.fields.push((key, OCTET_STRING, value.to_vec()));
        self
    }

    /// Passes the finished array to `callback`.
    pub(crate) fn pass_to<R>(self, callback: impl FnOnce(*const Param) -> R) -> R {
        self.pass_with(None, callback)
    }

    /// Passes the finished array to `callback`, with one more field: a reference to the pointer
    /// `object`. The receiver may take over the object; then it clears the pointer
    /// (provider-object(7)).
    pub(crate) fn pass_reference_to<T, R>(
        self,
        key: &'static CStr,
        object: &mut *mut T,
        callback: impl FnOnce(*const Param) -> R,
    ) -> R {
        let reference = Param {
            key: key.as_ptr(),
            data_type: OCTET_STRING,
            data: (&raw mut *object).cast(),
            data_size: size_of::<*mut T>(),
            return_size: UNMODIFIED,
        };
        self.pass_with(Some(reference), callback)
    }

    fn pass_with<R>(mut self, reference: Option<Param>, callback: impl FnOnce(*const Param) -> R) -> R {
        let mut array: Vec<Param> = self
            .fields
            .iter_mut()
            .map(|(key, data_type, bytes)| {
                let data_size = bytes.len();
                // Readers of texts may expect a NUL, which the size does not count.
                bytes.push(0);
                let data = bytes.as_mut_ptr().cast::<c_void>();
                Param { key: key.as_ptr(), data_type: *data_type, data, data_size, return_size: UNMODIFIED }
            })
            .chain(reference)
            .collect();
        array.push(Param::END);
        callback(array.as_ptr())
    }
}

/// Bytes that OpenSSL lends until the call ends.
///
/// # Safety
/// `data` is null or has `length` readable bytes for as long as the result is used.
pub(crate) unsafe fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
    if data.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for the bytes.
    unsafe { slice::from_raw_parts(data, length) }
}

/// Converts between the byte order of this machine and big-endian, in both directions.
fn native_to_big_endian(bytes: &mut [u8]) {
    if cfg!(target_endian = "little") {
        bytes.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_parameters_can_be_read() {
        let built = ParamBuilder::default()
            .integer(c"i", -2)
            .unsigned(c"n", &[0x01, 0x00, 0x01])
            .utf8(c"group", "prime256v1")
            .octets(c"pub", &[4, 5, 6]);
        built.pass_to(|array| {
            let params = Params(array.cast_mut(), PhantomData);
            assert_eq!(params.find(c"i").unwrap().integer(), Some(-2));
            assert_eq!(params.find(c"n").unwrap().unsigned(), Some(vec![1, 0, 1]));
            assert_eq!(params.find(c"group").unwrap().utf8(), Some("prime256v1"));
            assert_eq!(params.find(c"pub").unwrap().octets(), Some(&[4, 5, 6][..]));
            assert_eq!(params.find(c"pub").unwrap().utf8(), None);
            assert!(params.find(c"priv").is_none());
        });
        assert!(Params(ptr::null_mut(), PhantomData).find(c"i").is_none());
    }

    #[test]
    fn answers_respect_the_place_they_are_given() {
        let mut place = [0xffu8; 8];
        let mut array = [
            Param {
                key: c"n".as_ptr(),
                data_type: UNSIGNED_INTEGER,
                data: place.as_mut_ptr().cast(),
                data_size: 8,
                return_size: UNMODIFIED,
            },
            Param { key: c"q".as_ptr(), data_type: OCTET_STRING, ..Param::END },
            Param::END,
        ];
        let params = Params(array.as_mut_ptr(), PhantomData);
        assert!(params.find(c"n").unwrap().answer_unsigned(&[1, 0, 2]));
        assert!(params.find(c"q").unwrap().answer_octets(&[1; 70]));
        assert!(!params.find(c"n").unwrap().answer_octets(&[1]));
        assert!(!params.find(c"n").unwrap().answer_unsigned(&[1; 9]));
        assert_eq!(u64::from_ne_bytes(place), 0x0001_0002);
        assert_eq!(array[1].return_size, 70);
    }
}
