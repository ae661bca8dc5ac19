//! C layouts and numbers of the interface between OpenSSL 3 and its providers.
//!
//! From `openssl/core.h`, `openssl/core_dispatch.h` and `openssl/core_names.h`; see provider(7).
//! OpenSSL adds numbers and never changes them, so these numbers hold for every OpenSSL since 3.0.
//! A test compares them with the installed headers.

use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use core::ptr;

/// Any function in a dispatch table. The id beside the function says which type it really has.
pub(crate) type Function = unsafe extern "C" fn();

/// `OSSL_DISPATCH`: one function. A table ends with id 0.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Dispatch {
    pub(crate) id: c_int,
    pub(crate) function: Option<Function>,
}

impl Dispatch {
    pub(crate) const END: Self = Self { id: 0, function: None };
}

/// `OSSL_ALGORITHM`: names and table of one algorithm. A list ends with null names.
#[repr(C)]
pub(crate) struct Algorithm {
    names: *const c_char,
    properties: *const c_char,
    dispatch: *const Dispatch,
    description: *const c_char,
}

impl Algorithm {
    pub(crate) const END: Self =
        Self { names: ptr::null(), properties: ptr::null(), dispatch: ptr::null(), description: ptr::null() };

    pub(crate) const fn new(
        names: &'static CStr,
        properties: &'static CStr,
        dispatch: &'static [Dispatch],
        description: &'static CStr,
    ) -> Self {
        Self {
            names: names.as_ptr(),
            properties: properties.as_ptr(),
            dispatch: dispatch.as_ptr(),
            description: description.as_ptr(),
        }
    }
}

// SAFETY: `new` takes only 'static data, and nothing writes through these pointers.
unsafe impl Sync for Algorithm {}

/// `OSSL_PARAM`: one typed value, see OSSL_PARAM(3). An array ends with a null key.
#[repr(C)]
pub(crate) struct Param {
    pub(crate) key: *const c_char,
    pub(crate) data_type: c_uint,
    pub(crate) data: *mut c_void,
    pub(crate) data_size: usize,
    pub(crate) return_size: usize,
}

impl Param {
    pub(crate) const END: Self =
        Self { key: ptr::null(), data_type: 0, data: ptr::null_mut(), data_size: 0, return_size: 0 };
}

/// `OSSL_PARAM_UNMODIFIED`.
pub(crate) const UNMODIFIED: usize = usize::MAX;

/// Entry of a list of parameters that a function supports.
#[repr(transparent)]
pub(crate) struct ParamDescriptor(Param);

impl ParamDescriptor {
    pub(crate) const END: Self = Self(Param::END);

    pub(crate) const fn new(key: &'static CStr, data_type: c_uint) -> Self {
        Self(Param { key: key.as_ptr(), data_type, ..Param::END })
    }
}

// SAFETY: the key is 'static, the other pointer is null, and OpenSSL only reads such lists.
unsafe impl Sync for ParamDescriptor {}

/// `OSSL_CALLBACK`.
pub(crate) type Callback = unsafe extern "C" fn(params: *const Param, arg: *mut c_void) -> c_int;

/// `OSSL_FUNC_core_get_params`.
pub(crate) type CoreGetParams = unsafe extern "C" fn(handle: *const c_void, params: *mut Param) -> c_int;

/// `OSSL_FUNC_BIO_gets`.
pub(crate) type BioGets = unsafe extern "C" fn(bio: *mut c_void, buffer: *mut c_char, size: c_int) -> c_int;

/// `OSSL_FUNC_BIO_read_ex`.
pub(crate) type BioReadEx =
    unsafe extern "C" fn(bio: *mut c_void, data: *mut c_void, length: usize, read: *mut usize) -> c_int;

/// `OSSL_FUNC_BIO_ctrl`.
pub(crate) type BioCtrl =
    unsafe extern "C" fn(bio: *mut c_void, command: c_int, number: c_long, pointer: *mut c_void) -> c_int;

/// Declares numbers. For the test, also lists them with their names in the headers.
macro_rules! numbers {
    ($($name:ident = $value:literal: $header:literal,)*) => {
        $(pub(crate) const $name: c_int = $value;)*

        /// Every number of this file, with its name in the headers of OpenSSL.
        #[cfg(test)]
        pub(crate) const NUMBERS: &[(&str, c_int)] = &[$(($header, $value),)*];
    };
}

