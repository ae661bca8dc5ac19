//! Store loader for `keyward:LABEL`, `keyward:LABEL?version=N` and `keyward:LABEL?certified`, see
//! provider-storemgmt(7).
//!
//! A URI does not contain the public key, so loading a URI asks the daemon for the public key.
//! Loading a reference PEM does not need the daemon. A loaded key behaves like a reference to its
//! version: the daemon refuses to sign if another key has taken the place of this version.

use core::ffi::{CStr, c_char, c_int, c_void};

use keyward_client::Error as ClientError;
use keyward_proto::{Label, Reference};

use crate::abi::{self, Algorithm, Callback, Dispatch, ParamDescriptor};
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason};
use crate::params::Params;
use crate::{ConfiguredClient, PROPERTIES, Provider, decoder};

/// An open URI, which names one key.
pub(crate) struct Loader {
    client: ConfiguredClient,
    label: Label,
    version: Version,
    /// The type of object that the caller expects (OSSL_STORE_expect(3)); 0 for any type.
    expect: c_int,
    done: bool,
}

/// The version of the key that a URI names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    /// The version with this number; 0 for the current version.
    Number(u32),
    /// The newest version that has certificates in the daemon.
    Certified,
}

entry_points! {
    fn open(provider: Option<&Provider>, uri: *const c_char) -> Option<Box<Loader>> {
        let client = provider.ok_or_else(|| Error::null())?.client.clone();
        if uri.is_null() {
            return Err(Error::null());
        }
        // SAFETY: provider-storemgmt(7): the URI is a NUL-terminated text.
        let uri = unsafe { CStr::from_ptr(uri) };
        let (label, version) = uri.to_str().ok().and_then(parse).ok_or_else(|| {
            let text = "cannot read key URI: expected keyward:LABEL, keyward:LABEL?version=N or keyward:LABEL?certified";
            Error::new(Reason::Reference, text)
        })?;
        Ok(Some(Box::new(Loader { client, label, version, expect: 0, done: false })))
    }

    fn settable_ctx_params(_provider: *const c_void) -> *const ParamDescriptor {
        Ok(SETTABLE.as_ptr())
    }

    fn set_ctx_params(loader: Option<&mut Loader>, params: Params<'_>) -> c_int {
        let loader = loader.ok_or_else(|| Error::null())?;
        if let Some(expect) = params.find(EXPECT).and_then(|param| param.integer()) {
            loader.expect = c_int::try_from(expect).unwrap_or(c_int::MAX);
        }
        Ok(1)
    }

    fn load(
        loader: Option<&mut Loader>,
        callback: Option<Callback>,
        arg: *mut c_void,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        let (Some(loader), Some(callback)) = (loader, callback) else { return Err(Error::null()) };
        // Set before a failure, too: callers repeat until the end is reached.
        loader.done = true;
        if loader.expect != 0 && loader.expect != abi::STORE_INFO_PKEY {
            return Ok(1);
        }
        let reference = loader.describe()?;
        // SAFETY: provider-storemgmt(7): the callback takes the array and the argument that came
        // with it.
        decoder::pass_key(&loader.client, reference, |params| unsafe { callback(params, arg) })
    }

    fn eof(loader: Option<&Loader>) -> c_int {
        Ok(c_int::from(loader.is_none_or(|loader| loader.done)))
    }

    fn close(loader: Option<Box<Loader>>) -> c_int {
        drop(loader);
        Ok(1)
    }
}

impl Loader {
    fn describe(&self) -> Result<Reference, Error> {
        let label = &self.label;
        let client = self.client.get()?;
        let found = match self.version {
            Version::Number(number) => client.describe(label, number),
            Version::Certified => client.describe_certified(label),
        };
        let found = found.map_err(|error| match error {
            ClientError::Refused(outcome) => {
                let reason = outcome.reason_for(label.as_str());
                Error::new(Reason::Refused(outcome), format_args!("key \"{label}\" refused: {reason}"))
            }
            _ => Error::new(Reason::Unavailable, format_args!("cannot load key \"{label}\": {error}")),
        })?;
        // No version has certificates, so the daemon described the current version. The next
        // rotation would change the current version, and the key would not fit the certificate of
        // the server.
        if self.version == Version::Certified && found.certificates.is_empty() {
            let text = format_args!(
                "cannot load key \"{label}\": it has no certificates in the daemon; attach them: \
                 keyward cert attach {label} --in CHAIN"
            );
            return Err(Error::new(Reason::Reference, text));
        }
        Reference::new(label.clone(), found.version, found.public_key).map_err(|error| {
            Error::new(Reason::NotSupported, format_args!("cannot load key \"{label}\": {error}"))
        })
    }
}

/// Reads label and version from a URI.
fn parse(uri: &str) -> Option<(Label, Version)> {
    let rest = uri.strip_prefix("keyward:")?;
    let (label, version) = match rest.split_once('?') {
        None => (rest, Version::Number(0)),
        Some((label, "certified")) => (label, Version::Certified),
        Some((label, query)) => {
            let number = query.strip_prefix("version=")?.parse().ok().filter(|number| *number > 0)?;
            (label, Version::Number(number))
        }
    };
    Some((label.parse().ok()?, version))
}

pub(crate) static ALGORITHMS: &[Algorithm] =
    &[Algorithm::new(c"keyward", PROPERTIES, TABLE, c"Keys held by Keyward, by label"), Algorithm::END];

static TABLE: &[Dispatch] = dispatch! {
    STORE_OPEN => open,
    STORE_SETTABLE_CTX_PARAMS => settable_ctx_params,
    STORE_SET_CTX_PARAMS => set_ctx_params,
    STORE_LOAD => load,
    STORE_EOF => eof,
    STORE_CLOSE => close,
};

static SETTABLE: &[ParamDescriptor] = &[ParamDescriptor::new(EXPECT, abi::INTEGER), ParamDescriptor::END];

/// `OSSL_STORE_PARAM_EXPECT`.
const EXPECT: &CStr = c"expect";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        for (uri, version) in [
            ("keyward:shop", Version::Number(0)),
            ("keyward:shop?version=3", Version::Number(3)),
            ("keyward:shop?certified", Version::Certified),
        ] {
            assert_eq!(parse(uri), Some(("shop".parse().unwrap(), version)), "{uri}");
        }
        for bad in [
            "shop",
            "keyward:",
            "keyward:a/b",
            "keyward:a?",
            "keyward:a?version=0",
            "keyward:a?v=1",
            "keyward:a?version=x",
            "keyward:a?certified=1",
            "keyward:a?certified&version=1",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
