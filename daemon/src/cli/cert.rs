//! `keyward cert`: the certificates that the daemon hands out with its keys.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hyper::body::Bytes;
use keyward_proto::Label;

use super::Client;
use super::failure::Failure;
use super::key::{read_input, warn_of_problems};
use super::output::{from_now, note, print_json, print_table, table, time, warn};
use crate::admin::api::Certified;
use crate::admin::client::AdminClient;
use crate::ground::exit;
use crate::keys::certificates::Chain;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Attach certificates to the version of a key that they are for, in the place of older ones
    Attach(Attach),
    /// Take the certificates of a version of a key away; the key stays as it is
    Detach(Detach),
    /// List the certificates of all keys, those that expire first at the top
    List(#[command(flatten)] Client),
}

#[derive(Args, Debug)]
pub(super) struct Attach {
    /// Label of the key
    #[arg(value_name = "LABEL")]
    label: Label,
    /// Certificate of the key in PEM or DER, in PEM followed by each that certifies one before; -
    /// for standard input
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
    /// Which version of the key [default: the current one]
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
        tell_doubts(&chain);
        if client.json { print_json(&attached) } else { print_certificates(&[attached]) }
    }
}

impl Detach {
    fn run(self) -> Result<(), Failure> {
        let Self { label, version, client } = self;
        let detached =
            AdminClient::new(&client.runtime_dir).and_then(|admin| admin.detach(label.as_str(), version));
        let detached = detached.map_err(|error| {
            Failure::from(error).while_trying(format_args!("cannot detach a certificate of key {label}"))
        })?;
        if client.json { print_json(&detached) } else { print_certificates(&[detached]) }
    }
}

/// Says what is doubtful about certificates that were attached.
pub(super) fn tell_doubts(chain: &Chain) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if chain.repeated > 0 {
        note("a certificate that is in the file more than once was attached once");
    }
    doubts(chain, now).iter().for_each(warn);
}

/// What clients may have against certificates, in a sentence each.
fn doubts(chain: &Chain, now: u64) -> Vec<String> {
    let mut doubts = Vec::new();
    for (certificate, number) in chain.certificates.iter().zip(1..) {
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        let which = match number {
            1 => "the certificate".to_owned(),
            _ => format!("certificate {number} in the file ({})", certificate.subject()),
        };
        if now < not_before {
            doubts.push(format!(
                "{which} is not valid before {}, {}",
                time(not_before),
                from_now(not_before)
            ));
        }
        if now > not_after {
            doubts.push(format!("{which} has expired on {}, {}", time(not_after), from_now(not_after)));
        }
    }
    if let Some(first) = chain.certificates.first() {
        if first.names().is_empty() {
            doubts.push(
                "the certificate has no SubjectAltName: as that of a server, most clients refuse it; have one issued with names: keyward csr LABEL --subject DN --san NAME"
                    .into(),
            );
        }
        if first.is_authority() {
            doubts.push(
                "the certificate is that of an authority (CA:TRUE), not of a server or client: many clients refuse it"
                    .into(),
            );
        }
    }
    for number in chain.check().unwrap_or_default() {
        doubts.push(format!(
            "the signature on certificate {number} in the file is of a kind that is not verified here, such as one with SHA-1; many clients refuse it"
        ));
    }
    doubts
}

fn list(client: &Client) -> Result<(), Failure> {
    let keys = AdminClient::new(&client.runtime_dir).and_then(|admin| admin.list());
    let (keys, altered) =
        keys.map_err(|error| Failure::from(error).while_trying("cannot list certificates"))?;
    if !client.json {
        warn_of_problems(&keys, &altered);
    }
    let mut certified: Vec<_> = keys.into_iter().flat_map(Certified::all_of).collect();
    certified.sort_by_key(|certified| certified.certificate.expires());
    if client.json { print_json(&certified) } else { print_certificates(&certified) }
}

fn print_certificates(certified: &[Certified]) -> Result<(), Failure> {
    let mut rows = table(&["LABEL", "VERSION", "NAMES", "ISSUER", "EXPIRES", ""]);
    for Certified { label, version, current, certificate } in certified {
        rows.add_row([
            label.clone(),
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
