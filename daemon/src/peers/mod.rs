//! The path of one signature: [`listener`] accepts a peer and [`credentials`] says who the peer is.
//! [`session`] cuts the bytes that arrive into requests. [`answer`] decides each request: a request
//! for a private key becomes an [`operation`], and the [`record`] of the operation follows its end.
//! [`reactors`] are the threads on which all this runs, [`shared`] is the state of all connections.
//!
//! Users do not disturb each other: [`connections`] limits the connections of each user, [`users`]
//! the requests that wait, [`turns`] decides whose request is next, and [`lines`] limits the log.
//! [`service`] tells the services of one user from each other.

mod answer;
pub(crate) mod connections;
pub(crate) mod credentials;
mod lines;
pub(crate) mod listener;
mod operation;
pub(crate) mod reactors;
mod record;
pub(crate) mod service;
mod session;
pub(crate) mod shared;
mod stream;
mod system;
mod turns;
pub(crate) mod users;

#[cfg(test)]
mod tests;
