#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod address;
mod answer;
mod call;
mod client;
mod connection;
mod error;
mod key_id;
mod pool;
mod system;

pub use address::{Address, InvalidAddress};
pub use answer::{Answer, Changes, Description, Premaster, Signature, Status};
pub use call::{Call, Progress};
pub use client::Client;
pub use error::Error;
pub use key_id::KeyId;
pub use keyward_proto::{
    Fingerprint, Input, InvalidLabel, KeyState, KeyType, Label, Outcome, Reference, Scheme, Use,
};
