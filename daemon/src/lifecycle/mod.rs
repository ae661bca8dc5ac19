//! The use cases of keys: one function each, for every entrance to the daemon.
//!
//! A use case takes the running daemon, the [`Actor`] who asks, and a typed request. It returns values
//! of the domain, or an [`Error`]. The caller has checked that the actor may ask. No other module
//! writes keys.

mod adopt;
mod error;
mod placement;
mod rewrap;
mod uses;

pub(crate) use adopt::adopt;
pub(crate) use error::Error;
pub(crate) use placement::Placement;
pub(crate) use rewrap::{Finished, Rewrapped, finish_rewrap, rewrap};
pub(crate) use uses::{check_abilities, check_uses, set_uses_command};
