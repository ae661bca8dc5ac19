//! Plans of certificates, as they are at the moment.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use keyward_plans::{PlanView, ToRevoke};
use keyward_proto::Label;
use serde_json::json;

use super::new_plan::answer;
use crate::admin::api::Certified;
use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{ago, from_now, print, print_json, print_table, table, time};
use crate::config::Server;
use crate::ground::exit;

#[derive(Args, Debug)]
pub(in crate::cli) struct Status {
    /// Name of a plan [default: all plans]
    #[arg(value_name = "PLAN")]
    plan: Option<Label>,
    #[command(flatten)]
    client: Client,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let plans = plans(&self.client, "cannot show the plans")?;
        match &self.plan {
            None if self.client.json => print_json(&plans),
            None => print_plans(&plans),
            Some(name) => {
                let plan = plans.iter().find(|plan| plan.plan == name.as_str());
                let missing = || Failure::new(exit::NO_INPUT, format_args!("there is no plan {name}"));
                let plan = plan.ok_or_else(missing)?;
                if self.client.json { print_json(plan) } else { print(&in_full(plan)) }
            }
        }?;
        if let Some(doubt) = doubt(&plans).filter(|_| !self.client.json) {
            print(&format!("{doubt}\n"))?;
        }
        // The state of no plan is known.
        match plans.iter().any(|plan| plan.progress_problem.is_some()) {
            true => Err(Failure::silent(exit::IO)),
            false => Ok(()),
        }
    }
}

/// Damage of the progress of all plans.
fn doubt(plans: &[PlanView]) -> Option<&str> {
    plans.iter().find_map(|plan| plan.progress_doubt.as_deref())
}

fn plans(client: &Client, attempt: &str) -> Result<Vec<PlanView>, Failure> {
    let plans = AdminClient::new(&client.runtime_dir).and_then(|admin| admin.plans());
    plans.map_err(|error| Failure::from(error).while_trying(attempt))
}

fn print_plans(plans: &[PlanView]) -> Result<(), Failure> {
    let mut rows = table(&["PLAN", "STATE", "EXPIRES", "RENEWAL", "SERVED"]);
    for plan in plans {
        rows.add_row([
            plan.plan.clone(),
            plan.state.clone(),
            plan.certificate.as_ref().map_or_else(|| "no certificate".into(), |one| from_now(one.not_after)),
            renewal(plan),
            served(plan).to_owned(),
        ]);
    }
    print_table(&rows)?;
    let lines = |plan: &PlanView| {
        let both = fault(plan).into_iter().chain(problem(plan));
        both.map(|words| format!("{}: {words}\n", plan.plan)).collect::<String>()
    };
    print(&plans.iter().map(lines).collect::<String>())
}

fn renewal(plan: &PlanView) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if plan.due <= now { "now".into() } else { from_now(plan.due) }
}

fn served(plan: &PlanView) -> &'static str {
    let has_listeners = plan.deployed.as_ref().is_some_and(|deployed| !deployed.listeners.is_empty());
    let is_placeholder = plan.deployed.as_ref().is_none_or(|deployed| deployed.is_placeholder);
    match plan.is_served {
        Some(true) => "yes",
        Some(false) => "no",
        None if !plan.is_deployed_here => "-",
        None if plan.certificate.is_none() && is_placeholder => "placeholder",
        // For other names, or another key.
        None if plan.certificate.is_none() => "a former one",
        None if plan.deployed.is_some() && !has_listeners => "no listeners",
        None => "not looked",
    }
}

/// Why a plan is not where it should be.
fn problem(plan: &PlanView) -> Option<String> {
    let deployed = plan.deployed.as_ref();
    let of_listener = deployed.and_then(|deployed| {
        deployed.listeners.iter().find_map(|(at, shown)| Some(format!("{at}: {}", shown.problem.as_ref()?)))
    });
    let of_key = plan.key_problem.as_ref().map(|problem| format!("{}: {problem}", plan.key));
    let of_deployment = || deployed.and_then(|deployed| deployed.problem.clone());
    let of_revocation = || plan.revocation_problem.clone();
    let of_progress = plan.progress_problem.clone();
    of_progress
        .or(of_key)
        .or_else(of_revocation)
        .or_else(|| plan.last_error.clone())
        .or_else(of_deployment)
        .or(of_listener)
}

