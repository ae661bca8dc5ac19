//! Decryption, see provider-asym_cipher(7): RSA key exchange of TLS 1.2 and nothing else.
//!
//! libssl asks with a special padding, RSA_PKCS1_WITH_TLS_PADDING, whose result is always 48 bytes.
//! The daemon returns 48 bytes for a valid ciphertext and for an invalid one, so this module has
//! nothing to hide. Other paddings are refused: they would show whether the ciphertext was valid.

use core::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use keyward_client::Premaster;
use keyward_proto::PublicKey;

use crate::abi::{self, Algorithm, Dispatch, INTEGER, ParamDescriptor, UNSIGNED_INTEGER, UTF8_STRING};
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason};
use crate::key::{DaemonKey, Key};
use crate::out_buffer::OutBuffer;
use crate::params::{Params, bytes};
use crate::{PROPERTIES, context};

/// Context of one decryption: the key and the settings of the program.
#[derive(Clone, Default)]
pub(crate) struct DecryptContext {
    key: Option<Arc<DaemonKey>>,
    /// True if the program set the padding of TLS.
    tls_padding: bool,
    client_version: Option<u16>,
}

entry_points! {
    fn decrypt_init(context: Option<&mut DecryptContext>, key: Option<&Key>, params: Params<'_>) -> c_int {
        let context = context.ok_or_else(|| Error::null())?;
        let is_rsa = |key: &&Arc<DaemonKey>| matches!(key.reference.public_key(), PublicKey::Rsa { .. });
        let key = key.and_then(Key::daemon_key).filter(is_rsa).ok_or_else(|| {
            Error::new(Reason::NotSupported, "cannot decrypt with this key; load the reference of an RSA key")
        })?;
        *context = DecryptContext { key: Some(Arc::clone(key)), ..DecryptContext::default() };
        context.set(params)?;
        Ok(1)
    }

    fn decrypt(
        context: Option<&mut DecryptContext>,
        out: *mut u8,
        length: Option<&mut usize>,
        room: usize,
        ciphertext: *const u8,
        ciphertext_length: usize,
    ) -> c_int {
        let (Some(context), Some(length)) = (context, length) else { return Err(Error::null()) };
        if !context.tls_padding {
            let text = "cannot decrypt with this padding: the daemon decrypts for the RSA key exchange of TLS and for \
                        nothing else";
            return Err(Error::new(Reason::NotSupported, text));
        }
        // SAFETY: provider-asym_cipher(7): `out` is null or has `room` writable bytes.
        let out = unsafe { OutBuffer::new(out, length, room, || Ok(Premaster::LENGTH)) }?;
        let Some(out) = out else { return Ok(1) };
        out.check_room(Premaster::LENGTH, "premaster secret")?;
        let key = context.key.as_ref().ok_or_else(|| {
            Error::new(Reason::Internal, "cannot decrypt before a key is set")
        })?;
        let client_version = context.client_version.ok_or_else(|| {
            Error::new(Reason::NotSupported, "cannot decrypt a premaster secret without the version of the client")
        })?;
        // SAFETY: provider-asym_cipher(7): `ciphertext` has `ciphertext_length` readable bytes.
        let ciphertext = unsafe { bytes(ciphertext, ciphertext_length) };
        let premaster = key.decrypt_premaster(ciphertext, client_version)?;
        out.fill(premaster.as_ref(), "premaster secret")
    }

    fn set_ctx_params(context: Option<&mut DecryptContext>, params: Params<'_>) -> c_int {
        context.ok_or_else(|| Error::null())?.set(params)?;
        Ok(1)
    }

    fn settable_ctx_params(_context: *const c_void, _provider: *const c_void) -> *const ParamDescriptor {
        Ok(SETTABLE.as_ptr())
    }
}

impl DecryptContext {
    fn set(&mut self, params: Params<'_>) -> Result<(), Error> {
        if let Some(padding) = params.find(PAD_MODE) {
            self.tls_padding = padding.integer() == Some(abi::RSA_PKCS1_WITH_TLS_PADDING.into());
        }
        if let Some(version) = params.find(CLIENT_VERSION) {
            let version = version.integer().and_then(|version| u16::try_from(version).ok());
            self.client_version = Some(version.ok_or_else(|| {
                Error::new(
                    Reason::NotSupported,
                    "cannot decrypt a premaster secret: there is no such version of TLS",
                )
            })?);
        }
        Ok(())
    }
}

/// The decryption algorithm, with the names that OpenSSL looks for.
pub(crate) static ALGORITHMS: &[Algorithm] = &[
    Algorithm::new(
        c"RSA:rsaEncryption:1.2.840.113549.1.1.1",
        PROPERTIES,
        TABLE,
        c"RSA key exchange of TLS by Keyward",
    ),
    Algorithm::END,
];

static TABLE: &[Dispatch] = dispatch! {
    ASYM_CIPHER_NEWCTX => context::new,
    ASYM_CIPHER_FREECTX => context::free,
    ASYM_CIPHER_DUPCTX => context::duplicate,
    ASYM_CIPHER_DECRYPT_INIT => decrypt_init,
    ASYM_CIPHER_DECRYPT => decrypt,
    ASYM_CIPHER_SET_CTX_PARAMS => set_ctx_params,
    ASYM_CIPHER_SETTABLE_CTX_PARAMS => settable_ctx_params,
};

static SETTABLE: &[ParamDescriptor] = &[
    ParamDescriptor::new(PAD_MODE, UTF8_STRING),
    ParamDescriptor::new(PAD_MODE, INTEGER),
    ParamDescriptor::new(CLIENT_VERSION, UNSIGNED_INTEGER),
    ParamDescriptor::END,
];

// OSSL_ASYM_CIPHER_PARAM_*, provider-asym_cipher(7).
const PAD_MODE: &CStr = c"pad-mode";
const CLIENT_VERSION: &CStr = c"tls-client-version";
