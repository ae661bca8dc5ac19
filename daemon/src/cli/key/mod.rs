//! `keyward key`: the keys of a daemon.

mod create;
mod import;
mod print;
mod rewrap;

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use clap::{Args, Subcommand};
use hyper::StatusCode;
use keyward_proto::{Label, UnknownWord, Use};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::{self, print, print_json};
use super::{Client, RUNTIME_DIR};
use crate::admin::api::{KeyView, MAX_KEY_FILE, RepairedView};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request;
use crate::ground::exit;
use crate::keys;
use crate::lifecycle::set_uses_command;
use create::{Adopt, Generate};
use import::Import;
pub(super) use print::warn_of_problems;
use print::{print_key, print_keys};
use rewrap::Rewrap;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a new key in the crypto unit
    Generate(Generate),
    /// Take in a private key from a file
    Import(Import),
    /// Take over a key that a GREP11 unit has wrapped already
    Adopt(Adopt),
    /// List the keys; the status is 65 if records or lists of the key store were altered
    List(#[command(flatten)] Client),
    /// Show a key
    Show(Named),
    /// Print the reference that a server is given instead of a key file
    Reference(ReferenceTo),
    /// Make a new version of a key; older ones go on signing for references that name them
    Rotate(Named),
    /// Replace all uses of a key; says which uses the key has lost
    SetUses(SetUses),
    /// Let a disabled key sign again
    Enable(Named),
    /// Keep a key from signing; the key can be enabled again
    Disable(Named),
    /// Delete a key; the key cannot be brought back
    Delete(Delete),
    /// Make the altered lists of the key store anew; their keys are disabled, or removed
    Repair(#[command(flatten)] Client),
    /// Wrap the keys of a backend by the next master key
    Rewrap(Rewrap),
}

#[derive(Args, Debug)]
pub(super) struct Named {
    /// Label of the key
    #[arg(value_name = "LABEL")]
    pub(super) label: Label,
    #[command(flatten)]
    pub(super) client: Client,
}

#[derive(Args, Debug)]
pub(super) struct ReferenceTo {
    #[command(flatten)]
    key: Named,
    /// The version that the reference names [default: the current version]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct SetUses {
    #[command(flatten)]
    key: Named,
    /// Each use that the key is to have, instead of all uses of before: tls-server, tls13-server,
    /// tls12-server, tls12-dhe-server, tls-client, tls13-client, csr, rsa-key-exchange,
    /// acme-account, any
    #[arg(long = "use", value_name = "USE", value_parser = one_use, required = true)]
    uses: Vec<Use>,
    /// Accept that one RSA key both signs and decrypts, which is less safe than two keys
    #[arg(long)]
    sign_and_decrypt: bool,
}

#[derive(Args, Debug)]
pub(super) struct Delete {
    #[command(flatten)]
    key: Named,
    /// Ask nothing on a terminal; elsewhere, delete the key even though it is enabled
    #[arg(long)]
    yes: bool,
}

/// A key whose uses were replaced.
#[derive(Serialize)]
struct ChangedUses {
    #[serde(flatten)]
    key: KeyView,
    /// The uses that the key did not have before.
    #[serde(rename = "uses_added")]
    added: Vec<String>,
    /// The uses that the key does not have any more.
    #[serde(rename = "uses_taken_away")]
    taken: Vec<String>,
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
            Self::Enable(key) => key.set_state("enable", keys::State::Enabled),
            Self::Disable(key) => key.set_state("disable", keys::State::Disabled),
            Self::Delete(delete) => delete.run(),
            Self::Repair(client) => repair(&client),
            Self::Rewrap(rewrap) => rewrap.run(),
        }
        .map(drop)
    }
}

impl ReferenceTo {
    fn run(self) -> Result<(), Failure> {
        let key = self.key.call("make a reference to", AdminClient::show)?;
        let label = &self.key.label;
        let version = self.version.unwrap_or(key.current);
        if !key.versions.iter().any(|known| known.number == version) {
            let command = for_daemon(format!("keyward key show {label}"), &self.key.client.runtime_dir);
            let why = format_args!(
                "cannot make a reference to version {version} of key {label}: there is no such version; see: {command}"
            );
            return Err(Failure::new(exit::NO_INPUT, why));
        }
        let reference = key.reference(version).ok_or_else(|| {
            let why = "the daemon sent an unknown public key";
            Failure::new(exit::SOFTWARE, format_args!("cannot make a reference to key {label}: {why}"))
        })?;
        let pem = reference.to_pem();
        if self.key.client.json {
            return print_json(&json!({ "label": key.label, "version": version, "reference": pem }));
        }
        print(&pem)
    }
}

impl SetUses {
    fn run(self) -> Result<(), Failure> {
        let Self { key, uses, sign_and_decrypt } = self;
        let change = request::Change { uses: Some(uses), sign_and_decrypt, state: None };
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

impl Delete {
    fn run(self) -> Result<(), Failure> {
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
            false => key.refuse_enabled()?,
        }
        key.call("delete", |admin, label| admin.delete(label))?;
        if key.client.json {
            return print_json(&json!({ "label": label.as_str(), "deleted": true }));
        }
        Ok(())
    }
}

impl Named {
    /// Does something with a key, and shows the key that comes back.
    fn run(
        &self,
        verb: &str,
        f: impl FnOnce(&AdminClient, &str) -> Result<KeyView, AdminClientError>,
    ) -> Result<(), Failure> {
        let key = self.call(verb, f)?;
        if self.client.json { print_json(&key) } else { print_key(&key) }
    }

