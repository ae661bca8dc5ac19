//! Everything that an administrator must know of, in one list: the status page, `keyward status`
//! and its exit status all show this list.
//!
//! A fact that nobody has looked at is a finding, too: nothing is called well for want of a look.

use super::plans::{LOOK_LIFE, key_problem, progress_problem, revocation_problem, served, words};
use crate::admin::status_view::{CertificatesView, FindingView, Severity, StatusView};
use crate::config;
use crate::daemon::Daemon;
use crate::keys::expiry::is_soon;
use crate::keys::now;
use crate::lifecycle::renewal;

/// Problems that are known before the rest of the status.
pub(super) struct Known {
    /// Reasons why backends cannot sign.
    pub(super) unready: Vec<String>,
    /// Other problems of the daemon.
    pub(super) others: Vec<String>,
    /// False if uses of keys are refused, because they cannot be recorded.
    pub(super) is_recorded: bool,
}

/// All findings, the worst ones first.
pub(super) async fn findings(daemon: &Daemon, known: Known, status: &StatusView) -> Vec<FindingView> {
    let Known { unready, others, is_recorded } = known;
    let mut of_trail = status.audit.iter().flat_map(|audit| audit.problems(now()));
    let unrecorded = (!is_recorded).then(|| {
        of_trail.next().unwrap_or_else(|| "uses of keys cannot be recorded, so they are refused".into())
    });
    let worst = unready.into_iter().chain(unrecorded).map(|text| (Severity::CannotSign, text));

    let keys = status.unusable_keys.filter(|keys| *keys > 0);
    let keys = keys.map(|keys| format!("{keys} enabled keys cannot sign now; see: keyward unit list"));
    let certificates = status.certificates.as_ref().and_then(of_certificates);
    let locked = status.locked.then(|| LOCKED.to_owned());
    let warnings = others.into_iter().chain(locked).chain(of_trail).chain(keys).chain(certificates);
    let warnings = warnings.chain(of_plans(daemon, status.locked).await).chain(of_watches(daemon));
    let warnings = warnings.map(|text| (Severity::Warning, text));

    let recovery = status.recovery_warning();
    let recovery = recovery.map(|warning| format!("{warning}; run: keyward backup --recovery FILE"));
    let restart = status.waiting_for_restart.iter();
    let restart = restart.map(|setting| format!("a restart is needed for the new value of {setting}"));
    let notes = recovery.into_iter().chain(restart).map(|text| (Severity::Note, text));

    let all = worst.chain(warnings).chain(notes);
    all.map(|(severity, text)| FindingView { severity, text }).collect()
}

/// The finding about certificates that have expired, or should be renewed by now.
fn of_certificates(CertificatesView { expired, soon, .. }: &CertificatesView) -> Option<String> {
    let counted = |count: usize, one: &str, more: &str| match count {
        0 => None,
        1 => Some(format!("1 certificate {one}")),
        count => Some(format!("{count} certificates {more}")),
    };
    let expired = counted(*expired, "has expired", "have expired");
    let soon = counted(*soon, "should be renewed by now", "should be renewed by now");
    let all: Vec<_> = expired.into_iter().chain(soon).collect();
    (!all.is_empty()).then(|| {
        format!(
            "{}, by the copies in the daemon; for a newer file of a server: keyward cert attach LABEL --in FILE; otherwise: keyward doctor",
            all.join(", and ")
        )
    })
}

/// Findings about the plans of certificates.
async fn of_plans(daemon: &Daemon, is_locked: bool) -> Vec<String> {
    if daemon.config().plans.is_empty() {
        return Vec::new();
    }
    let mut all = Vec::new();
    let seen = daemon.renewals.agent_seen();
    if seen.is_none_or(|seen| seen.saturating_add(AGENT_LIFE) <= now()) {
        let since = if seen.is_some() { "for ten minutes" } else { "since the daemon started" };
        all.push(format!(
            "no agent has asked for work {since}, so no certificate is renewed; see: systemctl status keyward-acme"
        ));
    }
    match renewal::all(daemon).await {
        Ok(states) => {
            let mut of_states: Vec<_> = states.iter().flat_map(|state| of_plan(daemon, state)).collect();
            if let Some(more @ 1..) = of_states.len().checked_sub(MOST_OF_PLANS) {
                of_states.truncate(MOST_OF_PLANS);
                of_states.push(format!("and {more} more problems of plans; see: keyward cert status"));
            }
            all.extend(of_states);
        }
        // The finding about the locked store says so.
        Err(_) if is_locked => {}
        Err(error) => all.push(format!("the state of the plans is not known: {error}")),
    }
    all
}

