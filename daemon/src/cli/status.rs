//! `keyward status`: the state of the daemon on one screen, and as an exit status for cron.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BTreeMap;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::output::{ago, from_now, print, print_json, time};
use super::protect::health::{Fault, ProtectedServers};
use super::{doctor, setup};
use crate::admin::client::AdminClient;
use crate::admin::status_view::{
    CertificatesView, ExpiringView, FindingView, MeasureView, Severity, StatusView,
};
use crate::ground::opening::{Opening, described};

#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    client: Client,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let asked = AdminClient::new(&self.client.runtime_dir).and_then(|admin| {
            let admin = admin.for_a_look();
            Ok((admin.status()?, admin))
        });
        let (mut status, admin) = asked
            .map_err(|error| Failure::from(error).while_trying("cannot ask the daemon for its state"))?;
        // The daemon sees no other processes than its own, and may not read the journals.
        let ProtectedServers { faults, running } = ProtectedServers::look(status.config_file.as_deref());
        let runtime_dir = std::path::absolute(&self.client.runtime_dir);
        let runtime_dir = runtime_dir.unwrap_or_else(|_| self.client.runtime_dir.clone());
        let of_running = doctor::faults_of_protected(&running, &status, &admin, &runtime_dir);
        let faults = faults.into_iter().chain(of_running);
        let faults = faults.map(|Fault { detail, fix }| format!("{detail}; {fix}"));
        // Its unit is open, so it does not miss the secret.
        let secret = setup::fault_of_secret(&status);
        let found = secret.into_iter().chain(faults);
        let found = found.map(|text| FindingView { severity: Severity::Warning, text });
        let mut all: Vec<_> = findings(&status).into_iter().chain(found).collect();
        all.sort_by_key(|finding| Reverse(finding.severity));
        status.findings = Some(all);
        if self.client.json {
            print_json(&status)?;
        } else {
            print(&text(&status))?;
        }
        match Health::of(&status) {
            Health::Well => Ok(()),
            Health::Warns => Err(Failure::silent(PROBLEM)),
            Health::CannotSign => Err(Failure::silent(CANNOT_SIGN)),
        }
    }
}

/// The state of the daemon in one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Health {
    Well,
    /// There is a problem, and keys sign.
    Warns,
    /// A backend cannot sign, or uses must be recorded and cannot be.
    CannotSign,
}

impl Health {
    fn of(status: &StatusView) -> Self {
        match findings(status).iter().map(|finding| finding.severity).max() {
            Some(Severity::CannotSign) => Self::CannotSign,
            Some(Severity::Warning) => Self::Warns,
            Some(Severity::Note) | None => Self::Well,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Well => "well",
            Self::Warns => "keys sign, and there are problems, see below",
            Self::CannotSign => "KEYS CANNOT SIGN, see below",
        }
    }
}

fn text(status: &StatusView) -> String {
    let mut text = line("state", Health::of(status).words());
    if status.dev {
        text += &line("mode", "DEVELOPMENT (--dev), for no key that matters; see: keyward setup");
    }
    text += &daemon(status);
    text += &backends(status);
    text += &keys(status);
    if let Some(certificates) = &status.certificates {
        text += &expiry(certificates, status.locked);
    }
    text += &line("connections", &format!("{} open, {} requests", status.connections, status.requests));
    let last = status.last_refusals.as_ref();
    text += &outcomes("signatures", &status.outcomes, last);
    if !status.decryption_outcomes.is_empty() {
        text += &outcomes("decryptions", &status.decryption_outcomes, last);
    }
    text += &trail(status);
    text += &confinement(status);
    text += &purges(status);
    for FindingView { severity, text: finding } in findings(status) {
        text += &line(if severity == Severity::Note { "to do" } else { "problem" }, &finding);
    }
    text
}

/// A line of the text, with its title in the first column.
fn line(title: &str, text: &str) -> String {
    format!("{title:<12}{text}\n")
}

fn daemon(status: &StatusView) -> String {
    let StatusView { version, pid, uptime_seconds, started, .. } = status;
    let up = humantime::format_duration(Duration::from_secs(*uptime_seconds));
    let since = started.map(|at| format!(", since {}", time(at))).unwrap_or_default();
    line("daemon", &format!("{version}, process {pid}{since}, up {up}"))
}

fn backends(status: &StatusView) -> String {
    let mut text = String::new();
    for backend in &status.backends {
        let ready = if backend.ready { "ready" } else { "not ready" };
        text += &line("backend", &format!("{} ({}): {ready}", backend.name, backend.unit));
        if let Some(opening) = &backend.opening {
            let opened = opened(opening, backend.ready, backend.next_start_fails);
            text += &line("", &format!("opened {opened}"));
        }
    }
    text
}

fn keys(status: &StatusView) -> String {
    let states = status.keys_by_state.iter().flatten();
    let states: Vec<_> = states.map(|(state, count)| format!("{count} {state}")).collect();
    let states = if states.is_empty() { String::new() } else { format!(": {}", states.join(", ")) };
    let unverified = if status.locked { UNVERIFIED } else { "" };
    line("keys", &format!("{}{states}; {} grants{unverified}", status.keys, status.grants))
}

