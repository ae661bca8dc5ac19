//! The one way to define a function that OpenSSL calls, and the tables that list such functions.

/// Defines entry points: `unsafe extern "C"` functions whose body runs behind the panic fence and ends in a
/// `Result`, of which an error goes to the OpenSSL error queue.
///
/// Pointers to our own objects arrive as `Option<&T>`, `Option<&mut T>` or `Option<Box<T>>`, which have the
/// layout of a nullable pointer; the caller's duty is the same for all of them: OpenSSL passes only what it
/// was given by this provider, and frees each object once (provider-keymgmt(7) and its siblings).
macro_rules! entry_points {
    ($($(#[$meta:meta])* fn $name:ident $(<$object:ident $(: $bound:path)?>)? ($($arg:ident: $type:ty),* $(,)?)
        $(-> $return:ty)? $body:block)*) => {$(
        $(#[$meta])*
        pub(crate) unsafe extern "C" fn $name $(<$object $(: $bound)?>)? ($($arg: $type),*) $(-> $return)? {
            $crate::error::panic_boundary(move || $body)
        }
    )*};
}

/// Makes a dispatch table for OpenSSL of pairs `ID => function`, with the ids of [`functions`](crate::functions).
/// A function whose type is not that of its id does not compile.
macro_rules! dispatch {
    ($($id:ident => $function:expr),* $(,)?) => {
        &[
            $($crate::abi::Dispatch {
                id: $crate::functions::$id.number,
                // SAFETY: `typed` has checked the type of the function, and OpenSSL casts the function back
                // to this type, which belongs to the number.
                function: Some(unsafe {
                    core::mem::transmute::<*const (), $crate::abi::Function>(
                        $crate::functions::$id.typed($function) as *const (),
                    )
                }),
            },)*
            $crate::abi::Dispatch::END,
        ]
    };
}

pub(crate) use {dispatch, entry_points};
