//! `keyward cert`: the certificates that the daemon stores with its keys, and the plans by which
//! they renew themselves.

mod new_plan;
mod plans;
mod revoke;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hyper::body::Bytes;
use keyward_proto::Label;

use crate::admin::api::Certified;
use crate::admin::client::AdminClient;
use crate::cli::altered::{warn_of_altered_keys, warn_of_sealed_unit};
use crate::cli::chain_warnings::warn_of_chain;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::input::read_input;
use crate::cli::output::{from_now, print_json, print_table, table, time};
use crate::ground::exit;
use crate::keys::certificates::Chain;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach certificates to the version of a key that they are for; they replace older ones
    Attach(Attach),
    /// Remove the certificates of a version of a key; the key does not change
    Detach(Detach),
    /// List the certificates of all keys, sorted by expiry
    List(#[command(flatten)] Client),
    /// Check that no certificate in use is about to expire, for cron and monitoring
    Check(plans::Check),
    /// Plan a certificate that renews itself: adds a section to the configuration
    Plan(Box<new_plan::NewPlan>),
    /// Show the plans: when each certificate is renewed, and whether servers show it
    Status(plans::Status),
    /// List the certificates that somebody else renews: sections `watch` of the configuration
    Watched(#[command(flatten)] Client),
    /// Renew the certificate of a plan now
    Renew(plans::Renew),
    /// Revoke certificates of a plan, and renew the one that the plan has
    Revoke(revoke::Revoke),
}

#[derive(Args, Debug)]
pub(super) struct Attach {
    /// Label of the key
    #[arg(value_name = "LABEL")]
    label: Label,
    /// File with the certificate of the key in PEM or DER; in PEM the chain follows, each
    /// certificate before its issuer; - for standard input
    #[arg(long = "in", value_name = "CHAIN")]
    file: PathBuf,
    #[command(flatten)]
    client: Client,
}

#[derive(Args, Debug)]
pub(super) struct Detach {
    /// Label of the key
    #[arg(value_name = "LABEL")]
    label: Label,
    /// Version of the key [default: the current version]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    #[command(flatten)]
    client: Client,
}

impl Command {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Attach(attach) => attach.run(),
            Self::Detach(detach) => detach.run(),
            Self::List(client) => list(&client),
            Self::Check(check) => check.run(),
            Self::Plan(plan) => plan.run(),
            Self::Status(status) => status.run(),
            Self::Watched(client) => plans::print_watched(&client),
            Self::Renew(renew) => renew.run(),
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Attach {
    fn run(self) -> Result<(), Failure> {
        let Self { label, file, client } = self;
        let pem = read_input(&file)?;
        let shown = if file == Path::new("-") { "standard input".into() } else { file.display().to_string() };
        let attempt = format!("cannot attach {shown} to key {label}");
        let chain =
            Chain::read(&pem).map_err(|error| Failure::new(exit::DATA, error).while_trying(&attempt))?;
        let attached = AdminClient::new(&client.runtime_dir)
            .and_then(|admin| admin.attach(label.as_str(), Bytes::from_owner(pem)))
            .map_err(|error| Failure::from(error).while_trying(attempt))?;
        warn_of_chain(&chain);
        if client.json { print_json(&attached) } else { print_certificates(&[attached]) }
    }
}

impl Detach {
    fn run(self) -> Result<(), Failure> {
        let Self { label, version, client } = self;
        let detached =
            AdminClient::new(&client.runtime_dir).and_then(|admin| admin.detach(label.as_str(), version));
        let detached = detached.map_err(|error| {
            Failure::from(error).while_trying(format_args!("cannot detach the certificates of key {label}"))
        })?;
        if client.json { print_json(&detached) } else { print_certificates(&[detached]) }
    }
}

fn list(client: &Client) -> Result<(), Failure> {
    let keys = AdminClient::new(&client.runtime_dir).and_then(|admin| admin.list());
    let (keys, altered) =
        keys.map_err(|error| Failure::from(error).while_trying("cannot list certificates"))?;
    if !client.json {
        warn_of_altered_keys(&keys, &altered);
    }
    warn_of_sealed_unit(&keys);
    let mut certified: Vec<_> = keys.into_iter().flat_map(Certified::all_of).collect();
    certified.sort_by_key(|certified| certified.certificate.expires());
    if client.json { print_json(&certified) } else { print_certificates(&certified) }
}

fn print_certificates(certified: &[Certified]) -> Result<(), Failure> {
    let mut rows = table(&["LABEL", "VERSION", "NAMES", "ISSUER", "EXPIRES", ""]);
    for Certified { label, version, current, state, certificate } in certified {
        rows.add_row([
            match state.as_str() {
                "" | "enabled" => label.clone(),
                state => format!("{label} ({state})"),
            },
            format!("{version}{}", if *current { ", current" } else { "" }),
            certificate.names_or_subject(),
            certificate.issuer.clone(),
            time(certificate.expires()),
            match &certificate.expires_before {
                None => from_now(certificate.not_after),
                Some(first) => format!(
                    "{}: certificate {} of the chain ({})",
                    from_now(first.not_after),
                    first.number,
                    first.subject
                ),
            },
        ]);
    }
    print_table(&rows)
}
