//! `keyward cert revoke`: a person names the certificates that are meant, or takes the ones that
//! the command names.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use keyward_plans::{PlanView, Revocable, ToRevoke};
use keyward_proto::Label;

use super::plans::once_it_runs;
use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::key::confirmed;
use crate::cli::output::{print, print_json, time};
use crate::ground::exit;

/// Reasons that public authorities take from owners (RFC 5280, 5.3.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Reason {
    Unspecified,
    KeyCompromise,
    Superseded,
    CessationOfOperation,
}

impl Reason {
    const fn number(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
        }
    }

    /// Name on the command line.
    const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
        }
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Revoke {
    /// Name of the plan
    #[arg(value_name = "PLAN")]
    plan: Label,
    /// Why the certificate must not be trusted any more; after key-compromise, the authority issues
    /// nothing for this key any more
    #[arg(long, value_enum, default_value = "unspecified")]
    reason: Reason,
    /// Revoke the certificate of this version of the key [default: the newest certificate for the
    /// names of the plan; after key-compromise, the certificates of all versions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    version: Option<u32>,
    /// Revoke the certificate with this SHA-256, in hexadecimal digits
    #[arg(long, value_name = "SHA256", conflicts_with = "version")]
    certificate: Option<String>,
    /// Give up a revocation that the authority has not carried out yet
    #[arg(long, conflicts_with_all = ["reason", "yes", "version", "certificate"])]
    cancel: bool,
    /// Revoke it without a question on a terminal; elsewhere, this option is required
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: Client,
}

impl Revoke {
    /// Gives up a revocation.
    fn keep(self) -> Result<(), Failure> {
        let name = &self.plan;
        let kept = AdminClient::new(&self.client.runtime_dir).and_then(|admin| admin.keep(name.as_str()));
        let kept = kept.map_err(|error| {
            Failure::from(error).while_trying(format_args!("cannot keep the certificate of plan {name}"))
        })?;
        match self.client.json {
            true => print_json(&kept),
            false => print(&kept.iter().map(|one| kept_words(name, one)).collect::<String>()),
        }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        if self.cancel {
            return self.keep();
        }
        let name = &self.plan;
        let attempt = format!("cannot revoke the certificate of plan {name}");
        let failed =
            |error: crate::admin::client::AdminClientError| Failure::from(error).while_trying(&attempt);
        let admin = AdminClient::new(&self.client.runtime_dir).map_err(failed)?;
        let plans = admin.plans().map_err(failed)?;
        let missing = || Failure::new(exit::NO_INPUT, format_args!("there is no plan {name}"));
        let plan = plans.iter().find(|plan| plan.plan == name.as_str()).ok_or_else(missing)?;
        let meant = self.meant(plan).map_err(|failure| failure.while_trying(&attempt))?;
        let words = match meant.is_empty() {
            true => format!("    the key {}, without a certificate\n", self.version_words(plan)),
            false => lines(&meant),
        };
        let question = format!(
            "To be revoked of plan {name}:\n{words}Clients may refuse such a certificate until the next one is served. Type the name of the plan to confirm: "
        );
        let is_wanted = self.yes || io::stdin().is_terminal() && confirmed(&question, name.as_str())?;
        if !is_wanted {
            let why = format_args!(
                "this of plan {name} was not revoked:\n{words}Clients may refuse such a certificate as soon as it is, until the next one is served. If that is what you want, run: keyward cert revoke {name} --reason {} --yes",
                self.reason.name()
            );
            return Err(Failure::new(exit::USAGE, why));
        }
        let certificates: Vec<_> = meant.iter().map(|one| one.certificate.clone()).collect();
        let version = self.version.filter(|_| certificates.is_empty());
        let revoked = admin.revoke(name.as_str(), self.reason.number(), &certificates, version);
        let plan = revoked.map_err(failed)?;
        if self.client.json {
            return print_json(&plan);
        }
        let is_asked = |one: &&&Revocable| {
            plan.revocations.iter().any(|of| of.certificate.as_ref() == Some(&one.certificate))
        };
        let asked: Vec<_> = meant.iter().filter(is_asked).copied().collect();
        print(&match &plan.revocation_problem {
            Some(problem) => format!("{problem}\n"),
            // A program has issued the certificate, or there is none any more.
            None if asked.is_empty() => format!(
                "{} is compromised, and no authority is known that revokes a certificate for it; have that done by whoever has issued one; to see the end: keyward cert status {name}\n",
                self.version_words(&plan)
            ),
            None => format!(
                "keyward-acme has these certificates of plan {name} revoked{}, and renews the one of the plan if it is among them; to see the end: keyward cert status {name}\n{}",
                once_it_runs(&plan),
                lines(&asked)
            ),
        })
    }

