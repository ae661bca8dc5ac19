//! Encoders, see provider-encoder(7): they refuse to write a private key, and say why.
//!
//! Without these encoders OpenSSL would use the encoders of its own provider, which need an export
//! of the private part. The refusal of an export must be silent, because each signature includes
//! one ([`keymgmt`](crate::keymgmt)). So nobody would learn why the key was not written. OpenSSL
//! asks the provider of the key first, for each key type and format.

use core::ffi::{CStr, c_int, c_void};

use keyward_proto::MlDsa;

use crate::abi::{self, Algorithm, Dispatch, SELECT_PRIVATE_KEY};
use crate::context;
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason};
use crate::key::Key;
use crate::keymgmt::{ML_DSA_44, ML_DSA_65, ML_DSA_87};

entry_points! {
    /// Private keys alone: OpenSSL's own encoders write public keys.
    fn does_selection(_provider: *const c_void, selection: c_int) -> c_int {
        Ok(c_int::from(selection & SELECT_PRIVATE_KEY != 0))
    }

    fn encode(
        _provider: *const c_void,
        _output: *mut c_void,
        key: Option<&Key>,
        _abstract: *const abi::Param,
        _selection: c_int,
        _passphrase: *const c_void,
        _passphrase_arg: *mut c_void,
    ) -> c_int {
        let key = key.and_then(Key::daemon_key).ok_or_else(|| Error::null())?;
        let label = key.reference.label();
        Err(Error::new(
            Reason::KeptPrivate,
            format_args!(
                "cannot write the private key \"{label}\": it does not leave the daemon; copy the reference file \
                 instead, or write the public key with -pubout"
            ),
        ))
    }
}

pub(crate) fn algorithms(ml_dsa: bool) -> &'static [Algorithm] {
    if ml_dsa { ALGORITHMS } else { &ALGORITHMS[MlDsa::ALL.len() * FORMATS..] }
}

/// Number of formats for each key type in `encoders!`.
const FORMATS: usize = 7;

/// Lists an encoder for each format and each key type.
macro_rules! encoders {
    ($($name:expr),* $(,)?) => {
        &[
            $(
                encoder($name, c"provider=keyward,output=pem,structure=PrivateKeyInfo"),
                encoder($name, c"provider=keyward,output=pem,structure=EncryptedPrivateKeyInfo"),
                encoder($name, c"provider=keyward,output=pem,structure=type-specific"),
                encoder($name, c"provider=keyward,output=der,structure=PrivateKeyInfo"),
                encoder($name, c"provider=keyward,output=der,structure=EncryptedPrivateKeyInfo"),
                encoder($name, c"provider=keyward,output=der,structure=type-specific"),
                encoder($name, c"provider=keyward,output=text"),
            )*
            Algorithm::END,
        ]
    };
}

const fn encoder(name: &'static CStr, properties: &'static CStr) -> Algorithm {
    Algorithm::new(name, properties, TABLE, c"Refusal to write a private key held by Keyward")
}

/// ML-DSA stands first, so that the rest is a list, too.
static ALGORITHMS: &[Algorithm] =
    encoders![ML_DSA_44, ML_DSA_65, ML_DSA_87, c"RSA", c"RSA-PSS", c"EC", c"ED25519"];

static TABLE: &[Dispatch] = dispatch! {
    ENCODER_NEWCTX => context::lend_provider,
    ENCODER_FREECTX => context::return_provider,
    ENCODER_DOES_SELECTION => does_selection,
    ENCODER_ENCODE => encode,
};
