#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod algorithm_identifier;
mod fingerprint;
pub mod frame;
mod input;
mod label;
mod ml_dsa;
pub mod oid;
mod outcome;
pub mod pem;
mod pss;
mod public_key;
mod reference;
mod words;

/// The protobuf messages, generated from `keyward.proto`, which documents each message.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/keyward.v1.rs"));
}

pub use fingerprint::Fingerprint;
pub use input::Input;
pub use label::{InvalidLabel, Label};
pub use message::Outcome;
pub use ml_dsa::MlDsa;
pub use pss::PssParameters;
pub use public_key::{Curve, InvalidPublicKey, PublicKey};
pub use reference::{InvalidReference, Reference};
pub use words::{Hash, KeyState, KeyType, Scheme, SchemeFamily, UnknownWord, Use};
