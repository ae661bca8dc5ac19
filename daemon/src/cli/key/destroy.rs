//! Acts that cannot be undone: `keyward key compromise` and `keyward key purge`.

use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::json;

use super::confirm::confirmed;
use super::named::{Named, for_daemon};
use crate::admin::client::AdminClient;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::ground::exit;

#[derive(Args, Debug)]
pub(in crate::cli) struct Compromise {
    #[command(flatten)]
    key: Named,
    /// Ask no question on a terminal
    #[arg(long)]
    yes: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Purge {
    #[command(flatten)]
    key: Named,
    /// Destroy the key without a question on a terminal; elsewhere, this option is required
    #[arg(long)]
    yes: bool,
}

/// The rest of the way after a key was destroyed.
pub(super) fn not_final(key: &Named) -> String {
    format!(
        "This is not final yet: until the daemon has wrapped the other keys anew, the key can come back from a copy of the key store. To see when it is final: {}\nThen make a new backup and a new recovery file, and destroy the old ones, which together bring the key back.\n",
        for_daemon("keyward status".into(), &key.client.runtime_dir)
    )
}

impl Compromise {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, yes } = self;
        let label = &key.label;
        let question = format!(
            "Keep key {label} from signing for ever? This cannot be undone. Type its label to confirm: "
        );
        // A script that has found a stolen key must not fail for want of an option.
        if !yes && io::stdin().is_terminal() && !confirmed(&question, label.as_str())? {
            return Err(Failure::new(exit::USAGE, format_args!("key {label} was not changed")));
        }
        key.stop("compromise", AdminClient::compromise)
    }
}

impl Purge {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, yes } = self;
        let label = &key.label;
        if !yes {
            if !io::stdin().is_terminal() {
                let command = for_daemon(format!("keyward key purge {label} --yes"), &key.client.runtime_dir);
                let why = format_args!(
                    "key {label} was not destroyed: a destroyed key cannot be brought back; if that is what you want, run: {command}"
                );
                return Err(Failure::new(exit::USAGE, why));
            }
            let question = format!("Destroy key {label} for ever? Type its label to confirm: ");
            if !confirmed(&question, label.as_str())? {
                return Err(Failure::new(exit::USAGE, format_args!("key {label} was not destroyed")));
            }
        }
        let purges = key.call("destroy", AdminClient::purge)?;
        match key.client.json {
            true => {
                print_json(&json!({ "label": label.as_str(), "destroyed": true, "final": purges.r#final }))
            }
            false => print(&format!(
                "key {label} is destroyed\n{}",
                if purges.r#final { String::new() } else { not_final(&key) }
            )),
        }
    }
}
