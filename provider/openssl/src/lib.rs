//! OpenSSL 3 provider `keyward`: it signs with keys that the Keyward daemon holds.
//!
//! A server loads a reference PEM ([`decoder`]) or a `keyward:LABEL` URI ([`store`]) instead of a
//! key file. OpenSSL then sees a private key ([`keymgmt`]). The daemon makes the signatures of this
//! key ([`signature`]): each signature is one request on the Unix socket. OpenSSL's default
//! provider does everything that needs only the public key, which it gets by export. The provider
//! refuses to write a private key and says why ([`encoder`]). A host that runs handshakes in
//! asynchronous jobs does not wait for the daemon ([`job`]).
//!
//! The module starts no thread. It does no I/O before the first signature, except for `keyward:`
//! URIs: it asks the daemon for their public key.
//!
//! Every function that OpenSSL calls runs inside the panic boundary, `panic_boundary` in [`error`].
//! A macro ([`entry`]) defines these functions, except two: [`OSSL_provider_init`], and the cleanup
//! of a wait context in [`job`]. [`functions`] has the number and the type of each function in a
//! dispatch table. See provider(7) for the contract with OpenSSL.

// This crate is the boundary with C, so it needs unsafe code. One operation per block.
#![allow(unsafe_code)]

mod abi;
mod context;
mod decoder;
mod decrypt;
mod digest;
mod encoder;
mod entry;
mod error;
mod functions;
mod job;
mod key;
mod keymgmt;
mod kind;
mod out_buffer;
mod padding;
mod params;
mod settings;
mod signature;
mod store;
mod upcalls;

use core::ffi::{CStr, c_int, c_void};

use keyward_client::Client;

use crate::abi::{Algorithm, Dispatch, ParamDescriptor};
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason, panic_boundary};
use crate::params::Params;
use crate::upcalls::{BioFunctions, Core};

/// The provider in one library context of OpenSSL.
pub(crate) struct Provider {
    pub(crate) client: ConfiguredClient,
    pub(crate) bio: BioFunctions,
    /// True if this OpenSSL knows ML-DSA.
    pub(crate) ml_dsa: bool,
}

/// The client of the daemon, or the fault in its configuration.
///
/// OpenSSL skips a provider that fails to start, and says nothing. So the fault is reported when a
/// key is first used.
#[derive(Clone)]
pub(crate) struct ConfiguredClient(Result<Client, String>);

impl ConfiguredClient {
    /// The client.
    ///
    /// # Errors
    /// The fault in the configuration.
    pub(crate) fn get(&self) -> Result<&Client, Error> {
        self.0.as_ref().map_err(|text| {
            Error::new(
                Reason::Configuration,
                format_args!("cannot use the configuration of the provider: {text}"),
            )
        })
    }
}

/// The only exported symbol. OpenSSL calls it when the module is activated; see provider-base(7).
///
/// # Safety
/// OpenSSL keeps the rules of provider-base(7): `upcalls` is an array that ends with id 0, and
/// `table` and `context` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_provider_init(
    handle: *const c_void,
    upcalls: *const c_void,
    table: Option<&mut *const c_void>,
    context: Option<&mut *mut c_void>,
) -> c_int {
    panic_boundary(|| {
        let (Some(table), Some(context)) = (table, context) else { return Err(Error::null()) };
        // SAFETY: OpenSSL passes its handle and its array, which live as long as the provider.
        let core = unsafe { Core::new(handle, upcalls.cast()) };
        let bio = core.bio().ok_or_else(|| Error::null())?;
        let settings = settings::read(&core);
        let client = ConfiguredClient(settings.map(|s| Client::new(s.socket, s.timeout)));
        let provider = Provider { client, bio, ml_dsa: settings::knows_ml_dsa(&core) };
        *context = Box::into_raw(Box::new(provider)).cast();
        *table = PROVIDER.as_ptr().cast();
        Ok(1)
    })
}

entry_points! {
    fn gettable_params(_provider: *const c_void) -> *const ParamDescriptor {
        Ok(PARAMS.as_ptr())
    }

    fn get_params(_provider: *const c_void, params: Params<'_>) -> c_int {
        let texts = [(NAME_PARAM, NAME), (VERSION_PARAM, VERSION), (BUILD_PARAM, VERSION)];
        let texts = texts.into_iter().all(|(key, text)| params.find(key).is_none_or(|p| p.answer_utf8(text)));
        let status = params.find(STATUS_PARAM).is_none_or(|p| p.answer_integer(1));
        Ok(c_int::from(texts && status))
    }

    fn query_operation(provider: Option<&Provider>, operation: c_int, no_cache: Option<&mut c_int>) -> *const Algorithm {
        let ml_dsa = provider.is_some_and(|provider| provider.ml_dsa);
        if let Some(no_cache) = no_cache {
            *no_cache = 0;
        }
        match operation {
            abi::OP_KEYMGMT => Ok(keymgmt::algorithms(ml_dsa).as_ptr()),
            abi::OP_SIGNATURE => Ok(signature::algorithms(ml_dsa).as_ptr()),
            abi::OP_ASYM_CIPHER => Ok(decrypt::ALGORITHMS.as_ptr()),
            abi::OP_ENCODER => Ok(encoder::algorithms(ml_dsa).as_ptr()),
            abi::OP_DECODER => Ok(decoder::ALGORITHMS.as_ptr()),
            abi::OP_STORE => Ok(store::ALGORITHMS.as_ptr()),
            _ => Err(Error::silent()),
        }
    }
}

static PROVIDER: &[Dispatch] = dispatch! {
    // Closes idle connections and waits for nothing.
    PROVIDER_TEARDOWN => context::free,
    PROVIDER_GETTABLE_PARAMS => gettable_params,
    PROVIDER_GET_PARAMS => get_params,
    PROVIDER_QUERY_OPERATION => query_operation,
};

static PARAMS: &[ParamDescriptor] = &[
    ParamDescriptor::new(NAME_PARAM, abi::UTF8_PTR),
    ParamDescriptor::new(VERSION_PARAM, abi::UTF8_PTR),
    ParamDescriptor::new(BUILD_PARAM, abi::UTF8_PTR),
    ParamDescriptor::new(STATUS_PARAM, abi::INTEGER),
    ParamDescriptor::END,
];

/// The property by which a query selects our algorithms.
pub(crate) const PROPERTIES: &CStr = c"provider=keyward";

const NAME: &CStr = c"Keyward, TLS keys held by a daemon";
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

// OSSL_PROV_PARAM_*, provider-base(7).
const NAME_PARAM: &CStr = c"name";
const VERSION_PARAM: &CStr = c"version";
const BUILD_PARAM: &CStr = c"buildinfo";
const STATUS_PARAM: &CStr = c"status";
