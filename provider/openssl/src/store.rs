//! Store loader for `keyward:LABEL` and `keyward:LABEL?version=N`, see provider-storemgmt(7).
//!
//! A URI carries no public key, so loading one asks the daemon for it, unlike loading a reference PEM.

use core::ffi::{CStr, c_char, c_int, c_void};

use keyward_client::Error as ClientError;
use keyward_proto::{Label, Reference};

use crate::abi::{self, Algorithm, Callback, Dispatch, Known};
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason};
use crate::params::Params;
use crate::{PROPERTIES, Provider, decoder};

/// An opened URI, which stands for one key.
pub(crate) struct Loader<'a> {
    provider: &'a Provider,
    label: Label,
    version: u32,
    /// What the caller looks for; 0 for anything.
    expect: c_int,
    done: bool,
}

entry_points! {
    fn open(provider: Option<&'static Provider>, uri: *const c_char) -> Option<Box<Loader<'static>>> {
        let provider = provider.ok_or(Error::null())?;
        if uri.is_null() {
            return Err(Error::null());
        }
        // SAFETY: provider-storemgmt(7): the URI is a NUL-terminated text.
        let uri = unsafe { CStr::from_ptr(uri) };
        let (label, version) = uri.to_str().ok().and_then(parse).ok_or_else(|| {
            Error::new(Reason::Reference, "cannot read key URI: expected keyward:LABEL or keyward:LABEL?version=N")
        })?;
        Ok(Some(Box::new(Loader { provider, label, version, expect: 0, done: false })))
    }

    fn settable_ctx_params(_provider: *const c_void) -> *const Known {
        Ok(SETTABLE.as_ptr())
    }

    fn set_ctx_params(loader: Option<&mut Loader<'_>>, params: Params<'_>) -> c_int {
        let loader = loader.ok_or(Error::null())?;
        if let Some(expect) = params.find(EXPECT).and_then(|param| param.integer()) {
            loader.expect = c_int::try_from(expect).unwrap_or(c_int::MAX);
        }
        Ok(1)
    }

    fn load(
        loader: Option<&mut Loader<'_>>,
        callback: Option<Callback>,
        arg: *mut c_void,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        let (Some(loader), Some(callback)) = (loader, callback) else { return Err(Error::null()) };
        // Also after a failure: callers go on until the end is reached.
        loader.done = true;
        if loader.expect != 0 && loader.expect != abi::STORE_INFO_PKEY {
            return Ok(1);
        }
        let reference = loader.describe()?;
        // SAFETY: provider-storemgmt(7): the callback takes the array and the argument that came with it.
        decoder::hand_over(loader.provider, reference, |params| unsafe { callback(params, arg) })
    }

    fn eof(loader: Option<&Loader<'_>>) -> c_int {
        Ok(c_int::from(loader.is_none_or(|loader| loader.done)))
    }

    fn close(loader: Option<Box<Loader<'static>>>) -> c_int {
        drop(loader);
        Ok(1)
    }
}

impl Loader<'_> {
    fn describe(&self) -> Result<Reference, Error> {
        let label = &self.label;
        let client = self.provider.client.as_ref().map_err(|text| {
            Error::new(
                Reason::Configuration,
                format_args!("cannot use the configuration of the provider: {text}"),
            )
        })?;
        let found = client.describe(label, self.version).map_err(|error| match error {
            ClientError::Refused(outcome) => {
                let reason = outcome.reason_for(label.as_str());
                Error::new(Reason::Refused(outcome), format_args!("key \"{label}\" refused: {reason}"))
            }
            _ => Error::new(Reason::Unavailable, format_args!("cannot load key \"{label}\": {error}")),
        })?;
        Reference::new(label.clone(), found.version, found.public_key).map_err(|error| {
            Error::new(Reason::NotSupported, format_args!("cannot load key \"{label}\": {error}"))
        })
    }
}

/// Reads a URI; version 0 stands for the current one.
fn parse(uri: &str) -> Option<(Label, u32)> {
    let rest = uri.strip_prefix("keyward:")?;
    match rest.split_once('?') {
        None => Some((rest.parse().ok()?, 0)),
        Some((label, query)) => {
            let version = query.strip_prefix("version=")?.parse().ok().filter(|version| *version > 0)?;
            Some((label.parse().ok()?, version))
        }
    }
}

pub(crate) static ALGORITHMS: &[Algorithm] =
    &[Algorithm::new(c"keyward", PROPERTIES, TABLE, c"Keys held by Keyward, by label"), Algorithm::END];

static TABLE: &[Dispatch] = dispatch! {
    abi::STORE_OPEN => open,
    abi::STORE_SETTABLE_CTX_PARAMS => settable_ctx_params,
    abi::STORE_SET_CTX_PARAMS => set_ctx_params,
    abi::STORE_LOAD => load,
    abi::STORE_EOF => eof,
    abi::STORE_CLOSE => close,
};

static SETTABLE: &[Known] = &[Known::new(EXPECT, abi::INTEGER), Known::END];

/// `OSSL_STORE_PARAM_EXPECT`.
const EXPECT: &CStr = c"expect";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        assert_eq!(parse("keyward:shop"), Some(("shop".parse().unwrap(), 0)));
        assert_eq!(parse("keyward:shop?version=3"), Some(("shop".parse().unwrap(), 3)));
        for bad in
            ["shop", "keyward:", "keyward:a/b", "keyward:a?version=0", "keyward:a?v=1", "keyward:a?version=x"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