    fn set_state(&self, verb: &str, state: keys::State) -> Result<(), Failure> {
        let change = request::Change { state: Some(state), ..request::Change::default() };
        self.run(verb, |admin, label| admin.change(label, &change))
    }

    /// Refuses to delete an enabled key if there is no terminal to ask on.
    fn refuse_enabled(&self) -> Result<(), Failure> {
        let enabled = |key: KeyView| key.state == keys::State::Enabled.name();
        let enabled = self.call("delete", |admin, label| match admin.show(label) {
            Ok(key) => Ok(enabled(key)),
            // The record of the key was altered, so the key signs nothing.
            Err(AdminClientError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, .. }) => Ok(false),
            Err(error) => Err(error),
        })?;
        let label = &self.label;
        let command = for_daemon(format!("keyward key delete {label} --yes"), &self.client.runtime_dir);
        match enabled {
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

    pub(super) fn call<T>(
        &self,
        verb: &str,
        f: impl FnOnce(&AdminClient, &str) -> Result<T, AdminClientError>,
    ) -> Result<T, Failure> {
        let attempt = format!("cannot {verb} key {}", self.label);
        AdminClient::new(&self.client.runtime_dir)
            .and_then(|admin| f(&admin, self.label.as_str()))
            .map_err(|error| Failure::from(error).while_trying(attempt))
    }
}

/// The command that adds a use to a key of the daemon with this runtime directory.
pub(super) fn how_to_allow(runtime_dir: &Path, key: &KeyView, wanted: Use) -> String {
    let uses: Vec<Use> = key.uses.iter().filter_map(|u| u.parse().ok()).chain([wanted]).collect();
    for_daemon(set_uses_command(&key.label, &uses), runtime_dir)
}

/// The command with the option that it needs for the daemon with this runtime directory.
fn for_daemon(command: String, runtime_dir: &Path) -> String {
    match runtime_dir == Path::new(RUNTIME_DIR) {
        true => command,
        false => format!("{command} --runtime-dir '{}'", runtime_dir.display()),
    }
}

fn list(client: &Client) -> Result<(), Failure> {
    let (keys, altered) = AdminClient::new(&client.runtime_dir)
        .and_then(|admin| admin.list())
        .map_err(|error| Failure::from(error).while_trying("cannot list keys"))?;
    warn_of_problems(&keys, &altered);
    let incomplete = keys.iter().any(|key| key.problem.is_some()) || altered.total() > 0;
    let printed = if client.json { print_json(&keys) } else { print_keys(&keys) };
    match incomplete {
        true => printed.and(Err(Failure::silent(exit::DATA))),
        false => printed,
    }
}

fn repair(client: &Client) -> Result<(), Failure> {
    const QUESTION: &str = "Disable or remove every key whose list in the key store was altered? A backup would keep them. Type yes to confirm: ";
    if io::stdin().is_terminal() && !confirmed(QUESTION, "yes")? {
        return Err(Failure::new(exit::USAGE, "the key store was not repaired"));
    }
    let repaired = AdminClient::new(&client.runtime_dir)
        .and_then(|admin| admin.repair())
        .map_err(|error| Failure::from(error).while_trying("cannot repair the key store"))?;
    if let Some((problem, advice)) = repaired.altered.problem() {
        output::warn(format_args!("{problem}; {advice}"));
    }
    if client.json {
        return print_json(&repaired);
    }
    let RepairedView { lists, disabled, removed, nameless, .. } = repaired;
    let mut text =
        format!("{lists} lists were made anew, {nameless} records without a label were removed.\n");
    if !disabled.is_empty() {
        text += &format!(
            "Disabled, since their records may be old ones: {}\n\
             You may have deleted one of them, or taken uses away. So look at each (keyward key show LABEL) before: \
             keyward key enable LABEL\n",
            disabled.join(", ")
        );
    }
    if !removed.is_empty() {
        text += &format!("Removed, since their records were altered: {}\n", removed.join(", "));
    }
    print(&text)
}

/// Reads a file, or standard input for `-`: at most as many bytes as the daemon takes. The bytes
/// may hold a private key.
pub(super) fn read_input(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // The full capacity at once, since a vector that grows leaves copies of its bytes in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE + 2));
    let most = MAX_KEY_FILE as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::reading(path, &error))?;
    if bytes.len() > MAX_KEY_FILE {
        let path = path.display();
        return Err(Failure::new(
            exit::DATA,
            format_args!("cannot read {path}: longer than {MAX_KEY_FILE} bytes"),
        ));
    }
    Ok(bytes)
}

fn confirmed(question: &str, expected: &str) -> Result<bool, Failure> {
    let mut answer = String::new();
    eprint!("{question}");
    io::stderr()
        .flush()
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::new(exit::IO, format_args!("cannot read the answer: {error}")))?;
    Ok(answer.trim() == expected)
}

/// A use. The error for several uses in one word is not that for an unknown use.
pub(super) fn one_use(text: &str) -> Result<Use, String> {
    match text.contains(',') {
        true => Err("write one use for each --use: --use tls-server --use csr".into()),
        false => text.parse().map_err(|error: UnknownWord| error.to_string()),
    }
}