/// The fault of a certificate that is revoked or for a compromised key: first of the one that
/// servers have, which may be for other names or another key than the plan has now.
fn fault(plan: &PlanView) -> Option<String> {
    let words = |is_revoked, is_compromised| match (is_revoked, is_compromised) {
        (true, true) => Some("revoked, or may be, and is for a compromised key"),
        (true, false) => Some("revoked, or may be"),
        (false, true) => Some("for a compromised key"),
        (false, false) => None,
    };
    let in_use = plan.revocable.iter().find(|one| one.is_in_use);
    let of_servers = in_use.and_then(|one| {
        let fault = words(one.is_revoked, one.is_compromised)?;
        Some(format!("the certificate that servers have is {fault}: SHA-256 {}", one.certificate))
    });
    let present = words(plan.may_be_revoked == Some(true), plan.is_compromised == Some(true));
    of_servers.or_else(|| Some(format!("its certificate is {}", present?)))
}

fn in_full(plan: &PlanView) -> String {
    let mut text = format!(
        "plan        {}\nstate       {}\nkey         {}\nnames       {}\nissuer      {}\nrenewal     {}\nserved      {}\n",
        plan.plan,
        plan.state,
        plan.key,
        plan.names.join(", "),
        plan.issuer,
        renewal(plan),
        served(plan)
    );
    if let Some(one) = &plan.certificate {
        text += &format!(
            "certificate version {}, until {} ({})\n            SHA-256 {}\n",
            one.version,
            time(one.not_after),
            from_now(one.not_after),
            one.fingerprint
        );
    }
    for problem in fault(plan).into_iter().chain(problem(plan)) {
        text += &format!("problem     {problem}\n");
    }
    text += &plan.revocations.iter().map(|one| to_revoke(plan, one)).collect::<String>();
    if let Some(page) = &plan.explanation {
        text += &format!("why now     {page}\n");
    }
    if let Some(caa) = &plan.caa {
        text += &format!("DNS record  {caa}\n");
    }
    if let Some((former, until)) = &plan.former_account {
        text += &format!(
            "account     was {former} until {}; a record of the DNS that names it must be changed\n",
            time(*until)
        );
    }
    if let Some(thumbprint) = plan.thumbprint.as_ref().filter(|_| plan.challenge.as_deref() == Some("http")) {
        text += "\nThe server at port 80 of the names answers the authority. One of these is in its configuration:\n";
        text += &[Server::Nginx, Server::Haproxy, Server::Apache]
            .map(|server| answer(server, thumbprint))
            .concat();
    }
    text
}

/// Words for a certificate that is to be revoked.
fn to_revoke(plan: &PlanView, one: &ToRevoke) -> String {
    let authority = if one.authority.is_empty() { "an unknown authority" } else { &one.authority };
    let of = match &one.plan {
        of if *of == plan.plan => String::new(),
        of => format!(", of plan {of}"),
    };
    // A plan gives up what it has by its key, too. Revocations of a plan that is gone are given up
    // by the name of that one.
    let is_own = one.key == plan.key || one.plan.is_empty();
    let name = if is_own { &plan.plan } else { &one.plan };
    match (&one.certificate, &one.order) {
        (_, Some(order)) => format!(
            "order       {order}{of} at {authority} was for a compromised key; if keyward-acme finds its certificate, the certificate is revoked; otherwise ask the authority for it, and then: keyward cert revoke {name} --cancel\n",
        ),
        (certificate, None) => format!(
            "revocation  asked for, and not done yet{of}: SHA-256 {} at {authority}; to give it up: keyward cert revoke {name} --cancel\n",
            certificate.as_deref().unwrap_or("unknown")
        ),
    }
}