/// The certificates that expire next, in lines that fit the screen.
fn expiry(certificates: &CertificatesView, is_locked: bool) -> String {
    let CertificatesView { total, expired, soon, first } = certificates;
    let unverified = if is_locked { UNVERIFIED } else { "" };
    let mut text = match total {
        0 if is_locked => line("expiry", "not known: the key store is locked"),
        0 => line("expiry", "no key has a certificate"),
        _ => {
            let counts = format!("{total} certificates, {expired} expired, {soon} to renew{unverified}");
            line("expiry", &counts)
                + &line("", "by the copies in the daemon, from key import and cert attach")
        }
    };
    for ExpiringView { key, names, not_after, .. } in first {
        let row = format!("{:<15} {key} ({})", from_now(*not_after), names.join(", "));
        let shown = match row.char_indices().nth(ROW) {
            Some((end, _)) => format!("{}...", &row[..end]),
            None => row,
        };
        text += &line("", &shown);
    }
    text
}

/// Successes, then refusals by their outcomes, the most frequent ones first, with the time of the
/// last one. The rare ones share a line.
fn outcomes(title: &str, counts: &BTreeMap<String, u64>, last: Option<&BTreeMap<String, u64>>) -> String {
    let done = counts.get(DONE).copied().unwrap_or_default();
    let mut refused: Vec<_> = counts.iter().filter(|(outcome, _)| *outcome != DONE).collect();
    refused.sort_by_key(|(_, count)| Reverse(**count));
    let sum: u64 = refused.iter().map(|(_, count)| **count).sum();
    let mut text = line(title, &format!("{done} done, {sum} refused"));
    let rare = refused.split_off(refused.len().min(MOST_OUTCOMES));
    for (outcome, count) in refused {
        let at = last.and_then(|last| last.get(outcome));
        let at = at.map(|at| format!(", last {}", ago(*at))).unwrap_or_default();
        text += &line("", &format!("{count} {outcome}{at}"));
    }
    if !rare.is_empty() {
        let rare: Vec<_> = rare.into_iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        text += &line("", &rare.join(", "));
    }
    text
}

fn trail(status: &StatusView) -> String {
    let Some(audit) = &status.audit else { return String::new() };
    let signed = audit.checkpoint.as_ref().map_or_else(
        || "not signed yet".into(),
        |checkpoint| format!("signed to {} at {}", checkpoint.through, checkpoint.time),
    );
    let mut text = line("audit trail", &format!("{} records, {signed}", audit.last));
    if audit.unwritten > 0 {
        text += &line("", &format!("{} uses without a record since the start", audit.unwritten));
    }
    if let (Some(files), Some(bytes), Some(free)) = (audit.files, audit.bytes, audit.free) {
        let space = format!("{files} files, {} MiB, {free} % of the file system free", bytes >> 20);
        text += &line("", &space);
    }
    text
}

/// The measures that are in force in one line, and a line for each other one.
fn confinement(status: &StatusView) -> String {
    let (inside, outside): (Vec<_>, Vec<_>) = status.confinement.iter().partition(|measure| measure.in_force);
    let names: Vec<_> = inside.iter().map(|measure| measure.measure.as_str()).collect();
    let mut text = String::new();
    if !names.is_empty() {
        text += &line("confined", &names.join(", "));
    }
    for MeasureView { measure, detail, .. } in outside {
        text += &line("unconfined", &format!("{measure}: {detail}"));
    }
    text
}

fn purges(status: &StatusView) -> String {
    let mut text = String::new();
    for path in status.purges.iter().flat_map(|purges| &purges.leftovers) {
        let path = path.display();
        text += &line("purges", &format!("do not reach copies of before, as long as there is {path}"));
    }
    if let Some(purges) = status.purges.as_ref().filter(|purges| !purges.r#final) {
        let left = match purges.keys_left {
            0 => "no key is left to wrap anew, but a file cannot be written yet".to_owned(),
            keys => format!("{keys} keys are left to wrap anew"),
        };
        text += &line("purges", &format!("not final: {left}"));
    }
    text
}

/// The words for the way in which the embedded unit is opened at a start, if the way works.
pub(super) fn opened(opening: &str, is_open: bool, next_start_fails: bool) -> &str {
    match (is_open, next_start_fails) {
        (_, true) => "not at the next start",
        (false, _) if opening != Opening::Owners.name() => "not at this start",
        _ => described(opening),
    }
}

/// Everything that an administrator must know of, the worst first. An older daemon has no such
/// list, and says less.
fn findings(status: &StatusView) -> Vec<FindingView> {
    if let Some(findings) = &status.findings {
        return findings.clone();
    }
    let can_sign = status.can_sign.unwrap_or_else(|| status.backends.iter().all(|backend| backend.ready));
    let severity = if can_sign { Severity::Warning } else { Severity::CannotSign };
    let older =
        "an older daemon runs, which does not say whether certificates and plans are well; restart it";
    let all = status.problems.iter().cloned().chain([older.to_owned()]);
    all.map(|text| FindingView { severity, text }).collect()
}

/// Exit status if there is a problem, and keys sign.
const PROBLEM: u8 = 1;
/// Exit status if keys cannot sign.
const CANNOT_SIGN: u8 = 2;
/// Remark about numbers of a locked key store.
const UNVERIFIED: &str = "; not verified";
/// Outcome of a successful request.
const DONE: &str = "done";
/// Outcomes of refusals with a line of their own.
const MOST_OUTCOMES: usize = 4;
/// Longest row about a certificate, in characters: with its indent and the dots, 79.
const ROW: usize = 64;
