//! `keyward key set-uses`, and the uses in options.

use std::path::Path;

use clap::Args;
use keyward_proto::{UnknownWord, Use};
use serde::Serialize;

use super::named::{Named, for_daemon};
use super::print::print_key;
use crate::admin::api::KeyView;
use crate::admin::request;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::lifecycle::set_uses_command;

#[derive(Args, Debug)]
pub(in crate::cli) struct SetUses {
    #[command(flatten)]
    key: Named,
    /// Use of the key; the option may be repeated, and all other uses are removed: tls-server,
    /// tls13-server, tls12-server, tls12-dhe-server, tls-client, tls13-client, csr,
    /// rsa-key-exchange, acme-account, any
    #[arg(long = "use", value_name = "USE", value_parser = one_use, required = true)]
    uses: Vec<Use>,
    /// Accept that one RSA key both signs and decrypts, which is less safe than two keys
    #[arg(long)]
    sign_and_decrypt: bool,
}

/// A key whose uses were replaced.
#[derive(Serialize)]
struct ChangedUses {
    #[serde(flatten)]
    key: KeyView,
    /// Uses that the key did not have before.
    #[serde(rename = "uses_added")]
    added: Vec<String>,
    /// Uses that the key has lost.
    #[serde(rename = "uses_taken_away")]
    taken: Vec<String>,
}

impl SetUses {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { key, uses, sign_and_decrypt } = self;
        let uses = Some(uses);
        let change = request::Change { uses, sign_and_decrypt, ..request::Change::default() };
        let (before, after) = key.call("set the uses of", |admin, label| {
            Ok((admin.show(label)?, admin.change(label, &change)?))
        })?;
        let lacking = |uses: &[String], others: &[String]| -> Vec<String> {
            uses.iter().filter(|one| !others.contains(one)).cloned().collect()
        };
        let (added, taken) = (lacking(&after.uses, &before.uses), lacking(&before.uses, &after.uses));
        if key.client.json {
            return print_json(&ChangedUses { key: after, added, taken });
        }
        print_key(&after)?;
        let listed = |uses: &[String]| if uses.is_empty() { "none".into() } else { uses.join(", ") };
        print(&format!("added       {}\ntaken away  {}\n", listed(&added), listed(&taken)))
    }
}

/// The command that adds a use to a key of the daemon with this runtime directory.
pub(in crate::cli) fn how_to_allow(runtime_dir: &Path, key: &KeyView, wanted: Use) -> String {
    let uses: Vec<Use> = key.uses.iter().filter_map(|u| u.parse().ok()).chain([wanted]).collect();
    for_daemon(set_uses_command(&key.label, &uses), runtime_dir)
}

/// Parses one use. Several uses in one word are another error than an unknown use.
pub(super) fn one_use(text: &str) -> Result<Use, String> {
    match text.contains(',') {
        true => Err("write one use for each --use: --use tls-server --use csr".into()),
        false => text.parse().map_err(|error: UnknownWord| error.to_string()),
    }
}
