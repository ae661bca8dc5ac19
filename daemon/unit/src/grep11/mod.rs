//! GREP11: the calls that the unit offers to clients of Enterprise PKCS #11 over gRPC.
//!
//! Each call is a method of [`Crypto`], which takes the request and returns the response or an
//! [`Error`]. This module knows nothing of the network. The unit keeps nothing between calls except
//! its cache of unwrapped keys: keys are [blobs](crate::blob), and operations in several parts are
//! [states](state).

mod aes;
mod attributes;
mod check_sum;
mod cipher;
mod crypto;
mod derive;
mod digest;
mod ecdsa_digest;
mod error;
mod generate;
mod hash;
mod implicit_rejection;
mod key_type;
mod mechanism;
mod pss;
mod public_key;
mod public_material;
mod request_key;
mod rsa;
mod rsa_padding;
mod rsa_size;
mod session;
mod sign;
mod sign_method;
mod signer;
mod state;
mod template;
#[cfg(test)]
mod tests;
mod verifier;
mod wrap;

pub use crypto::Crypto;
pub use error::Error;
pub use key_type::parameter_set;
pub use public_key::spki_of_public_key_blob;
