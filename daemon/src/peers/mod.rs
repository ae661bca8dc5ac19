//! The path of one signature: [`listener`] accepts a peer, [`session`] cuts what arrives into requests,
//! [`answer`] decides each of them. [`reactors`] are the threads on which all this runs.

pub(crate) mod answer;
pub(crate) mod listener;
pub(crate) mod reactors;
mod session;
mod stream;
