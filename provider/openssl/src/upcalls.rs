//! Functions that OpenSSL offers to a provider, see provider-base(7): settings, and reading from a
//! BIO.

use core::ffi::{CStr, c_char, c_int, c_long, c_void};
use core::marker::PhantomData;
use core::{mem, ptr};

use crate::abi::{
    BIO_SEEK, BIO_TELL, BioCtrl, BioGets, BioReadEx, CoreGetParams, Dispatch, Function, Param, UNMODIFIED,
    UTF8_PTR,
};
use crate::functions::{BIO_CTRL, BIO_GETS, BIO_READ_EX, CORE_GET_PARAMS, Id};

/// The OpenSSL that loads the provider, and the functions of it that the provider uses.
pub(crate) struct Core {
    handle: *const c_void,
    get_params: Option<CoreGetParams>,
    bio: Option<BioFunctions>,
}

impl Core {
    /// Reads the arguments of `OSSL_provider_init`.
    ///
    /// # Safety
    /// `handle` is the core's, and `upcalls` is null or the core's array of functions, which ends
    /// with id 0. Both are valid for as long as the value is used.
    pub(crate) unsafe fn new(handle: *const c_void, upcalls: *const Dispatch) -> Self {
        // SAFETY: the caller vouches for the array.
        let table = unsafe { InitTable::new(upcalls) };
        let bio = match (table.find(&BIO_GETS), table.find(&BIO_READ_EX), table.find(&BIO_CTRL)) {
            (Some(gets), Some(read_ex), Some(ctrl)) => Some(BioFunctions { gets, read_ex, ctrl }),
            _ => None,
        };
        Self { handle, get_params: table.find(&CORE_GET_PARAMS), bio }
    }

    /// The functions that read a BIO; absent if one of them is missing.
    pub(crate) fn bio(&self) -> Option<BioFunctions> {
        self.bio
    }

    /// The value of a key in the section of openssl.cnf that activated the provider.
    pub(crate) fn setting(&self, key: &'static CStr) -> Option<String> {
        let get_params = self.get_params?;
        let mut text: *const c_char = ptr::null();
        let mut params = [
            Param {
                key: key.as_ptr(),
                data_type: UTF8_PTR,
                data: (&raw mut text).cast(),
                data_size: size_of::<*const c_char>(),
                return_size: UNMODIFIED,
            },
            Param::END,
        ];
        // SAFETY: provider-base(7): the core answers by setting the pointer that `data` points to.
        let answered = unsafe { get_params(self.handle, params.as_mut_ptr()) };
        if answered == 0 || text.is_null() {
            return None;
        }
        // SAFETY: the core's text is NUL-terminated and lives as long as the provider.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// The array of functions that OpenSSL passes to `OSSL_provider_init`.
struct InitTable<'a>(*const Dispatch, PhantomData<&'a Dispatch>);

impl InitTable<'_> {
    /// # Safety
    /// `upcalls` is null or an array that ends with id 0, for as long as the value is used. Each
    /// function has the type that belongs to its id.
    unsafe fn new(upcalls: *const Dispatch) -> Self {
        Self(upcalls, PhantomData)
    }

    /// The function with this id.
    fn find<F: Copy>(&self, id: &Id<F>) -> Option<F> {
        let mut next = self.0;
        while !next.is_null() {
            // SAFETY: `new` was promised an array that ends with id 0, and the loop stops there.
            let upcall = unsafe { next.read() };
            let function = upcall.function.filter(|_| upcall.id != 0)?;
            if upcall.id == id.number {
                // SAFETY: `F` is the type of function that belongs to the id, and `new` was
                // promised that the function has this type.
                return Some(unsafe { mem::transmute_copy::<Function, F>(&function) });
            }
            // SAFETY: this entry was not the last one.
            next = unsafe { next.add(1) };
        }
        None
    }
}

/// Functions that read a BIO.
#[derive(Clone, Copy)]
pub(crate) struct BioFunctions {
    gets: BioGets,
    read_ex: BioReadEx,
    ctrl: BioCtrl,
}

/// A BIO that OpenSSL lends for the length of one call.
#[derive(Clone, Copy)]
pub(crate) struct BioRef<'a> {
    functions: &'a BioFunctions,
    bio: *mut c_void,
}

impl<'a> BioRef<'a> {
    /// # Safety
    /// `bio` is a BIO of the core that the functions are of, for as long as the value is used.
    pub(crate) unsafe fn new(functions: &'a BioFunctions, bio: *mut c_void) -> Self {
        Self { functions, bio }
    }

    /// Reads to the end of a line, and less if `buffer` is shorter. Returns `None` at the end of
    /// the input.
    pub(crate) fn read_line(self, buffer: &mut [u8]) -> Option<&[u8]> {
        let size = c_int::try_from(buffer.len()).unwrap_or(c_int::MAX);
        // SAFETY: BIO_gets(3): writes at most `size` bytes, a NUL among them.
        let length = unsafe { (self.functions.gets)(self.bio, buffer.as_mut_ptr().cast::<c_char>(), size) };
        buffer.get(..usize::try_from(length).ok().filter(|length| *length > 0)?)
    }

    /// Reads as much as `buffer` holds, or less. Returns `None` at the end of the input.
    pub(crate) fn read(self, buffer: &mut [u8]) -> Option<&[u8]> {
        let (place, size, mut length) = (buffer.as_mut_ptr().cast(), buffer.len(), 0);
        // SAFETY: BIO_read_ex(3): writes at most `size` bytes, and their number to `length`.
        let more = unsafe { (self.functions.read_ex)(self.bio, place, size, &raw mut length) };
        buffer.get(..length).filter(|_| more != 0)
    }

    /// The position of the next byte to read; absent if the BIO has no positions.
    pub(crate) fn position(self) -> Option<c_long> {
        // SAFETY: BIO_tell(3): takes no argument.
        let position = unsafe { (self.functions.ctrl)(self.bio, BIO_TELL, 0, ptr::null_mut()) };
        Some(c_long::from(position)).filter(|position| *position >= 0)
    }

    /// Goes back to a position that [`BioRef::position`] returned.
    pub(crate) fn seek(self, position: c_long) {
        // SAFETY: BIO_seek(3): takes a number and no pointer. If this seek fails, OpenSSL's own
        // seek before the next decoder fails, too.
        unsafe { (self.functions.ctrl)(self.bio, BIO_SEEK, position, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::dispatch;

    #[test]
    fn functions_are_found_by_id_up_to_the_end_of_the_table() {
        unsafe extern "C" fn gets(_bio: *mut c_void, _buffer: *mut c_char, _size: c_int) -> c_int {
            7
        }
        let upcalls: &[Dispatch] = dispatch! { BIO_GETS => gets };
        // SAFETY: the macro ends the array and has checked the type of the function.
        let table = unsafe { InitTable::new(upcalls.as_ptr()) };
        let found = table.find(&BIO_GETS).unwrap();
        // SAFETY: this is the function above, which uses no argument.
        assert_eq!(unsafe { found(ptr::null_mut(), ptr::null_mut(), 0) }, 7);
        assert!(table.find(&BIO_CTRL).is_none());
        // SAFETY: null stands for no array.
        assert!(unsafe { InitTable::new(ptr::null()) }.find(&BIO_GETS).is_none());
    }
}
