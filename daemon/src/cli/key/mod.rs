//! `keyward key`: the keys of a daemon.

mod bulk;
mod confirm;
mod create;
mod dates;
mod delete;
mod destroy;
mod import;
mod named;
mod print;
mod repair;
pub(in crate::cli) mod rewrap;
mod uses;

use core::slice;

use clap::{Args, Subcommand};
use serde_json::json;

use super::altered::{warn_of_altered_keys, warn_of_sealed_unit};
use super::client::Client;
use super::failure::Failure;
use super::output::{JsonList, print, print_json};
use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request;
use crate::ground::exit;
use crate::keys::{self, Altered};
pub(super) use confirm::confirmed;
use create::{Adopt, Generate};
use dates::SetDates;
use delete::{Delete, SetDeletion};
use destroy::{Compromise, Purge};
use import::Import;
use named::Named;
pub(super) use named::for_daemon;
use print::KeyTable;
use rewrap::Rewrap;
use uses::SetUses;
pub(super) use uses::how_to_allow;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new key in the crypto unit
    Generate(Generate),
    /// Import a private key from a file
    Import(Import),
    /// Add a key that a GREP11 unit has already wrapped
    Adopt(Adopt),
    /// List the keys; the status is 65 if records or lists of the key store were altered
    List(#[command(flatten)] Client),
    /// Show a key
    Show(Named),
    /// Print the reference that a server loads instead of a key file
    Reference(ReferenceTo),
    /// Make a new version of a key; older versions still sign for references that name them
    Rotate(Named),
    /// Replace all uses of a key, and print the uses that the key has lost
    SetUses(SetUses),
    /// Let a disabled key sign again
    Enable(Named),
    /// Keep a key from signing; the key can be enabled again
    Disable(Named),
    /// Keep a key from signing for ever, because somebody else may have the private key
    Compromise(Compromise),
    /// Set the dates from which a key signs, and signs no more
    SetDates(SetDates),
    /// Set how a key is deleted
    SetDeletion(SetDeletion),
    /// Delete a key: it signs no more, and is destroyed after a waiting period
    Delete(Delete),
    /// Bring a deleted key back, or withdraw the first of two requests to delete it
    Restore(Named),
    /// Destroy a deleted key now, for ever
    Purge(Purge),
    /// Rebuild the altered lists of the key store; their keys are disabled, or removed
    Repair(#[command(flatten)] Client),
    /// Wrap the keys of a backend with the next master key
    Rewrap(Rewrap),
}

#[derive(Args, Debug)]
pub(super) struct ReferenceTo {
    #[command(flatten)]
    key: Named,
    /// The version that the reference names [default: the current version]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Generate(generate) => generate.run(),
            Self::Import(import) => import.run(),
            Self::Adopt(adopt) => adopt.run(),
            Self::List(client) => list(&client),
            Self::Show(key) => key.run("show", AdminClient::show),
            Self::Reference(reference) => reference.run(),
            Self::Rotate(key) => key.run("rotate", AdminClient::rotate),
            Self::SetUses(set_uses) => set_uses.run(),
            Self::Enable(key) => key.run("enable", set_state(keys::State::Enabled)),
            Self::Disable(key) => key.stop("disable", set_state(keys::State::Disabled)),
            Self::Compromise(compromise) => compromise.run(),
            Self::SetDates(dates) => dates.run(),
            Self::SetDeletion(set) => set.run(),
            Self::Delete(delete) => delete.run(),
            Self::Restore(key) => key.run("restore", AdminClient::restore),
            Self::Purge(purge) => purge.run(),
            Self::Repair(client) => repair::run(&client),
            Self::Rewrap(rewrap) => rewrap.run(),
        }
        .map(drop)
    }
}

impl ReferenceTo {
    fn run(self) -> Result<(), Failure> {
        let key = self.key.call("make a reference to", AdminClient::show)?;
        let label = &self.key.label;
        if key.deletion.is_some() {
            let command = for_daemon(format!("keyward key restore {label}"), &self.key.client.runtime_dir);
            let why = format_args!(
                "cannot make a reference to key {label}: the key is deleted; bring the key back: {command}"
            );
            return Err(Failure::new(exit::CANNOT_CREATE, why));
        }
        let version = self.version.unwrap_or(key.current);
        if !key.versions.iter().any(|known| known.number == version) {
            let command = for_daemon(format!("keyward key show {label}"), &self.key.client.runtime_dir);
            let why = format_args!(
                "cannot make a reference to version {version} of key {label}: there is no such version; list the versions: {command}"
            );
            return Err(Failure::new(exit::NO_INPUT, why));
        }
        let reference = key.reference(version).ok_or_else(|| {
            let why = "the daemon sent an unknown public key";
            Failure::new(exit::SOFTWARE, format_args!("cannot make a reference to key {label}: {why}"))
        })?;
        warn_of_sealed_unit(slice::from_ref(&key));
        let pem = reference.to_pem();
        if self.key.client.json {
            return print_json(&json!({ "label": key.label, "version": version, "reference": pem }));
        }
        print(&pem)
    }
}

fn set_state(state: keys::State) -> impl FnOnce(&AdminClient, &str) -> Result<KeyView, AdminClientError> {
    let change = request::Change { state: Some(state), ..request::Change::default() };
    move |admin, label| admin.change(label, &change)
}

fn list(client: &Client) -> Result<(), Failure> {
    let failed = |error| Failure::from(error).while_trying("cannot list keys");
    let admin = AdminClient::new(&client.runtime_dir).map_err(failed)?;
    let (mut table, mut json) = (KeyTable::default(), JsonList::default());
    let (mut altered, mut doubtful) = (Altered::default(), Vec::new());
    for page in admin.pages() {
        let page = page.map_err(failed)?;
        match client.json {
            true => page.keys.iter().try_for_each(|key| json.add(key))?,
            false => table.print(&page.keys)?,
        }
        let is_doubtful = |key: &KeyView| key.problem.is_some() || key.unverified || key.unwritten;
        doubtful.extend(page.keys.into_iter().filter(is_doubtful));
        altered = page.altered;
    }
    if client.json {
        json.end()?;
    }
    warn_of_altered_keys(&doubtful, &altered);
    warn_of_sealed_unit(&doubtful);
    match doubtful.iter().any(|key| key.problem.is_some()) || altered.total() > 0 {
        true => Err(Failure::silent(exit::DATA)),
        false => Ok(()),
    }
}
