//! Functions that OpenSSL and a provider offer to each other: the number and the type of each.
//!
//! From `openssl/core_dispatch.h`; see provider(7) and the manual page of each operation. A
//! dispatch table holds functions without their types, so OpenSSL would call a wrong entry with
//! wrong arguments. [`Id`] ties the number to the type: an entry of a wrong type does not compile.
//!
//! The types are the types of the header, except that our own types stand where OpenSSL passes
//! `void *`: `Option<&T>`, `Option<&mut T>` and `Option<Box<T>>` have the layout of a pointer that
//! may be null. [`Params`] has the layout of a pointer to the first parameter.

use core::ffi::{c_char, c_int, c_long, c_void};
use core::marker::PhantomData;

use crate::abi::{Algorithm, Callback, Param, ParamDescriptor};
use crate::key::Key;
use crate::params::Params;
use crate::store::Loader;
use crate::{Provider, decrypt, signature};

/// Number of a function in a dispatch table, tied to the type `F` of the function.
pub(crate) struct Id<F> {
    pub(crate) number: c_int,
    function: PhantomData<F>,
}

impl<F: Copy> Id<F> {
    const fn new(number: c_int) -> Self {
        Self { number, function: PhantomData }
    }

    /// Returns the function as a pointer of the type that belongs to the number.
    pub(crate) const fn typed(&self, function: F) -> F {
        function
    }
}