/// Prints the certificates that somebody else renews.
pub(super) fn print_watched(client: &Client) -> Result<(), Failure> {
    let watched = AdminClient::new(&client.runtime_dir).and_then(|admin| admin.watched());
    let attempt = "cannot list the certificates that others renew";
    let watched = watched.map_err(|error| Failure::from(error).while_trying(attempt))?;
    if client.json {
        return print_json(&watched);
    }
    let mut rows = table(&["NAME", "NAMES", "EXPIRES"]);
    for one in watched {
        let expires = one.validity.map(|(_, until)| from_now(until)).or(one.problem).unwrap_or_default();
        rows.add_row([one.name, one.names.join(", "), expires]);
    }
    print_table(&rows)
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Renew {
    /// Name of the plan
    #[arg(value_name = "PLAN")]
    plan: Label,
    /// Renew it now, whenever it is due; without this option, only say when it is due
    #[arg(long)]
    now: bool,
    /// Make a new version of the key for the new certificate
    #[arg(long, requires = "now")]
    new_key: bool,
    #[command(flatten)]
    client: Client,
}

impl Renew {
    pub(super) fn run(self) -> Result<(), Failure> {
        let name = &self.plan;
        let attempt = format!("cannot renew the certificate of plan {name}");
        let failed =
            |error: crate::admin::client::AdminClientError| Failure::from(error).while_trying(&attempt);
        let admin = AdminClient::new(&self.client.runtime_dir).map_err(failed)?;
        let plan = match self.now {
            true => admin.renew(name.as_str(), self.new_key).map_err(failed)?,
            false => {
                let plans = admin.plans().map_err(failed)?;
                let missing = || Failure::new(exit::NO_INPUT, format_args!("there is no plan {name}"));
                plans.into_iter().find(|plan| plan.plan == name.as_str()).ok_or_else(missing)?
            }
        };
        if self.client.json {
            return print_json(&plan);
        }
        match self.now {
            true => print(&format!(
                "plan {name} is due now, and keyward-acme renews it{}; to see the end: keyward cert status {name}\n",
                once_it_runs(&plan)
            )),
            false => print(&format!(
                "plan {name} is due {}; to renew it now: keyward cert renew {name} --now\n",
                renewal(&plan)
            )),
        }
    }
}

#[derive(Args, Debug)]
pub(in crate::cli) struct Check {
    /// Part of its lifetime that a certificate must have left, in per cent
    #[arg(long, value_name = "PERCENT", default_value = "20%", value_parser = percent)]
    within: u8,
    #[command(flatten)]
    client: Client,
}

fn percent(text: &str) -> Result<u8, &'static str> {
    let number = text.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100);
    number.ok_or("a number from 0 to 100, such as 20%")
}

