#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

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
