//! Macros that define the functions that OpenSSL calls, and the tables that list these functions.

/// Defines entry points: `unsafe extern "C"` functions that OpenSSL calls. The body runs inside the
/// panic boundary and returns a `Result`. An error goes to the OpenSSL error queue.
///
/// Pointers to our objects arrive as `Option<&T>`, `Option<&mut T>` or `Option<Box<T>>`, which have
/// the layout of a pointer that may be null. OpenSSL has the same duty for all entry points: it
/// passes only objects that it got from this provider, and it frees each object once
/// (provider-keymgmt(7) and the pages of the other operations).
macro_rules! entry_points {
    ($($(#[$meta:meta])* fn $name:ident $(<$object:ident $(: $bound:path)?>)? ($($arg:ident: $type:ty),* $(,)?)
        $(-> $return:ty)? $body:block)*) => {$(
        $(#[$meta])*
        pub(crate) unsafe extern "C" fn $name $(<$object $(: $bound)?>)? ($($arg: $type),*) $(-> $return)? {
            $crate::error::panic_boundary(move || $body)
        }
    )*};
}

/// Makes a dispatch table for OpenSSL from pairs `ID => function`, with the ids of
/// [`functions`](crate::functions). A function of another type than the type of the id does not
/// compile.
macro_rules! dispatch {
    ($($id:ident => $function:expr),* $(,)?) => {
        &[
            $($crate::abi::Dispatch {
                id: $crate::functions::$id.number,
                // SAFETY: `typed` has checked that the function has the type that belongs to the
                // number. OpenSSL casts the function back to this type.
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
