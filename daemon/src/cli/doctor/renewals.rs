//! Plans of certificates: mistakes that would keep a certificate from being renewed, before its
//! authority finds them.

use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_plans::PlanView;

use super::account::Account;
use super::dns;
use super::finding::Finding;
use crate::admin::client::AdminClient;
use crate::cli::key::for_daemon;
use crate::cli::output::{ago, from_now, time};

/// Checks the plans, their agent and their deployer.
pub(super) fn check(admin: &AdminClient, runtime_dir: &Path) -> Vec<Finding> {
    let plans = match admin.plans() {
        Ok(plans) => plans,
        Err(error) => {
            return vec![Finding::warn(CHECK, format!("plans not checked: {error}"), "fix that first")];
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut findings = watched(admin);
    let Some(first) = plans.first() else { return findings };
    findings.extend(agent(first.agent_seen, now));
    for plan in plans.iter().take(MOST) {
        let of_plan = of_plan(plan, now, runtime_dir);
        let is_well = of_plan.is_empty();
        findings.extend(of_plan);
        if is_well && plan.certificate.is_none() {
            let detail = format!("plan {} has no certificate yet", plan.plan);
            findings.push(Finding::warn(CHECK, detail, "wait for the agent, and run keyward doctor again"));
        } else if is_well {
            let until = plan
                .certificate
                .as_ref()
                .map_or_else(String::new, |one| format!(", expires {}", from_now(one.not_after)));
            findings.push(Finding::ok(CHECK, format!("plan {} renews itself{until}", plan.plan)));
        }
    }
    if plans.len() > MOST {
        let detail = format!("{} more plans were not checked", plans.len() - MOST);
        findings.push(Finding::warn(CHECK, detail, "see keyward cert check, which checks all"));
    }
    findings.extend(orphans(&plans));
    findings
}

/// Checks the certificates that somebody else renews.
fn watched(admin: &AdminClient) -> Vec<Finding> {
    let all = admin.watched().unwrap_or_default();
    let wrong = all.iter().filter_map(|one| {
        let detail = format!("{}, which others renew: {}", one.name, one.problem.as_ref()?);
        let fix = "correct the section [[watch]] in keyward.toml, and let keyward-deploy run";
        Some(Finding::fail(CHECK, detail, fix))
    });
    wrong.collect()
}

/// Files of servers that no plan renews any more.
fn orphans(plans: &[PlanView]) -> Vec<Finding> {
    let entries = std::fs::read_dir(LIVE).into_iter().flatten().flatten();
    let (links, directories): (Vec<_>, Vec<_>) = entries
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.file_type().ok()?)))
        .partition(|(_, kind)| kind.is_symlink());
    let orphans = links.iter().filter(|(name, _)| !plans.iter().any(|plan| plan.plan == *name));
    let found = orphans.map(|(name, _)| {
        let is_generation = |directory: &str| {
            let rest = directory.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('.'));
            rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let of_it = directories.iter().filter(|(directory, _)| is_generation(directory));
        let paths: Vec<_> = of_it.map(|(directory, _)| format!(" {LIVE}/{directory}")).collect();
        let detail = format!("the files in {LIVE}/{name} belong to no plan, and are not renewed");
        let fix = format!("if no server names them, remove them: rm -r {LIVE}/{name}{}", paths.concat());
        Finding::warn(CHECK, detail, fix)
    });
    found.collect()
}

fn agent(seen: Option<u64>, now: u64) -> Option<Finding> {
    const FIX: &str = "start it: systemctl enable --now keyward-acme; its user needs the role agent: see docs/certificates.md";
    match seen {
        None => Some(Finding::fail(CHECK, "no agent has asked the daemon for work since its start", FIX)),
        Some(at) if at + QUIET < now => Some(Finding::fail(
            CHECK,
            format!("the agent has last asked the daemon for work {}", ago(at)),
            FIX,
        )),
        Some(_) => None,
    }
}

