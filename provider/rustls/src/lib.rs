#![cfg_attr(feature = "tokio", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "tokio"),
    doc = "rustls servers and clients whose private keys are with the Keyward daemon; README.md has the beginning."
)]
#![forbid(unsafe_code)]

mod daemon;
mod error;
mod follow;
mod key;
mod resolver;
#[cfg(feature = "tokio")]
pub mod tokio;
mod wait;

pub use daemon::Daemon;
pub use error::Error;
pub use key::SigningKey;
pub use keyward_client::{Error as RequestError, InvalidAddress};
pub use keyward_proto::{InvalidLabel, InvalidReference, Outcome};
pub use resolver::{KeyStatus, Resolver, ResolverBuilder};
