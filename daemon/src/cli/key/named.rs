//! A key that a command names.

use core::slice;
use std::path::{Path, PathBuf};

use clap::Args;
use keyward_proto::Label;

use super::print::print_key;
use crate::admin::api::KeyView;
use crate::admin::client::{AdminClient, AdminClientError};
use crate::cli::altered::warn_of_sealed_unit;
use crate::cli::client::{Client, RUNTIME_DIR};
use crate::cli::failure::Failure;
use crate::cli::output::print_json;
use crate::ground::exit;
use crate::ground::text::quoted;

#[derive(Args, Debug)]
pub(in crate::cli) struct Named {
    /// Label of the key
    #[arg(value_name = "LABEL")]
    pub(super) label: Label,
    #[command(flatten)]
    pub(super) client: Client,
}

/// A key that a command names, or the keys of a list.
#[derive(Args, Debug)]
pub(in crate::cli) struct NamedOrListed {
    /// Label of the key
    #[arg(value_name = "LABEL", required_unless_present = "from", conflicts_with = "from")]
    label: Option<Label>,
    /// File with a list of keys, one in each line; - for standard input
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl NamedOrListed {
    /// The key, or the file with the list.
    pub(super) fn split(self) -> Result<Named, (PathBuf, Client)> {
        let Self { label, from, client } = self;
        match (label, from) {
            (Some(label), _) => Ok(Named { label, client }),
            // One of both is there.
            (None, from) => Err((from.unwrap_or_default(), client)),
        }
    }
}

impl Named {
    /// Does something with the key, and prints the key that the daemon returns.
    pub(super) fn run(
        &self,
        verb: &str,
        call: impl FnOnce(&AdminClient, &str) -> Result<KeyView, AdminClientError>,
    ) -> Result<(), Failure> {
        self.print(&self.call(verb, call)?)
    }

    /// Does something that stops the key, and prints the key that the daemon returns. Fails if the
    /// key is stopped in memory only.
    pub(super) fn stop(
        &self,
        verb: &str,
        call: impl FnOnce(&AdminClient, &str) -> Result<KeyView, AdminClientError>,
    ) -> Result<(), Failure> {
        let key = self.call(verb, call)?;
        self.print(&key)?;
        if key.unwritten { Err(Failure::silent(exit::IO)) } else { Ok(()) }
    }

    fn print(&self, key: &KeyView) -> Result<(), Failure> {
        warn_of_sealed_unit(slice::from_ref(key));
        if self.client.json { print_json(key) } else { print_key(key) }
    }

    /// Does something with the key. An error begins with "cannot `verb` key".
    pub(super) fn call<T>(
        &self,
        verb: &str,
        call: impl FnOnce(&AdminClient, &str) -> Result<T, AdminClientError>,
    ) -> Result<T, Failure> {
        let attempt = format!("cannot {verb} key {}", self.label);
        AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| call(&admin, self.label.as_str()))
            .map_err(|error| Failure::from(error).while_trying(attempt))
    }
}

/// Adds the option that a command needs for the daemon with this runtime directory.
pub(in crate::cli) fn for_daemon(command: String, runtime_dir: &Path) -> String {
    match runtime_dir == Path::new(RUNTIME_DIR) {
        true => command,
        false => format!("{command} --runtime-dir {}", quoted(runtime_dir)),
    }
}
