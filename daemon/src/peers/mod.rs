//! The path of one signature through the daemon. In the order of the calls:
//!
//! 1. [`listener`] accepts a connection, which waits in [`accepted`] for its turn. [`credentials`]
//!    takes the user, the group and the process of the peer from the kernel, [`system`] its other
//!    groups, and [`service`] its systemd service.
//! 2. [`connections`] gives the connection a slot, within the limits of its [`owner`]. The
//!    [`slot_table`] chooses the connection that is closed if there is no free slot.
//! 3. [`reactors`] are the threads. `listener` starts a task on one of them, with the socket as a
//!    [`stream`].
//! 4. [`session`] serves the connection. Its [`incoming`] half reads bytes and cuts them into
//!    requests, each with a permit of the account of the user ([`users`]).
//! 5. `session` decodes the next request when [`turns`] gives a turn to its user.
//! 6. [`answer`] chooses by the kind of the request. A signature becomes an [`operation`].
//! 7. `operation` checks that a grant covers the label ([`crate::policy::authorise`]), finds the
//!    key ([`crate::keys`]), classifies the message ([`crate::policy::purpose`]), checks uses and
//!    limits of the grant, and calls the backend ([`crate::backend`]).
//! 8. [`record`] makes metrics and log lines of the operation, within [`log_limits`].
//! 9. The [`outgoing`] half of the session sends the answer. [`session_end`] records why a session
//!    ends.
//!
//! [`shared`] holds the state of all connections.

mod accepted;
mod answer;
pub(crate) mod connections;
pub(crate) mod credentials;
mod incoming;
pub(crate) mod listener;
mod log_limits;
mod operation;
mod outgoing;
pub(crate) mod owner;
pub(crate) mod reactors;
mod record;
pub(crate) mod refusals;
pub(crate) mod service;
mod session;
mod session_end;
pub(crate) mod shared;
mod slot_table;
mod stream;
mod system;
mod turns;
pub(crate) mod users;

/// Name of the peers' socket in the runtime directory.
pub(crate) const SOCKET: &str = "keyward.sock";

#[cfg(test)]
mod tests;
