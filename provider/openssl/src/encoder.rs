//! Encoders, see provider-encoder(7): they write no private key, and say so.
//!
//! Without them OpenSSL asks those of its own provider, which want the private part exported. The
//! refusal of an export has to be silent, since it is a part of each signature
//! ([`keymgmt`](crate::keymgmt)), so whoever wanted the key written would not be told why. OpenSSL
//! asks the provider of a key first, for a key type and a format.

use core::ffi::{CStr, c_int, c_void};

use keyward_proto::MlDsa;

use crate::abi::{self, Algorithm, Dispatch, SELECT_PRIVATE_KEY};
use crate::context;
use crate::entry::{dispatch, entry_points};
use crate::error::{Error, Reason};
use crate::key::Key;
use crate::keymgmt::{ML_DSA_44, ML_DSA_65, ML_DSA_87};

entry_points! {
    /// What is public OpenSSL's own encoders write.
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
        let key = key.and_then(Key::daemon_key).ok_or(Error::null())?;
        let label = key.reference.label();
        Err(Error::new(
            Reason::KeptPrivate,
            format_args!(
                "cannot write the private key \"{label}\": it does not leave the daemon; a copy of the reference file \
                 serves as a copy of it, and -pubout writes the public key"
            ),
        ))
    }
}

pub(crate) fn algorithms(ml_dsa: bool) -> &'static [Algorithm] {
    if ml_dsa { ALGORITHMS } else { &ALGORITHMS[MlDsa::ALL.len() * FORMATS..] }
}

/// How many formats each key type has below.
const FORMATS: usize = 7;

/// Lists each format for each key type.
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

/// Those of ML-DSA stand first, so that what follows them is a list, too.
static ALGORITHMS: &[Algorithm] =
    encoders![ML_DSA_44, ML_DSA_65, ML_DSA_87, c"RSA", c"RSA-PSS", c"EC", c"ED25519"];

static TABLE: &[Dispatch] = dispatch! {
    ENCODER_NEWCTX => context::lend_provider,
    ENCODER_FREECTX => context::return_provider,
    ENCODER_DOES_SELECTION => does_selection,
    ENCODER_ENCODE => encode,
};
