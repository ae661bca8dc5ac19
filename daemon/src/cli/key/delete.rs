//! `keyward key delete` and `keyward key set-deletion`.

use core::time::Duration;
use std::io::{self, IsTerminal};

use clap::Args;
use hyper::StatusCode;
use serde_json::json;

use super::confirm::confirmed;
use super::destroy::not_final;
use super::named::{Named, for_daemon};
use crate::admin::api::KeyView;
use crate::admin::client::AdminClientError;
use crate::admin::request;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json, time};
use crate::ground::exit;
use crate::ground::ownership::Name;
use crate::keys;

#[derive(Args, Debug)]
pub(in crate::cli) struct Delete {
    #[command(flatten)]
    key: Named,
    /// Delete the key without a question on a terminal; elsewhere, delete it even if it is enabled
    #[arg(long)]
    yes: bool,
    /// Delete the key even if a peer has used it within the last hour
    #[arg(long)]
    force: bool,
    /// Time until the key is destroyed, from 1h to 10y [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    after: Option<Duration>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct SetDeletion {
    #[command(flatten)]
    key: Named,
    /// Two users must ask to delete the key, the second within 7 days; this cannot be undone
    #[arg(long, required = true)]
    dual: bool,
}

impl Delete {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, yes, force, after } = self;
        let label = &key.label;
        match yes {
            true => {}
            false if io::stdin().is_terminal() => {
                let question =
                    format!("Delete key {label}, so that it signs no more? Type its label to confirm: ");
                if !confirmed(&question, label.as_str())? {
                    return Err(Failure::new(exit::USAGE, format_args!("key {label} was not deleted")));
                }
            }
            false => refuse_enabled(&key)?,
        }
        let after = after.map(|time| time.as_secs());
        let deleted = key.call("delete", |admin, label| admin.delete(label, after, force))?;
        let is_deleted = deleted.as_ref().is_none_or(|key| key.deletion.is_some());
        if key.client.json {
            let (destroy_at, approval) = match &deleted {
                Some(key) => (key.deletion.map(|deletion| deletion.destroy_at), key.approval),
                None => (None, None),
            };
            let label = label.as_str();
            return print_json(
                &json!({ "label": label, "deleted": is_deleted, "destroy_at": destroy_at, "approval": approval }),
            );
        }
        print(&told(&key, deleted.as_ref()))
    }
}

/// The result of a deletion for a person, with the commands that may be needed next.
fn told(key: &Named, deleted: Option<&KeyView>) -> String {
    let label = &key.label;
    let command = |words: &str| for_daemon(format!("keyward key {words}"), &key.client.runtime_dir);
    let restore = command(&format!("restore {label}"));
    match deleted.map(|key| (key.deletion, key.approval)) {
        None => format!("key {label} is destroyed: its record was altered\n{}", not_final(key)),
        Some((Some(deletion), _)) => format!(
            "key {label} is deleted, and will be destroyed at {}\nTo bring it back until then: {restore}\n",
            time(deletion.destroy_at)
        ),
        Some((None, Some(approval))) => format!(
            "key {label} is not deleted yet: {} has asked, and another user must ask until {}: {}\nTo withdraw the request: {restore}\n",
            Name(approval.by),
            time(approval.until),
            command(&format!("delete {label}"))
        ),
        Some((None, None)) => format!("key {label} is not deleted\n"),
    }
}

impl SetDeletion {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, dual } = self;
        let change = request::Change { dual: Some(dual), ..request::Change::default() };
        key.run("set the deletion of", |admin, label| admin.change(label, &change))
    }
}

/// Refuses to delete an enabled key if there is no terminal to ask on.
fn refuse_enabled(key: &Named) -> Result<(), Failure> {
    let is_enabled = key.call("delete", |admin, label| match admin.show(label) {
        Ok(key) => Ok(key.state == keys::State::Enabled.name()),
        // A key whose record was altered signs nothing.
        Err(AdminClientError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, .. }) => Ok(false),
        Err(error) => Err(error),
    })?;
    let label = &key.label;
    let command = for_daemon(format!("keyward key delete {label} --yes"), &key.client.runtime_dir);
    match is_enabled {
        false => Ok(()),
        true => Err(Failure::new(
            exit::USAGE,
            format_args!(
                "key {label} was not deleted: it is enabled, and its servers would fail at once; if no server \
                 needs it any more, run: {command}"
            ),
        )),
    }
}
