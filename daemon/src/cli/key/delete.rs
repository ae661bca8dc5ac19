//! `keyward key delete`.

use std::io::{self, IsTerminal};

use clap::Args;
use hyper::StatusCode;
use serde_json::json;

use super::confirm::confirmed;
use super::named::{Named, for_daemon};
use crate::admin::client::AdminClientError;
use crate::cli::failure::Failure;
use crate::cli::output::print_json;
use crate::ground::exit;
use crate::keys;

#[derive(Args, Debug)]
pub(in crate::cli) struct Delete {
    #[command(flatten)]
    key: Named,
    /// Delete the key without a question on a terminal; elsewhere, delete it even if it is enabled
    #[arg(long)]
    yes: bool,
}

impl Delete {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, yes } = self;
        let label = &key.label;
        match yes {
            true => {}
            false if io::stdin().is_terminal() => {
                let question = format!("Delete key {label} for ever? Type its label to confirm: ");
                if !confirmed(&question, label.as_str())? {
                    return Err(Failure::new(exit::USAGE, format_args!("key {label} was not deleted")));
                }
            }
            false => refuse_enabled(&key)?,
        }
        key.call("delete", |admin, label| admin.delete(label))?;
        if key.client.json {
            return print_json(&json!({ "label": label.as_str(), "deleted": true }));
        }
        Ok(())
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
                "key {label} was not deleted: it is enabled, and could not be brought back; if no server \
                 needs it any more, run: {command}"
            ),
        )),
    }
}
