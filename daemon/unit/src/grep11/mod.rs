//! GREP11: the calls that the unit serves to whoever has a client for Enterprise PKCS #11 over gRPC.
//!
//! Each call is a method of [`Crypto`] that takes the request and gives the response or an [`Error`]; how they
//! travel is settled elsewhere. Nothing is kept between calls but the unit's cache of unwrapped keys: keys are
//! [blobs](crate::blob), operations in several parts are [states](state).

mod attributes;
mod cipher;
mod derive;
mod digest;
mod error;
mod generate;
mod hash;
mod implicit_rejection;
mod long_digest;
mod mechanism;
mod public_key;
mod rsa;
mod rsa_padding;
mod session;
mod sign;
mod state;
mod template;
mod wrap;

pub use attributes::parameter_set;
pub use error::Error;
pub use public_key::spki_of_public_key_blob;

use std::sync::Arc;

use keyward_grep11::{KeyBlob, ckr};

use crate::blob::Attributes;
use crate::object::{Material, Object};
use crate::unit::Unit;

/// A crypto unit, as the service `grep11.Crypto` has it.
pub struct Crypto {
    unit: Arc<Unit>,
    /// Whether it is an error of decryption that a padding of PKCS #1 v1.5 is wrong.
    padding_errors: bool,
}

impl Crypto {
    /// Serves a unit.
    pub fn new(unit: impl Into<Arc<Unit>>) -> Self {
        Self { unit: unit.into(), padding_errors: false }
    }

    /// The same with older firmware, which tells in decryption that a padding of PKCS #1 v1.5 is wrong.
    pub fn with_padding_errors(self) -> Self {
        Self { padding_errors: true, ..self }
    }
}

/// The key of a request, in either dialect. If both are there, the newer one counts.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` if there is none.
fn key_argument(newer: Option<KeyBlob>, older: Vec<u8>) -> Result<Vec<u8>, Error> {
    let newer = newer.and_then(|key| key.key_blobs.into_iter().next()).filter(|blob| !blob.is_empty());
    let blob = newer.unwrap_or(older);
    if blob.is_empty() {
        return Err(Error::new(ckr::CKR_ARGUMENTS_BAD, "the request has no key"));
    }
    Ok(blob)
}

/// A key in the newer form of a response.
fn key_blob(blob: &[u8]) -> Option<KeyBlob> {
    Some(KeyBlob { key_blobs: vec![blob.to_vec()], ..KeyBlob::default() })
}

/// Checks that a key may be used so.
///
/// # Errors
/// `CKR_KEY_FUNCTION_NOT_PERMITTED`.
fn permitted(attributes: Attributes, bit: u64, attribute: &str) -> Result<(), Error> {
    match attributes.has(bit) {
        true => Ok(()),
        false => {
            let detail = format!("the key may not be used so: its attribute {attribute} is false");
            Err(Error::new(ckr::CKR_KEY_FUNCTION_NOT_PERMITTED, detail))
        }
    }
}

/// A key of a type that the mechanism has no use for.
fn wrong_type(needed: &str) -> Error {
    Error::new(ckr::CKR_KEY_TYPE_INCONSISTENT, format!("the mechanism needs {needed}"))
}

impl Crypto {
    /// The check sum of a new key: its check value, and its length in bits.
    ///
    /// For an AES key the check value is the start of a block of zeros under the key, for another secret key
    /// that of the SHA-1 of its value (PKCS #11 2.40, 4.10.2). A private key is summed up by its public key.
    fn check_sum(&self, object: &Object) -> Result<Vec<u8>, Error> {
        let (mut sum, bits) = match &object.material {
            Material::Secret(secret) => (cipher::check_value(secret)?, secret.value.len() * 8),
            private => {
                let spki = private.spki().unwrap_or_default();
                let public = self.wrap_public(spki, generate::public_attributes(object.attributes))?;
                (public, attributes::bits(private))
            }
        };
        sum.extend_from_slice(&u32::try_from(bits).unwrap_or(u32::MAX).to_be_bytes());
        Ok(sum)
    }
}