/// Declares ids. For the tests, also lists the numbers with their names in the headers, and the
/// types.
macro_rules! functions {
    ($($name:ident = $number:literal: $header:literal,
        fn($($argument:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        $(pub(crate) const $name: Id<unsafe extern "C" fn($($argument),*) $(-> $result)?> =
            Id::new($number);)*

        /// Every number of this file, with its name in the headers of OpenSSL.
        #[cfg(test)]
        pub(crate) const NUMBERS: &[(&str, c_int)] = &[$(($header, $number),)*];

        /// Every function: name of its number, types of its arguments and type of its result in C.
        #[cfg(test)]
        const TYPES: &[(&str, &[&str], &str)] = &[$((
            $header,
            &[$(<$argument as tests::InC>::TYPE),*],
            <c_type!($($result)?) as tests::InC>::TYPE,
        ),)*];
    };
}

/// Type of the result of a function; `()` if the function has no result.
#[cfg(test)]
macro_rules! c_type {
    () => {
        ()
    };
    ($result:ty) => {
        $result
    };
}

functions! {
    // Offered by OpenSSL to the provider, provider-base(7)
    CORE_GET_PARAMS = 2: "OSSL_FUNC_CORE_GET_PARAMS", fn(*const c_void, *mut Param) -> c_int;
    BIO_READ_EX = 42: "OSSL_FUNC_BIO_READ_EX", fn(*mut c_void, *mut c_void, usize, *mut usize) -> c_int;
    BIO_GETS = 49: "OSSL_FUNC_BIO_GETS", fn(*mut c_void, *mut c_char, c_int) -> c_int;
    BIO_CTRL = 50: "OSSL_FUNC_BIO_CTRL", fn(*mut c_void, c_int, c_long, *mut c_void) -> c_int;

    // provider-base(7)
    PROVIDER_TEARDOWN = 1024: "OSSL_FUNC_PROVIDER_TEARDOWN", fn(Option<Box<Provider>>);
    PROVIDER_GETTABLE_PARAMS = 1025: "OSSL_FUNC_PROVIDER_GETTABLE_PARAMS",
        fn(*const c_void) -> *const ParamDescriptor;
    PROVIDER_GET_PARAMS = 1026: "OSSL_FUNC_PROVIDER_GET_PARAMS", fn(*const c_void, Params<'_>) -> c_int;
    PROVIDER_QUERY_OPERATION = 1027: "OSSL_FUNC_PROVIDER_QUERY_OPERATION",
        fn(Option<&Provider>, c_int, Option<&mut c_int>) -> *const Algorithm;

    // provider-keymgmt(7)
    KEYMGMT_NEW = 1: "OSSL_FUNC_KEYMGMT_NEW", fn(*const c_void) -> Option<Box<Key>>;
    KEYMGMT_LOAD = 8: "OSSL_FUNC_KEYMGMT_LOAD", fn(Option<&mut *mut Key>, usize) -> *const Key;
    KEYMGMT_FREE = 10: "OSSL_FUNC_KEYMGMT_FREE", fn(Option<Box<Key>>);
    KEYMGMT_GET_PARAMS = 11: "OSSL_FUNC_KEYMGMT_GET_PARAMS", fn(Option<&Key>, Params<'_>) -> c_int;
    KEYMGMT_GETTABLE_PARAMS = 12: "OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS",
        fn(*const c_void) -> *const ParamDescriptor;
    KEYMGMT_QUERY_OPERATION_NAME = 20: "OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME", fn(c_int) -> *const c_char;
    KEYMGMT_HAS = 21: "OSSL_FUNC_KEYMGMT_HAS", fn(Option<&Key>, c_int) -> c_int;
    KEYMGMT_MATCH = 23: "OSSL_FUNC_KEYMGMT_MATCH", fn(Option<&Key>, Option<&Key>, c_int) -> c_int;
    KEYMGMT_IMPORT = 40: "OSSL_FUNC_KEYMGMT_IMPORT", fn(Option<&mut Key>, c_int, Params<'_>) -> c_int;
    KEYMGMT_IMPORT_TYPES = 41: "OSSL_FUNC_KEYMGMT_IMPORT_TYPES", fn(c_int) -> *const ParamDescriptor;
    KEYMGMT_EXPORT = 42: "OSSL_FUNC_KEYMGMT_EXPORT",
        fn(Option<&Key>, c_int, Option<Callback>, *mut c_void) -> c_int;
    KEYMGMT_EXPORT_TYPES = 43: "OSSL_FUNC_KEYMGMT_EXPORT_TYPES", fn(c_int) -> *const ParamDescriptor;
    KEYMGMT_DUP = 44: "OSSL_FUNC_KEYMGMT_DUP", fn(Option<&Key>, c_int) -> Option<Box<Key>>;

    // provider-signature(7)
    SIGNATURE_NEWCTX = 1: "OSSL_FUNC_SIGNATURE_NEWCTX",
        fn(*const c_void, *const c_char) -> Option<Box<signature::SignatureContext>>;
    SIGNATURE_SIGN_INIT = 2: "OSSL_FUNC_SIGNATURE_SIGN_INIT",
        fn(Option<&mut signature::SignatureContext>, Option<&Key>, Params<'_>) -> c_int;
    SIGNATURE_SIGN = 3: "OSSL_FUNC_SIGNATURE_SIGN",
        fn(
            Option<&mut signature::SignatureContext>, *mut u8, Option<&mut usize>, usize, *const u8, usize
        ) -> c_int;
    SIGNATURE_DIGEST_SIGN_INIT = 8: "OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT",
        fn(Option<&mut signature::SignatureContext>, *const c_char, Option<&Key>, Params<'_>) -> c_int;
    SIGNATURE_DIGEST_SIGN_UPDATE = 9: "OSSL_FUNC_SIGNATURE_DIGEST_SIGN_UPDATE",
        fn(Option<&mut signature::SignatureContext>, *const u8, usize) -> c_int;
    SIGNATURE_DIGEST_SIGN_FINAL = 10: "OSSL_FUNC_SIGNATURE_DIGEST_SIGN_FINAL",
        fn(Option<&mut signature::SignatureContext>, *mut u8, Option<&mut usize>, usize) -> c_int;
    SIGNATURE_DIGEST_SIGN = 11: "OSSL_FUNC_SIGNATURE_DIGEST_SIGN",
        fn(
            Option<&mut signature::SignatureContext>, *mut u8, Option<&mut usize>, usize, *const u8, usize
        ) -> c_int;
    SIGNATURE_FREECTX = 16: "OSSL_FUNC_SIGNATURE_FREECTX", fn(Option<Box<signature::SignatureContext>>);
    SIGNATURE_DUPCTX = 17: "OSSL_FUNC_SIGNATURE_DUPCTX",
        fn(Option<&signature::SignatureContext>) -> Option<Box<signature::SignatureContext>>;
    SIGNATURE_GET_CTX_PARAMS = 18: "OSSL_FUNC_SIGNATURE_GET_CTX_PARAMS",
        fn(Option<&signature::SignatureContext>, Params<'_>) -> c_int;
    SIGNATURE_GETTABLE_CTX_PARAMS = 19: "OSSL_FUNC_SIGNATURE_GETTABLE_CTX_PARAMS",
        fn(*const c_void, *const c_void) -> *const ParamDescriptor;
    SIGNATURE_SET_CTX_PARAMS = 20: "OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS",
        fn(Option<&mut signature::SignatureContext>, Params<'_>) -> c_int;
    SIGNATURE_SETTABLE_CTX_PARAMS = 21: "OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS",
        fn(*const c_void, *const c_void) -> *const ParamDescriptor;

    // provider-asym_cipher(7)
    ASYM_CIPHER_NEWCTX = 1: "OSSL_FUNC_ASYM_CIPHER_NEWCTX",
        fn(*const c_void) -> Option<Box<decrypt::DecryptContext>>;
    ASYM_CIPHER_DECRYPT_INIT = 4: "OSSL_FUNC_ASYM_CIPHER_DECRYPT_INIT",
        fn(Option<&mut decrypt::DecryptContext>, Option<&Key>, Params<'_>) -> c_int;
    ASYM_CIPHER_DECRYPT = 5: "OSSL_FUNC_ASYM_CIPHER_DECRYPT",
        fn(
            Option<&mut decrypt::DecryptContext>, *mut u8, Option<&mut usize>, usize, *const u8, usize
        ) -> c_int;
    ASYM_CIPHER_FREECTX = 6: "OSSL_FUNC_ASYM_CIPHER_FREECTX", fn(Option<Box<decrypt::DecryptContext>>);
    ASYM_CIPHER_DUPCTX = 7: "OSSL_FUNC_ASYM_CIPHER_DUPCTX",
        fn(Option<&decrypt::DecryptContext>) -> Option<Box<decrypt::DecryptContext>>;
    ASYM_CIPHER_SET_CTX_PARAMS = 10: "OSSL_FUNC_ASYM_CIPHER_SET_CTX_PARAMS",
        fn(Option<&mut decrypt::DecryptContext>, Params<'_>) -> c_int;
    ASYM_CIPHER_SETTABLE_CTX_PARAMS = 11: "OSSL_FUNC_ASYM_CIPHER_SETTABLE_CTX_PARAMS",
        fn(*const c_void, *const c_void) -> *const ParamDescriptor;

    // provider-encoder(7)
    ENCODER_NEWCTX = 1: "OSSL_FUNC_ENCODER_NEWCTX", fn(Option<&Provider>) -> Option<&Provider>;
    ENCODER_FREECTX = 2: "OSSL_FUNC_ENCODER_FREECTX", fn(Option<&Provider>);
    ENCODER_DOES_SELECTION = 10: "OSSL_FUNC_ENCODER_DOES_SELECTION", fn(*const c_void, c_int) -> c_int;
    ENCODER_ENCODE = 11: "OSSL_FUNC_ENCODER_ENCODE",
        fn(*const c_void, *mut c_void, Option<&Key>, *const Param, c_int, *const c_void, *mut c_void)
            -> c_int;

    // provider-decoder(7)
    DECODER_NEWCTX = 1: "OSSL_FUNC_DECODER_NEWCTX", fn(Option<&Provider>) -> Option<&Provider>;
    DECODER_FREECTX = 2: "OSSL_FUNC_DECODER_FREECTX", fn(Option<&Provider>);
    DECODER_DOES_SELECTION = 10: "OSSL_FUNC_DECODER_DOES_SELECTION", fn(*const c_void, c_int) -> c_int;
    DECODER_DECODE = 11: "OSSL_FUNC_DECODER_DECODE",
        fn(Option<&Provider>, *mut c_void, c_int, Option<Callback>, *mut c_void, *const c_void, *mut c_void)
            -> c_int;

    // provider-storemgmt(7)
    STORE_OPEN = 1: "OSSL_FUNC_STORE_OPEN", fn(Option<&Provider>, *const c_char) -> Option<Box<Loader>>;
    STORE_SETTABLE_CTX_PARAMS = 3: "OSSL_FUNC_STORE_SETTABLE_CTX_PARAMS",
        fn(*const c_void) -> *const ParamDescriptor;
    STORE_SET_CTX_PARAMS = 4: "OSSL_FUNC_STORE_SET_CTX_PARAMS", fn(Option<&mut Loader>, Params<'_>) -> c_int;
    STORE_LOAD = 5: "OSSL_FUNC_STORE_LOAD",
        fn(Option<&mut Loader>, Option<Callback>, *mut c_void, *const c_void, *mut c_void) -> c_int;
    STORE_EOF = 6: "OSSL_FUNC_STORE_EOF", fn(Option<&Loader>) -> c_int;
    STORE_CLOSE = 7: "OSSL_FUNC_STORE_CLOSE", fn(Option<Box<Loader>>) -> c_int;
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::io::Write as _;
    use std::process::{Command, Output, Stdio};

    use super::*;

    /// The C compiler calls each function of the installed headers with our types.
    #[test]
    fn types_are_those_of_the_installed_headers() {
        let mut source = String::from("#include <openssl/core_dispatch.h>\n");
        for (name, arguments, result) in TYPES {
            let function = name.replace("OSSL_FUNC_", "").to_lowercase().replace("bio_", "BIO_");
            let declared: Vec<_> = arguments.iter().enumerate().map(|(i, c)| format!("{c} a{i}")).collect();
            let passed: Vec<_> = (0..arguments.len()).map(|i| format!("a{i}")).collect();
            writeln!(
                source,
                "{result} {function}(OSSL_FUNC_{function}_fn *f, {}) {{ return f({}); }}",
                declared.join(", "),
                passed.join(", ")
            )
            .unwrap();
        }
        // Our pointers may be const where the headers are not: a key that is only read is `void *`
        // there.
        let words =
            "-x c -fsyntax-only -Werror -Wall -Wconversion -Wsign-conversion -Wno-discarded-qualifiers -";
        let words: Vec<_> = words.split(' ').collect();
        let done = compile("cc", &words, &source);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        for (right, wrong) in [
            ("return f(a0, a1, a2)", "return f(a0, a1)"),
            ("size_t a3", "int a3"),
            ("int a1", "void *a1"),
            ("int signature_sign(", "void *signature_sign("),
            ("int store_close(", "void store_close("),
            ("void signature_freectx(", "int signature_freectx("),
        ] {
            assert!(source.contains(right), "{right}");
            assert!(!compile("cc", &words, &source.replace(right, wrong)).status.success(), "{wrong}");
        }
    }

    /// The type as the headers of OpenSSL write it. Our objects are `void *` there.
    pub(super) trait InC {
        const TYPE: &'static str;
    }

    macro_rules! in_c {
        ($($rust:ty: $c:literal,)*) => { $(impl InC for $rust { const TYPE: &'static str = $c; })* };
    }

    in_c! {
        (): "void",
        c_int: "int",
        c_long: "long",
        usize: "size_t",
        Option<&mut c_int>: "int *",
        Option<&mut usize>: "size_t *",
        *const c_void: "const void *",
        *mut c_void: "void *",
        *const u8: "const unsigned char *",
        *mut u8: "unsigned char *",
        *const c_char: "const char *",
        *mut c_char: "char *",
        *mut usize: "size_t *",
        *const Algorithm: "const OSSL_ALGORITHM *",
        *const ParamDescriptor: "const OSSL_PARAM *",
        *const Param: "const OSSL_PARAM *",
        *mut Param: "OSSL_PARAM *",
        Params<'_>: "OSSL_PARAM *",
        Option<Callback>: "OSSL_CALLBACK *",
        // The reference that KEYMGMT_LOAD takes, and the key that it returns.
        Option<&mut *mut Key>: "void *",
        *const Key: "void *",
    }

    trait Object {}
    impl Object for Key {}
    impl Object for Loader {}
    impl Object for Provider {}
    impl Object for decrypt::DecryptContext {}
    impl Object for signature::SignatureContext {}

    impl<T: Object> InC for Option<&T> {
        const TYPE: &'static str = "void *";
    }

    impl<T: Object> InC for Option<&mut T> {
        const TYPE: &'static str = "void *";
    }

    impl<T: Object> InC for Option<Box<T>> {
        const TYPE: &'static str = "void *";
    }

    /// The compiler gets this file, the macro, empty objects and a table of one entry.
    #[test]
    fn an_entry_of_a_wrong_type_does_not_compile() {
        let entry = |entry: &str| {
            let source = TABLE_SOURCE.replace("SRC", concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
            let source = source.replace("ENTRY", entry);
            let words = [
                "--edition=2024",
                "--crate-type=lib",
                // To the standard output: as root, rustc would replace a device such as /dev/null.
                "--emit=metadata=-",
                "--cap-lints=allow",
                "-",
            ];
            compile("rustc", &words, &source)
        };
        let right = entry("SIGNATURE_FREECTX => free");
        assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
        for wrong in [
            // Two other functions of the operation, a function of another operation, and no
            // function.
            "SIGNATURE_DUPCTX => free",
            "SIGNATURE_SIGN => free",
            "ASYM_CIPHER_FREECTX => free",
            "SIGNATURE_FREECTX => 1usize",
        ] {
            let done = entry(wrong);
            let stderr = String::from_utf8_lossy(&done.stderr);
            assert!(
                !done.status.success() && stderr.contains("error[E0308]: mismatched types"),
                "{wrong}: {stderr}"
            );
        }
    }

    const TABLE_SOURCE: &str = r#"
        #[path = "SRC/abi.rs"] mod abi;
        #[path = "SRC/entry.rs"] mod entry;
        #[path = "SRC/functions.rs"] mod functions;
        #[path = "SRC/params.rs"] mod params;
        mod decrypt { pub struct DecryptContext; }
        mod key { pub struct Key; }
        mod signature { pub struct SignatureContext; }
        mod store { pub struct Loader; }
        struct Provider;
        unsafe extern "C" fn free(_: Option<Box<signature::SignatureContext>>) {}
        static TABLE: &[abi::Dispatch] = entry::dispatch! { ENTRY };
    "#;

    fn compile(compiler: &str, words: &[&str], source: &str) -> Output {
        let mut child = Command::new(compiler)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the compiler that this test was built with");
        child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}
