//! The path of one signature: [`listener`] accepts a peer, [`credentials`] says who that is, [`session`] cuts
//! what arrives into requests, [`answer`] decides each of them. [`reactors`] are the threads on which all this runs.
//!
//! Users do not disturb each other: [`connections`] says who may stay connected, [`users`] how much may wait
//! for each, [`turns`] whose request is next. [`service`] tells the services of one user from each other.

pub(crate) mod answer;
pub(crate) mod connections;
pub(crate) mod credentials;
pub(crate) mod listener;
pub(crate) mod reactors;
pub(crate) mod service;
mod session;
mod stream;
mod system;
mod turns;
pub(crate) mod users;
