//! Tests of the whole program: the command line, the sockets, the signals and the disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod altered_store;
mod architecture;
mod attacks;
mod audit;
mod audit_failures;
mod audit_limits;
mod backup;
mod ceremony;
mod encrypted_parts;
mod fixture;
mod frames;
mod free_bytes;
mod guided_ceremony;
mod key_life;
mod keys;
mod life;
mod lost_store;
mod master_key;
mod messages;
mod migration;
mod other_users_sockets;
mod outsiders;
mod ownership;
mod purpose;
mod refusals;
mod roles;
mod roles_page;
mod roles_strangers;
mod sealed;
mod setup;
mod shred;
mod signers;
mod signing_service;
mod store;
mod terminal;
mod transcripts;
mod unit_commands;
mod unit_comparison;
mod unit_kills;
mod unit_losses;
mod unit_starts;
mod upgrade;
mod users;
mod watch;