impl Check {
    /// True if less of its lifetime is left than `within`.
    fn is_near(&self, from: u64, until: u64, now: u64) -> bool {
        let life = until.saturating_sub(from);
        until.saturating_sub(now) <= life.saturating_mul(self.within.into()) / 100
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let attempt = "cannot check the certificates";
        let admin = AdminClient::new(&self.client.runtime_dir);
        let read = admin.and_then(|admin| Ok((admin.list()?.0, admin.plans()?, admin.watched()?)));
        let (keys, plans, watched) = read.map_err(|error| Failure::from(error).while_trying(attempt))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let certified: Vec<_> = keys.into_iter().flat_map(Certified::in_use).collect();
        let ends: Vec<_> = certified
            .iter()
            .filter(|one| self.is_near(one.certificate.not_before, one.certificate.expires(), now))
            .map(|one| {
                format!(
                    "{} version {}: the copy in the daemon expires {}; for a newer file of a server: keyward cert attach {0} --in FILE",
                    one.label,
                    one.version,
                    from_now(one.certificate.expires())
                )
            })
            .collect();
        let others: Vec<_> = watched
            .iter()
            .filter_map(|one| match (one.validity, &one.problem) {
                (Some((from, until)), _) => {
                    let is_near = self.is_near(from, until, now);
                    is_near.then(|| format!("{}, which others renew: expires {}", one.name, from_now(until)))
                }
                (None, problem) => Some(format!(
                    "{}, which others renew: {}",
                    one.name,
                    problem.as_deref().unwrap_or("not found")
                )),
            })
            .collect();
        let of_plan = |plan: &PlanView| {
            let both = fault(plan).into_iter().chain(wrong(plan, now));
            both.map(|words| format!("plan {}: {words}", plan.plan)).collect::<Vec<_>>()
        };
        let failing = plans.iter().flat_map(of_plan);
        let doubt = doubt(&plans).map(str::to_owned);
        let all: Vec<_> = ends.into_iter().chain(others).chain(failing).chain(doubt).collect();
        match self.client.json {
            true => print_json(&json!({ "certificates": certified.len(), "problems": all }))?,
            false if all.is_empty() => print(&format!(
                "certificates: {} in use, by the copies in the daemon; none about to expire\n",
                certified.len()
            ))?,
            false => print(&all.iter().map(|line| format!("{line}\n")).collect::<String>())?,
        }
        if all.is_empty() { Ok(()) } else { Err(Failure::silent(CRITICAL)) }
    }
}

fn is_agent_missing(plan: &PlanView, now: u64) -> bool {
    plan.agent_seen.is_none_or(|at| at.saturating_add(AGENT_QUIET) < now)
}

/// Words behind work that the agent does, if it does not seem to run.
pub(super) fn once_it_runs(plan: &PlanView) -> &'static str {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if is_agent_missing(plan, now) {
        " once it runs (it has not asked for work within the last minutes)"
    } else {
        ""
    }
}

/// The fault of a plan, also that nobody has looked.
fn wrong(plan: &PlanView, now: u64) -> Option<String> {
    let of_deployment = plan.deployed.as_ref().and_then(|deployed| deployed.problem.clone());
    if ["failing", "expired"].contains(&plan.state.as_str()) || plan.is_served == Some(false) {
        let unsaid = || "its servers do not show the newest certificate yet".to_owned();
        return Some(problem(plan).unwrap_or_else(if plan.state == "expired" {
            || "its certificate is expired".into()
        } else {
            unsaid
        }));
    }
    if of_deployment.is_some() {
        return of_deployment;
    }
    if let Some(order) = plan.revocations.iter().find_map(|one| one.order.as_ref()) {
        return Some(format!(
            "the certificate of order {order} for a compromised key is not revoked yet; see: keyward cert status {}",
            plan.plan
        ));
    }
    if plan.certificate.is_none() {
        return Some("it has no certificate yet".into());
    }
    if is_agent_missing(plan, now) {
        return Some("no agent has asked for work within the last minutes; is keyward-acme running?".into());
    }
    let life = plan.certificate.as_ref().map_or(0, |one| one.not_after.saturating_sub(one.not_before));
    if plan.due.saturating_add(life / 10).saturating_add(AGENT_QUIET) < now {
        return Some(format!("it was to be renewed {}, and is not", ago(plan.due)));
    }
    let is_unseen = plan.is_deployed_here
        && plan.certificate.is_some()
        && plan.looked_at.is_none_or(|at| at.saturating_add(DEPLOYER_QUIET) < now);
    is_unseen.then(|| {
        "nobody has looked at its listeners within the last minutes; is keyward-deploy running?".into()
    })
}

/// Seconds after which a deployer is missed, which looks each minute.
const DEPLOYER_QUIET: u64 = 300;
/// Seconds after which an agent is missed.
const AGENT_QUIET: u64 = 120;
/// Exit status for monitoring: the value of Nagios for a critical state.
const CRITICAL: u8 = 2;