    fn version_words(&self, plan: &PlanView) -> String {
        match self.version {
            Some(version) => format!("version {version} of key {}", plan.key),
            None => format!("the current version of key {}", plan.key),
        }
    }

    /// The certificates that are meant; none for a version of the key that has none, and that is
    /// compromised.
    fn meant<'p>(&self, plan: &'p PlanView) -> Result<Vec<&'p Revocable>, Failure> {
        let all = || plan.revocable.iter();
        let is_compromised = self.reason == Reason::KeyCompromise;
        let meant: Vec<_> = if let Some(named) = &self.certificate {
            let named = named.replace(':', "").to_ascii_lowercase();
            all().filter(|one| one.certificate == named).collect()
        } else if let Some(version) = self.version {
            all().filter(|one| (&one.key, one.version) == (&plan.key, version)).collect()
        } else if is_compromised {
            // Nobody can say which of them is in the wrong hands.
            all().filter(|one| !(one.is_compromised && one.is_revoked)).collect()
        } else {
            let present = plan.certificate.as_ref().map(|one| &one.fingerprint);
            let newest = all().find(|one| Some(&one.certificate) == present);
            newest.or_else(|| all().find(|one| one.is_in_use)).into_iter().collect()
        };
        if !meant.is_empty() || is_compromised && self.certificate.is_none() {
            return Ok(meant);
        }
        let which = match (&self.certificate, self.version) {
            (Some(named), _) => format!("with SHA-256 {named}"),
            (None, Some(version)) => format!("of version {version} of key {}", plan.key),
            (None, None) => "for its names".to_owned(),
        };
        let others: Vec<_> = all().collect();
        let advice = match others.is_empty() {
            true => String::new(),
            false => format!("; name one of these by --certificate:\n{}", lines(&others).trim_end()),
        };
        let why =
            format_args!("the plan {} has no certificate {which} that has not expired{advice}", plan.plan);
        Err(Failure::new(exit::NO_INPUT, why))
    }
}

/// A line for each certificate.
fn lines(certificates: &[&Revocable]) -> String {
    let line = |one: &&Revocable| {
        let in_use = if one.is_in_use { ", in the files of servers" } else { "" };
        format!(
            "    SHA-256 {}, version {} of key {}, for {}, until {}{in_use}\n",
            one.certificate,
            one.version,
            one.key,
            one.names.join(" "),
            time(one.not_after),
        )
    };
    certificates.iter().map(line).collect()
}

/// Words for a certificate whose revocation was given up. A compromised key stays compromised.
fn kept_words(name: &Label, one: &ToRevoke) -> String {
    let certificate = one.certificate.as_deref().unwrap_or_default();
    let text = match &one.order {
        Some(order) => format!("nobody looks at order {order} any more"),
        None if one.may_be_revoked => format!(
            "the authority may have revoked the certificate of plan {name} already, SHA-256 {certificate}, so it is replaced; to see the end: keyward cert status {name}"
        ),
        None => format!("the certificate of plan {name}, SHA-256 {certificate}, is not revoked"),
    };
    let key = match one.is_compromised {
        true => "; its version of the key stays compromised, and gets no certificate any more",
        false => "",
    };
    format!("{text}{key}\n")
}
