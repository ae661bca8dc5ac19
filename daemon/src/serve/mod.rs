//! Start-up, reload, upgrade and drain of the daemon. This folder knows every other folder, and
//! only the command line and the client of the admin socket know this folder.
//!
//! [`starter`] is the process that was started, and starts the daemon as its child.
//! [`start`] starts and runs the daemon, and hands over to [`reload`], [`drain`] and [`upgrade`].
//! [`confinement`] takes from the process what it does not need. [`backends`] opens the backends
//! with [`embedded_unit`] and [`store_key`], [`sockets`] binds the sockets, and [`accept`] serves
//! them. [`unit_server`] serves GREP11 instead of peers.
//! [`migration`] and [`backup`] are commands that work without a running daemon.

mod accept;
mod audit;
mod backends;
mod background;
pub(crate) mod backup;
mod configuration;
mod confinement;
mod drain;
pub(crate) mod embedded_unit;
mod error;
pub(crate) mod migration;
mod options;
mod reload;
pub(crate) mod sockets;
mod start;
pub mod starter;
pub(crate) mod store_key;
mod survey;
mod unit_server;
pub(crate) mod upgrade;

pub(crate) use configuration::{skipped, warnings};
pub use error::ServeError;
pub use options::{DEFAULT_CONFIG, Options, UnitOptions};
pub use start::{serve, serve_and};