numbers! {
    OP_KEYMGMT = 10: "OSSL_OP_KEYMGMT",
    OP_ASYM_CIPHER = 13: "OSSL_OP_ASYM_CIPHER",
    OP_SIGNATURE = 12: "OSSL_OP_SIGNATURE",
    OP_ENCODER = 20: "OSSL_OP_ENCODER",
    OP_DECODER = 21: "OSSL_OP_DECODER",
    OP_STORE = 22: "OSSL_OP_STORE",

    BIO_SEEK = 128: "BIO_C_FILE_SEEK",
    BIO_TELL = 133: "BIO_C_FILE_TELL",

    SELECT_PRIVATE_KEY = 0x01: "OSSL_KEYMGMT_SELECT_PRIVATE_KEY",
    SELECT_PUBLIC_KEY = 0x02: "OSSL_KEYMGMT_SELECT_PUBLIC_KEY",
    SELECT_DOMAIN_PARAMETERS = 0x04: "OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS",

    OBJECT_PKEY = 2: "OSSL_OBJECT_PKEY",
    STORE_INFO_PKEY = 4: "OSSL_STORE_INFO_PKEY",

    RSA_PKCS1_PADDING = 1: "RSA_PKCS1_PADDING",
    RSA_PKCS1_PSS_PADDING = 6: "RSA_PKCS1_PSS_PADDING",
    RSA_PKCS1_WITH_TLS_PADDING = 7: "RSA_PKCS1_WITH_TLS_PADDING",
    RSA_PSS_SALTLEN_DIGEST = -1: "RSA_PSS_SALTLEN_DIGEST",
    RSA_PSS_SALTLEN_AUTO = -2: "RSA_PSS_SALTLEN_AUTO",
}

/// Data types of parameters.
pub(crate) const INTEGER: c_uint = 1;
pub(crate) const UNSIGNED_INTEGER: c_uint = 2;
pub(crate) const UTF8_STRING: c_uint = 4;
pub(crate) const OCTET_STRING: c_uint = 5;
pub(crate) const UTF8_PTR: c_uint = 6;

#[cfg(test)]
mod tests {
    use core::mem::offset_of;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::functions;

    /// The C compiler compares every number and layout with the installed headers of OpenSSL.
    #[test]
    fn numbers_and_layouts_are_those_of_the_installed_headers() {
        let mut source = String::from(
            "#include <stddef.h>\n#include <openssl/core.h>\n#include <openssl/core_dispatch.h>\n\
             #include <openssl/bio.h>\n#include <openssl/core_object.h>\n#include <openssl/store.h>\n#include <openssl/rsa.h>\n",
        );
        let mut assert_equal = |expression: &str, value: i64| {
            source.push_str(&format!("_Static_assert({expression} == {value}, \"{expression}\");\n"));
        };
        for (name, value) in NUMBERS.iter().chain(functions::NUMBERS) {
            assert_equal(name, i64::from(*value));
        }
        for (name, value) in [
            ("OSSL_PARAM_INTEGER", INTEGER),
            ("OSSL_PARAM_UNSIGNED_INTEGER", UNSIGNED_INTEGER),
            ("OSSL_PARAM_UTF8_STRING", UTF8_STRING),
            ("OSSL_PARAM_OCTET_STRING", OCTET_STRING),
            ("OSSL_PARAM_UTF8_PTR", UTF8_PTR),
        ] {
            assert_equal(name, i64::from(value));
        }
        for (name, value) in [
            ("sizeof(OSSL_DISPATCH)", size_of::<Dispatch>()),
            ("offsetof(OSSL_DISPATCH, function)", offset_of!(Dispatch, function)),
            ("sizeof(OSSL_ALGORITHM)", size_of::<Algorithm>()),
            ("offsetof(OSSL_ALGORITHM, property_definition)", offset_of!(Algorithm, properties)),
            ("offsetof(OSSL_ALGORITHM, implementation)", offset_of!(Algorithm, dispatch)),
            ("offsetof(OSSL_ALGORITHM, algorithm_description)", offset_of!(Algorithm, description)),
            ("sizeof(OSSL_PARAM)", size_of::<Param>()),
            ("offsetof(OSSL_PARAM, data_type)", offset_of!(Param, data_type)),
            ("offsetof(OSSL_PARAM, data)", offset_of!(Param, data)),
            ("offsetof(OSSL_PARAM, data_size)", offset_of!(Param, data_size)),
            ("offsetof(OSSL_PARAM, return_size)", offset_of!(Param, return_size)),
        ] {
            assert_equal(name, value as i64);
        }
        source.push_str("_Static_assert(OSSL_PARAM_UNMODIFIED == (size_t)-1, \"unmodified\");\n");

        let mut compiler = Command::new("cc")
            .args(["-x", "c", "-fsyntax-only", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("the C compiler that Rust links with");
        compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success(), "see the compiler's messages above");
    }
}
