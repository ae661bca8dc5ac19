#![cfg_attr(feature = "tokio", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "rustls servers and clients whose private keys are with the Keyward daemon; see README.md."
)]
#![forbid(unsafe_code)]

mod error;
mod follow;
#[cfg(feature = "tokio")]
pub mod handshake;
mod key;
mod keyward;
mod resolver;
mod wait;

pub use error::Error;
pub use key::Key;
pub use keyward::Keyward;
pub use keyward_client::{Error as RequestError, InvalidAddress};
pub use keyward_proto::{InvalidLabel, InvalidReference, Outcome};
pub use resolver::{KeyStatus, Problem, Resolver, ResolverBuilder};
