//! `keyward audit`: reads, follows and verifies the audit trail.

mod choice;
mod questions;
mod show;
mod verify;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::client::Client;
use super::failure::Failure;
use super::output::{print, print_json};
use crate::admin::client::AdminClient;
use crate::ground::exit;
use crate::ground::text::quoted;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the newest records
    Tail(show::Tail),
    /// Show the records that a filter admits
    Show(show::Show),
    /// List the users of a key: who used the key, how often, and when last
    Users(questions::Users),
    /// List the keys that were not used
    Unused(questions::Unused),
    /// List refusals: who was refused what, how often, and when last
    Refusals(questions::Refusals),
    /// Check that no record is missing, changed, inserted or out of order
    Verify(verify::Verify),
    /// Copy the whole trail into a tar file, to verify it on another machine
    Export(Export),
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Tail(tail) => tail.run(),
            Self::Show(show) => show.run(),
            Self::Users(users) => users.run(),
            Self::Unused(unused) => unused.run(),
            Self::Refusals(refusals) => refusals.run(),
            Self::Verify(verify) => verify.run(),
            Self::Export(export) => export.run(),
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct Export {
    /// File for the copy; it must not exist yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    client: Client,
}

impl Export {
    fn run(self) -> Result<(), Failure> {
        let Self { file, client } = self;
        let attempt = format!("cannot copy the audit trail to {}", file.display());
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        let mut copy = opened
            .map_err(|reason| Failure::new(exit::CANNOT_CREATE, format_args!("{attempt}: {reason}")))?;
        let copied = AdminClient::new(&client.runtime_dir).and_then(|admin| admin.audit_files(&mut copy));
        // An incomplete copy must not remain.
        copied.map_err(|error| {
            drop(fs::remove_file(&file));
            Failure::from(error).while_trying(&attempt)
        })?;
        copy.sync_all().map_err(|reason| Failure::new(exit::IO, format_args!("{attempt}: {reason}")))?;
        if client.json {
            return print_json(&json!({ "file": file }));
        }
        print(&format!(
            "the audit trail is copied to {file}\nTo verify the copy with your copy of the audit key: tar {force_local}-xf {file} && keyward audit verify --dir audit --key KEY.pem\n",
            file = quoted(&file),
            // tar takes the part before a colon for the name of a host.
            force_local =
                if file.as_os_str().as_encoded_bytes().contains(&b':') { "--force-local " } else { "" }
        ))
    }
}
