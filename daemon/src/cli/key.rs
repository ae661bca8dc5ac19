//! `keyward key`: the keys of a daemon.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use hyper::StatusCode;
use indicatif::{ProgressBar, ProgressStyle};
use keyward_proto::{KeyType, Label, UnknownWord, Use};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::import::Import;
use super::output::{self, from_now, print, print_json, print_table, table, time};
use super::{Client, RUNTIME_DIR};
use crate::admin::api::{KeyView, MAX_KEY_FILE, RepairedView};
use crate::admin::client::{AdminClient, AdminClientError};
use crate::admin::request;
use crate::config::EMBEDDED;
use crate::ground::exit;
use crate::keys::{self, Altered};
use crate::lifecycle::set_uses_command;

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
    /// Replace all uses of a key; says which ones it has lost by that
    SetUses(SetUses),
    /// Let a disabled key sign again
    Enable(Named),
    /// Keep a key from signing; it can be enabled again
    Disable(Named),
    /// Delete a key; it cannot be brought back
    Delete(Delete),
    /// Make the lists of the key store anew that were altered; their keys are disabled, or removed
    Repair(#[command(flatten)] Client),
    /// Wrap the keys of a backend by the master key that is to come
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
pub(super) struct Generate {
    #[command(flatten)]
    key: Named,
    /// p256, p384, p521, ed25519, rsa2048, rsa3072, rsa4096, rsa-pss2048, rsa-pss3072, rsa-pss4096, ml-dsa-44, ml-dsa-65 or ml-dsa-87
    #[arg(long = "type", value_name = "TYPE", value_parser = generated)]
    key_type: KeyType,
    /// What the key may be used for, any number of times: tls-server, tls13-server, tls12-server, tls12-dhe-server, tls-client,
    /// tls13-client, csr, rsa-key-exchange, acme-account, any [default: tls-server]
    #[arg(long = "use", value_name = "USE", value_parser = one_use)]
    uses: Vec<Use>,
    /// Accept that one RSA key both signs and decrypts, which is less safe than two keys
    #[arg(long)]
    sign_and_decrypt: bool,
    /// The backend whose unit is to hold it [default: default-backend in keyward.toml, or the only
    /// one there is]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Adopt {
    #[command(flatten)]
    key: Named,
    /// The private key, wrapped by a unit: the bytes that it gave
    #[arg(long, value_name = "FILE")]
    blob: PathBuf,
    /// Its public key: a SubjectPublicKeyInfo in PEM or DER, or the bytes that the unit gave
    #[arg(long, value_name = "FILE")]
    public: PathBuf,
    /// What the key may be used for, any number of times: tls-server, tls13-server, tls12-server, tls12-dhe-server, tls-client,
    /// tls13-client, csr, rsa-key-exchange, acme-account, any [default: tls-server]
    #[arg(long = "use", value_name = "USE", value_parser = one_use)]
    uses: Vec<Use>,
    /// Accept that one RSA key both signs and decrypts, which is less safe than two keys
    #[arg(long)]
    sign_and_decrypt: bool,
    /// The backend whose units can unwrap it [default: default-backend in keyward.toml, or the only
    /// one there is]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct ReferenceTo {
    #[command(flatten)]
    key: Named,
    /// The version that it names [default: the current one]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct SetUses {
    #[command(flatten)]
    key: Named,
    /// Each use that the key is to have, in the place of all that it has: tls-server, tls13-server,
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
    /// The uses that it did not have before.
    #[serde(rename = "uses_added")]
    added: Vec<String>,
    /// The uses that it does not have any more.
    #[serde(rename = "uses_taken_away")]
    taken: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct Rewrap {
    /// The backend whose units get another master key; embedded for the software crypto unit
    #[arg(long, value_name = "NAME")]
    backend: String,
    /// The new master key is in force at every unit: give up what the old one has wrapped
    #[arg(long)]
    finish: bool,
    #[command(flatten)]
    client: Client,
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

impl Generate {
    fn run(self) -> Result<(), Failure> {
        let Self { key, key_type, uses, sign_and_decrypt, backend } = self;
        let label = key.label.clone();
        let wanted = request::Generate { label, key_type, uses, sign_and_decrypt, backend };
        key.run("generate", |admin, _| admin.generate(&wanted))
    }
}

impl Adopt {
    fn run(self) -> Result<(), Failure> {
        let Self { key, blob, public, uses, sign_and_decrypt, backend } = self;
        let blob = read_file(&blob)?;
        let public_key = keyward_unit::public_key_of_file(&read_file(&public)?);
        let adopted = request::Adopt { blob, public_key, uses, sign_and_decrypt, backend };
        key.run("adopt", |admin, label| admin.adopt(label, &adopted))
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

impl Rewrap {
    fn run(self) -> Result<(), Failure> {
        let Self { backend, finish, client } = self;
        let failed = |error: AdminClientError| {
            let attempt = if finish { "finish rewrapping" } else { "rewrap" };
            Failure::from(error).while_trying(format_args!("cannot {attempt} the keys of backend {backend}"))
        };
        let admin = AdminClient::new(&client.runtime_dir).map_err(failed)?;
        if finish {
            let finished = admin.finish_rewrap(&backend).map_err(failed)?;
            return match client.json {
                true => print_json(&finished),
                false => print(&format!(
                    "{} keys of backend {} have the master key {}\n{}",
                    finished.keys,
                    finished.backend,
                    finished.wkid,
                    if finished.backend == EMBEDDED { AFTER_EMBEDDED } else { "" }
                )),
            };
        }
        // Shown on a terminal only.
        let bar = ProgressBar::new(admin.status().map_err(failed)?.keys);
        bar.set_style(bar_style());
        let (mut keys, mut wrapped, mut after) = (0, 0, None);
        loop {
            let done = admin.rewrap(&backend, after.as_deref()).map_err(|error| {
                bar.abandon();
                failed(error)
            })?;
            keys += done.keys;
            wrapped += done.wrapped;
            bar.set_position(bar.position() + done.looked_at);
            bar.set_message(format!("{wrapped} blobs wrapped"));
            after = done.next;
            if after.is_none() {
                break;
            }
        }
        bar.finish_and_clear();
        if client.json {
            return print_json(&json!({ "backend": backend, "keys": keys, "wrapped": wrapped }));
        }
        print(&format!(
            "{wrapped} blobs wrapped, {keys} keys of backend {backend} are ready for the new master key.\n\
             {}run: keyward key rewrap --backend {backend} --finish\n",
            if backend == EMBEDDED { "Then " } else { "Put that in force at the units, then " }
        ))
    }
}

const AFTER_EMBEDDED: &str = "Name its file as master-key, and take next-master-key out of the configuration. Keep the old one, elsewhere, as long as you keep copies of the key store that were made before.\n";

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos} of {len} keys, {msg}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Named {
    /// Does something with a key that yields the key, and shows that.
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

    /// Refuses to delete a key that signs, where nobody can be asked.
    fn refuse_enabled(&self) -> Result<(), Failure> {
        let enabled = |key: KeyView| key.state == keys::State::Enabled.name();
        let enabled = self.call("delete", |admin, label| match admin.show(label) {
            Ok(key) => Ok(enabled(key)),
            // Its record was altered, so it signs nothing.
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

/// The command that adds a use to those of a key of the daemon with this runtime directory.
pub(super) fn how_to_allow(runtime_dir: &Path, key: &KeyView, wanted: Use) -> String {
    let uses: Vec<Use> = key.uses.iter().filter_map(|u| u.parse().ok()).chain([wanted]).collect();
    for_daemon(set_uses_command(&key.label, &uses), runtime_dir)
}

/// A command as it has to be for the daemon with this runtime directory.
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

fn print_keys(keys: &[KeyView]) -> Result<(), Failure> {
    let mut rows = table(&["LABEL", "TYPE", "VERSION", "STATE", "USES", "BACKEND", "CERTIFICATE"]);
    for key in keys {
        rows.add_row([
            key.label.as_str(),
            &key.key_type,
            &if key.problem.is_none() { key.current.to_string() } else { String::new() },
            &key.state,
            &key.uses.join(", "),
            &key.backend,
            &expires(key),
        ]);
    }
    print_table(&rows)
}

/// Warns of keys of which nothing is known but their labels, and of what may have been other keys.
pub(super) fn warn_of_problems(keys: &[KeyView], altered: &Altered) {
    keys.iter().filter_map(|key| key.problem.as_ref()).for_each(output::warn);
    // The other ones have had a line each.
    let others = Altered { lists: altered.lists, nameless: altered.nameless, ..Altered::default() };
    if let Some((problem, advice)) = others.problem() {
        output::warn(format_args!("{problem}; {advice}"));
    }
}

pub(super) fn print_key(key: &KeyView) -> Result<(), Failure> {
    let mut text = format!(
        "label       {}\nstate       {}\ntype        {}\nuses        {}\nbackend     {} ({})\n",
        key.label,
        key.state,
        key.key_type,
        key.uses.join(", "),
        key.backend,
        key.unit
    );
    for version in &key.versions {
        let created = time(version.created);
        let current = if version.number == key.current { ", current" } else { "" };
        text += &format!(
            "version {:<3} {}, since {created}{current}\n            public key SHA-256 {}\n",
            version.number,
            version.key_type,
            fingerprint(&version.public_key)
        );
        if let Some(certificate) = &version.certificate {
            text += &format!(
                "            certificate for {} until {} ({})\n",
                certificate.names_or_subject(),
                time(certificate.not_after),
                from_now(certificate.not_after),
            );
            if let Some(first) = &certificate.expires_before {
                text += &format!(
                    "            certificate {} of its chain ({}) until {} ({})\n",
                    first.number,
                    first.subject,
                    time(first.not_after),
                    from_now(first.not_after),
                );
            }
        }
    }
    print(&text)
}

/// How long the certificate in use holds, for a column.
fn expires(key: &KeyView) -> String {
    let Some((number, certificate)) = key.certified() else { return String::new() };
    let then = from_now(certificate.expires());
    let verb = if then.starts_with("in ") { "expires" } else { "expired" };
    let version = if number == key.current { String::new() } else { format!(" (version {number})") };
    format!("{verb} {then}{version}")
}

/// SHA-256 of the SubjectPublicKeyInfo, which `openssl pkey -pubin -outform DER | sha256sum` gives too.
fn fingerprint(public_key: &str) -> String {
    let spki = STANDARD.decode(public_key).unwrap_or_default();
    base16ct::lower::encode_string(&Sha256::digest(spki))
}

/// Reads a file, or standard input for `-`: at most as much as the daemon takes. It may hold a private key.
pub(super) fn read_input(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // As large as it can become, so that growing leaves no copies behind.
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

fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_KEY_FILE as u64 / 2).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| Failure::reading(path, &error))
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

/// A use; several in one word are told apart from an unknown one.
pub(super) fn one_use(text: &str) -> Result<Use, String> {
    match text.contains(',') {
        true => Err("write one use for each --use: --use tls-server --use csr".into()),
        false => text.parse().map_err(|error: UnknownWord| error.to_string()),
    }
}

/// A type of which keys can be made; others can be imported.
fn generated(text: &str) -> Result<KeyType, String> {
    let found = text.parse().ok().filter(|known| KeyType::GENERATED.contains(known));
    found.ok_or_else(|| {
        let known = KeyType::GENERATED.map(|key_type| key_type.to_string()).join(", ");
        format!("no key of this type can be made; those that can are {known}")
    })
}
