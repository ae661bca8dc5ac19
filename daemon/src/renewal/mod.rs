//! Certificates that renew themselves: when each is due ([`due`]), how far it is ([`progress`]),
//! the facts about keys and certificates that outlive a plan ([`known`], [`former`],
//! [`revocation`]), the file of both ([`stored`], kept by [`renewals`]), and the messages to its
//! authority ([`jws`]).
//!
//! The daemon decides and signs. An agent without keys carries the messages to the authority
//! (docs/certificates.md), and cannot choose anything in them but a nonce and a URL of the
//! authority.

pub(crate) mod due;
pub(crate) mod former;
pub(crate) mod jws;
pub(crate) mod known;
pub(crate) mod progress;
mod renewals;
pub(crate) mod revocation;
mod stored;

pub(crate) use known::Known;
pub(crate) use progress::Progress;
pub(crate) use renewals::{Looked, Renewals};
