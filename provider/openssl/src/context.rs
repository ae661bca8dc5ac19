//! Functions that make, free and duplicate the objects of OpenSSL's operations.

use core::ffi::c_void;

use crate::Provider;
use crate::entry::entry_points;
use crate::error::Error;

entry_points! {
    /// Makes an empty object.
    fn new<T: Default>(_provider: *const c_void) -> Option<Box<T>> {
        Ok(Some(Box::default()))
    }

    /// Frees an object.
    fn free<T>(object: Option<Box<T>>) {
        drop(object);
        Ok(())
    }

    /// Duplicates an object.
    fn duplicate<T: Clone>(object: Option<&T>) -> Option<Box<T>> {
        Ok(Some(Box::new(object.ok_or_else(|| Error::null())?.clone())))
    }

    /// Lends the provider as the context of an operation that has no state. The provider outlives
    /// the context.
    fn lend_provider(provider: Option<&Provider>) -> Option<&Provider> {
        Ok(provider)
    }

    /// Ends the use of a context that [`lend_provider`] lent.
    fn return_provider(_provider: Option<&Provider>) {
        Ok(())
    }
}
