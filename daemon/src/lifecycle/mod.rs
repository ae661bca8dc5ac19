//! Operations on keys: one function each, for every interface of the daemon.
//!
//! An operation takes the running daemon, the [`Actor`] who asks, and a typed request. The
//! operation returns keys and other values of the daemon, or an [`Error`]. The caller has checked
//! that the actor may ask. Each act is on record before it changes anything ([`event::begin`]), and
//! when it has ended. No other module writes keys.

mod audit_key;
mod certificates;
mod change;
mod create;
mod deadlines;
mod details;
mod error;
mod event;
mod life;
mod next_start;
mod placement;
pub(crate) mod renewal;
mod request;
mod rewrap;
mod shred;
mod store;
mod unit;
mod uses;
mod versions;

pub(crate) use audit_key::audit_key;
pub(crate) use certificates::{attach, detach};
pub(crate) use change::{Change, change};
pub(crate) use create::{KeySpec, Properties, adopt, generate, generate_all, import};
pub(crate) use deadlines::{follow_deadlines, hold_destructions};
pub(crate) use error::Error;
pub(crate) use event::{Actor, configuration_loaded, reload};
pub(crate) use life::{Delete, MIN_WAIT, compromise, delete, purge, restore};
pub(crate) use next_start::{follow as follow_next_start, look as look_at_next_start, mend_state};
pub(crate) use request::{SignedRequest, sign_request};
pub(crate) use rewrap::{Finished, Rewrapped, finish_rewrap, rewrap};
pub(crate) use shred::{follow_purges, mend_secrets, note_recovery, recovery};
pub(crate) use store::{backup, repair};
pub(crate) use unit::{
    CarriedOut, claim_secret, give_up_rotation, left_behind, prepare_rotation, seal_unit, unit_commands,
    unit_custody, unit_importer, unit_part,
};
pub(crate) use uses::set_uses_command;
pub(crate) use versions::{import_version, rotate};

#[cfg(test)]
mod tests;
