//! The software crypto unit as a GREP11 server: `keyward unit serve`.
//!
//! [`UnitServer`] starts and stops. A [`connection`] carries calls. [`limits`] bounds the
//! number of connections and calls. [`admission_service`] passes each call through [`admission`],
//! which decides with [`tokens`] who may call, and as which of the [`clients`]. [`memory`] bounds
//! the size of all requests together. [`turns`] orders the calls of clients. [`service`] has the
//! rpcs, and [`simulator`] makes the unit slow or unreliable for tests.

#![forbid(unsafe_code)]

mod admission;
mod admission_service;
mod clients;
mod connection;
mod error;
mod limits;
mod memory;
mod options;
mod rpcs;
mod serve;
mod service;
mod simulator;
mod status;
mod tls;
mod tokens;
mod turns;

pub use error::UnitServerError;
pub use options::{Options, Transport};
pub use serve::UnitServer;
pub use simulator::{Chance, Simulation, mechanism};