fn of_plan(daemon: &Daemon, state: &renewal::PlanState) -> Vec<String> {
    let plan = state.plan.name.as_str();
    let see = format!("see: keyward cert status {plan}");
    let progress = &state.progress;
    let reason = || {
        let failed = progress.last_error.as_ref().or(progress.revocation_error.as_ref());
        let of_key = key_problem(state).map(str::to_owned);
        let known = of_key.or_else(|| progress_problem(daemon)).or_else(|| revocation_problem(daemon, state));
        known.or_else(|| failed.map(|failed| failed.detail.clone()))
    };
    let because = || reason().map(|reason| format!(": {reason}")).unwrap_or_default();
    let lifetime = state.certificate.as_ref().map(|one| one.not_after().saturating_sub(one.not_before()));
    let is_overdue = lifetime.is_some_and(|lifetime| state.due.saturating_add(lifetime / 10) <= now());
    let of_state = match words(daemon, state) {
        "none" => Some(format!("plan {plan} has no certificate yet; {see}")),
        "expired" => Some(format!("the certificate of plan {plan} has expired{}; {see}", because())),
        "failing" => {
            let without = if state.certificate.is_none() { ", and has no certificate" } else { "" };
            Some(format!("plan {plan} fails{without}{}; {see}", because()))
        }
        "due" if is_overdue => Some(format!("the renewal of plan {plan} is overdue; {see}")),
        _ => None,
    };
    let (is_served, looked_at) = served(daemon, state);
    let is_old = looked_at.is_none_or(|at| at.saturating_add(LOOK_LIFE) <= now());
    let of_servers = match is_served {
        Some(false) => Some(format!("a server does not show the certificate of plan {plan}; {see}")),
        _ if state.plan.is_deployed() && is_old => Some(format!(
            "nobody has looked lately whether servers show the certificate of plan {plan}; see: systemctl status keyward-deploy"
        )),
        _ => None,
    };
    of_state.into_iter().chain(of_servers).collect()
}

/// Findings about certificates that somebody else renews.
fn of_watches(daemon: &Daemon) -> Vec<String> {
    let config = daemon.config();
    let of = |watch: &config::Watch| {
        let (name, now) = (watch.name.as_str(), now());
        let seen = daemon.renewals.watched(name).filter(|one| one.seen.saturating_add(LOOK_LIFE) > now);
        let Some(seen) = seen else {
            return Some(format!(
                "nobody has looked lately at the certificate {name}, which others renew; see: systemctl status keyward-deploy"
            ));
        };
        match seen.validity {
            None => {
                let why = seen.problem.map(|why| format!(": {why}")).unwrap_or_default();
                Some(format!("the certificate {name}, which others renew, is not found{why}"))
            }
            Some((_, until)) if until <= now => {
                Some(format!("the certificate {name}, which others renew, has expired"))
            }
            Some((from, until)) if is_soon(from, until, now) => Some(format!(
                "the certificate {name} should have been renewed by others; see: keyward cert watched"
            )),
            Some(_) => None,
        }
    };
    let mut all: Vec<_> = config.watches.iter().filter_map(of).collect();
    if let Some(more @ 1..) = all.len().checked_sub(MOST_OF_PLANS) {
        all.truncate(MOST_OF_PLANS);
        all.push(format!("and {more} more watched certificates; see: keyward cert watched"));
    }
    all
}

/// Finding while the key store is locked.
const LOCKED: &str = "the key store is locked: keys and certificates are not verified and may be old, and plans cannot be known, until the unit is unsealed";
/// Seconds after which an agent that has not asked for work is gone. It asks every two seconds.
const AGENT_LIFE: u64 = 600;
/// Most findings about plans, and about watched certificates.
const MOST_OF_PLANS: usize = 20;