fn of_plan(plan: &PlanView, now: u64, runtime_dir: &Path) -> Vec<Finding> {
    let name = &plan.plan;
    let about = |finding: Finding| finding.about(&format!("plan {name}"));
    let mut findings: Vec<_> = clock(plan, now).into_iter().map(about).collect();
    if let Some(problem) = &plan.account_problem {
        let fix = "correct account-key or binding-key in the section [ca.NAME] of keyward.toml, and restart the daemon";
        findings.push(about(Finding::fail(CHECK, format!("no account at {}: {problem}", plan.issuer), fix)));
    }
    if let Some(problem) = &plan.key_problem {
        let fix = format!("see {}", for_daemon(format!("keyward key show {}", plan.key), runtime_dir));
        let detail = format!("{}: {problem}, so its certificate cannot be renewed", plan.key);
        findings.push(about(Finding::fail(CHECK, detail, fix)));
    }
    if let Some(problem) = &plan.revocation_problem {
        findings.push(about(Finding::fail(CHECK, problem.as_str(), "do as its words say")));
    }
    findings.extend(plan.programs.iter().filter_map(|path| program(path)).map(about));
    findings.extend(plan.files.iter().filter_map(|path| readable(path)).map(about));
    findings.extend(plan.webroot.iter().filter_map(|path| webroot(path)).map(about));
    if let Some(error) = plan.last_error.as_ref().filter(|_| plan.failures > 0) {
        let again = for_daemon(format!("keyward cert renew {name} --now"), runtime_dir);
        let remedy = remedy(plan.last_kind.as_deref().unwrap_or_default(), plan.challenge.as_deref());
        let fix = format!("{remedy}; then: {again}");
        findings.push(about(Finding::fail(
            CHECK,
            format!("not renewed, {} times: {error}", plan.failures),
            fix,
        )));
    }
    if let Some(deployed) = &plan.deployed {
        if let Some(problem) = &deployed.problem {
            let fix = "do as its words say; keyward-deploy tries again within a minute";
            findings.push(about(Finding::fail(CHECK, format!("not deployed: {problem}"), fix)));
        }
        for (at, shown) in &deployed.listeners {
            let Some(problem) = &shown.problem else { continue };
            let fix = match shown.not_after {
                Some(_) => {
                    "name the files below /etc/keyward/live in the configuration of the server, and reload it"
                }
                None => {
                    "start the server, and see its log: it must show a certificate to a client of TLS 1.2 or 1.3"
                }
            };
            findings.push(about(Finding::fail(
                CHECK,
                format!("the listener {at} does not show the certificate: {problem}"),
                fix,
            )));
        }
    }
    if plan.is_deployed_here && plan.looked_at.is_none_or(|at| at + DEPLOYER_QUIET < now) {
        let fix = "start it: systemctl enable --now keyward-deploy";
        let detail = "no deployer has looked at the servers of this host within the last minutes";
        findings.push(about(Finding::fail(CHECK, detail, fix)));
    }
    let names = || plan.names.iter().take(MOST_NAMES);
    match (plan.challenge.as_deref(), &plan.thumbprint) {
        (Some("http"), Some(thumbprint)) => {
            findings.extend(names().filter_map(|host| answer(host, Some(thumbprint))).map(about));
        }
        (Some("webroot"), _) => findings.extend(names().filter_map(|host| answer(host, None)).map(about)),
        _ => {}
    }
    if let Some(domain) = &plan.issuer_domain {
        let account = plan.account.as_deref();
        let method = if plan.challenge.as_deref() == Some("dns") { "dns-01" } else { "http-01" };
        let issuer = dns::Issuer { domain, account, method };
        findings.extend(names().flat_map(|name| dns::check(CHECK, name, &issuer)).map(about));
    }
    findings
}

/// A clock that is wrong: certificates seem to be expired, or not valid yet.
fn clock(plan: &PlanView, now: u64) -> Option<Finding> {
    const FIX: &str = "set the clock of this host: systemctl status systemd-timesyncd, or chronyc tracking";
    if let Some(one) = plan.certificate.as_ref().filter(|one| one.not_before > now + 60) {
        let (from, now) = (time(one.not_before), time(now));
        let detail = format!("the certificate is valid from {from}, and the clock says {now}");
        return Some(Finding::fail(CHECK, detail, FIX));
    }
    let ahead = plan.clock_ahead.filter(|ahead| ahead.unsigned_abs() > MOST_AHEAD)?;
    let words = if ahead > 0 { "ahead of" } else { "behind" };
    let detail = format!(
        "the clock of this host is {} {words} the clock of {}",
        humantime::format_duration(Duration::from_secs(ahead.unsigned_abs())),
        plan.issuer
    );
    Some(Finding::fail(CHECK, detail, FIX))
}

/// A program that cannot be run.
fn program(path: &Path) -> Option<Finding> {
    let fix = "correct the plan in keyward.toml, or install the program and make it executable";
    match path.metadata() {
        Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => None,
        Ok(_) => {
            let detail = format!("{} is not an executable file", path.display());
            Some(Finding::fail(CHECK, detail, fix))
        }
        Err(error) => Some(Finding::fail(CHECK, format!("{}: {error}", path.display()), fix)),
    }
}

/// A file that the agent cannot read.
fn readable(path: &Path) -> Option<Finding> {
    let fix = format!("let the user {AGENT} read it, for example: chgrp {AGENT} FILE && chmod 640 FILE");
    let detail = match path.metadata() {
        Err(error) => {
            return Some(Finding::fail(
                CHECK,
                format!("{}: {error}", path.display()),
                "name a file that is there",
            ));
        }
        Ok(found) if !found.is_file() => format!("{} is not a file", path.display()),
        Ok(_) => Account::of_name(AGENT).ok()?.cannot_read(path)?,
    };
    Some(Finding::fail(CHECK, detail, fix))
}

/// A directory for answers that is not there.
fn webroot(path: &Path) -> Option<Finding> {
    let detail = format!("the webroot {} is not a directory", path.display());
    let fix = "name the directory that the server shows at port 80 of the names";
    (!path.is_dir()).then(|| Finding::fail(CHECK, detail, fix))
}

/// The remedy for a kind of failure (RFC 8555, 6.7).
fn remedy(kind: &str, challenge: Option<&str>) -> &'static str {
    match kind {
        "unauthorized" | "incorrectResponse" | "dns" if challenge == Some("dns") => {
            "the authority does not find the record: the DNS hook must have made it when it ends, at every server of the zone"
        }
        "daemon" => "do as its words say",
        "dns-key" => "let the user keyward-acme read the file",
        "caa" => {
            "let the CAA records of the domain admit the authority: keyward cert status PLAN prints the record"
        }
        "dns" => "the authority cannot look the name up: correct its records, and its DNSSEC signatures",
        "connection" | "tls" => {
            "the authority cannot reach port 80 of the name: open it in the firewall, and let the name lead to this host"
        }
        "unauthorized" | "incorrectResponse" => {
            "the answer at the name is not the one of this plan: put the line of keyward cert plan into the server that has port 80, or let the user keyward-acme write to the webroot"
        }
        "rateLimited" => "wait until the time that the authority names",
        "externalAccountRequired" => {
            "name the account that you have at the authority: binding-id and binding-key in [ca.NAME]"
        }
        "userActionRequired" => "the authority wants a person: see its words",
        "network" => "let keyward-acme reach the authority: its unit must not restrict the network",
        "clock" => "set the clock of this host: systemctl status systemd-timesyncd, or chronyc tracking",
        "unit" => "see keyward status: the unit is sealed or away, or a disk is full",
        "accountDoesNotExist" => {
            "the authority does not know the account: see its words, and [ca.NAME] in keyward.toml"
        }
        "program" => "correct the program, which runs as keyward-acme",
        "webroot" => "give keyward-acme the right to write there, also in its unit: ReadWritePaths=",
        _ => "see the words of the authority, and the log of keyward-acme",
    }
}

/// Asks a name for the answer to a challenge, as the authority will. Without a thumbprint, any
/// answer of a server is right: its files come later.
fn answer(host: &str, thumbprint: Option<&str>) -> Option<Finding> {
    let addresses = match (host, 80).to_socket_addrs() {
        Ok(addresses) => addresses.collect::<Vec<_>>(),
        Err(error) => {
            let fix = match error.to_string().contains("Temporary failure") {
                true => {
                    "correct the resolver of this host, see /etc/resolv.conf, or make the records of the name"
                }
                false => "make the records of the name, which the authority looks up",
            };
            return Some(Finding::fail(CHECK, format!("this host finds no address of {host}: {error}"), fix));
        }
    };
    let expected = thumbprint.map(|thumbprint| format!("{TOKEN}.{thumbprint}"));
    let mut last = None;
    for address in addresses.iter().take(4) {
        match ask(address, host) {
            Ok(Answer::Body(body))
                if expected.as_deref().is_none_or(|expected| body.trim_end() == expected) =>
            {
                return None;
            }
            Ok(Answer::Status(_)) if expected.is_none() => return None,
            Ok(Answer::Body(body)) => {
                last = Some(format!("the answer begins with {:?}", body.chars().take(60).collect::<String>()))
            }
            Ok(Answer::Status(line)) => last = Some(line),
            Err(error) => last = Some(error.to_string()),
        }
    }
    let why = last.unwrap_or_else(|| "there is no address".to_owned());
    let fix = match expected {
        Some(_) => "put the line of keyward cert plan into the server that has port 80 of the name",
        None => "start the server that has port 80 of the name, and open the port in the firewall",
    };
    Some(Finding::fail(
        CHECK,
        format!("http://{host}/.well-known/acme-challenge/ does not answer the authority: {why}"),
        fix,
    ))
}

/// An answer at port 80.
enum Answer {
    /// The body of an answer with status 200.
    Body(String),
    /// The first line of another answer.
    Status(String),
}

/// Asks a server at port 80.
fn ask(address: &std::net::SocketAddr, host: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!(
        "GET /.well-known/acme-challenge/{TOKEN} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.take(16 * 1024).read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    match head.split(' ').nth(1) {
        Some("200") => Ok(Answer::Body(body.to_owned())),
        Some(_) => Ok(Answer::Status(head.lines().next().unwrap_or_default().to_owned())),
        None => Err(io::Error::other("the answer is none of HTTP")),
    }
}

/// Seconds by which a clock may be ahead or behind.
const MOST_AHEAD: u64 = 300;
/// Seconds after which a deployer is missed, which looks each minute.
const DEPLOYER_QUIET: u64 = 300;
/// User of the agent, as its unit has it.
const AGENT: &str = "keyward-acme";
/// Directory of the files of servers.
const LIVE: &str = "/etc/keyward/live";
/// A token that no authority sends.
const TOKEN: &str = "keyward-doctor";
/// Seconds after which an agent is missed.
const QUIET: u64 = 60;
/// Longest time for an answer.
const LIMIT: Duration = Duration::from_secs(3);
/// Most plans, and most names of a plan, that are checked.
const MOST: usize = 20;
const MOST_NAMES: usize = 5;
const CHECK: &str = "renewal";
