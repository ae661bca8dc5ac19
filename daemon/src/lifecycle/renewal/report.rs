//! Reports of the agent, the deployer and people about a plan.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_plans::{Report, Shown};
use keyward_proto::Label;

use super::revoke::replace_revoked;
use super::state::spread;
use super::{RenewalError, account_key, authority, check_url, hold, plan, public_key, state};
use crate::backend::random;
use crate::daemon::Daemon;
use crate::ground::text::printable;
use crate::keys::now;
use crate::lifecycle::details::Act;
use crate::lifecycle::event::{Action, Actor, begin};
use crate::lifecycle::{Error, versions};
use crate::renewal::Progress;
use crate::renewal::due::{self, Failure};
use crate::renewal::known::digest;
use crate::renewal::progress::{Deployed, Failed, Window};

/// Notes a report of the agent. Only URLs of the authority are kept. Returns the order that is
/// under way.
///
/// # Errors
/// [`RenewalError`] for a URL of another server, or if the file cannot be written.
pub(crate) async fn report(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    report: Report,
) -> Result<Option<String>, Error> {
    let noted = note(daemon, actor, name, report).await;
    super::record_refusal(daemon, actor, name, "report", &noted);
    noted?;
    Ok(state::of(daemon, name).await?.progress.order)
}

async fn note(daemon: &Daemon, actor: Actor, name: &Label, report: Report) -> Result<(), Error> {
    let config = daemon.config();
    let plan = plan(&config, name)?;
    match report {
        Report::Begin => hold::begin(daemon, actor, name)?,
        _ => hold::hold(daemon, actor, name)?,
    }
    let checked = |url: String| -> Result<String, Error> {
        check_url(authority(&config, &plan)?, &url)?;
        Ok(url)
    };
    let now = now();
    let update = |change: &mut dyn FnMut(&mut Progress)| {
        daemon.renewals.update(name.as_str(), |progress, _| {
            change(progress);
            Ok::<_, RenewalError>(())
        })
    };
    match report {
        Report::Begin => {
            let state = state::of(daemon, name).await?;
            let authority = authority(&config, &plan).ok();
            let orders = authority.map(|at| state.orders_to_read(at, now)).unwrap_or_default();
            if !orders.is_empty() {
                daemon.renewals.update(name.as_str(), |_, known| {
                    known.read_formers(&orders, now);
                    Ok::<_, RenewalError>(())
                })?;
            }
        }
        Report::NotRevoked { kind, detail, retry_after, is_answered } => {
            let (kind, detail) = (printable(&kind), printable(&detail));
            let failure = Failure::of(&kind, retry_after);
            daemon.renewals.update(name.as_str(), |progress, known| {
                let tried = progress.revoking.take();
                let is_wanted = tried.is_none_or(|tried| known.note_failed(&tried, is_answered));
                // An attempt that is older than the wish of a person says nothing about the wish.
                if progress.has_new_wish() || !is_wanted {
                    return Ok(());
                }
                progress.revocation_failures = progress.revocation_failures.saturating_add(1);
                let spread = spread(name.as_str()).wrapping_add(random());
                progress.next_revocation =
                    due::next_revocation(now, failure, progress.revocation_failures, spread);
                progress.revocation_error =
                    Some(Failed { at: now, kind: kind.clone(), detail: detail.clone() });
                Ok::<_, RenewalError>(())
            })?;
            daemon.metrics.renewals.failure(plan.issuer.name(), &kind);
            tracing::warn!(plan = name.as_str(), kind, "a certificate was not revoked: {detail}");
        }
        Report::End => update(&mut |progress| progress.held = None)?,
        Report::Account(url) => {
            let authority = authority(&config, &plan)?;
            let key = account_key(daemon, authority).await?;
            let (_, public) = public_key(&key)?;
            let url = url.map(checked).transpose()?;
            let set = daemon.renewals.set_account(&authority.directory, &public.thumbprint(), url.clone());
            if let Some(former) = set.map_err(RenewalError::from)? {
                let (now, former) = (url.as_deref().unwrap_or_default(), former.as_str());
                tracing::warn!(
                    now,
                    former,
                    "the account at the authority is another one; if a CAA record names the former one, change the record"
                );
            }
        }
        Report::Order(url) => {
            let url = url.map(checked).transpose()?;
            let state = state::of(daemon, name).await?;
            daemon.renewals.update(name.as_str(), |progress, _| {
                // Another order, or none, or the first one for another key of the plan.
                if url.is_none() && progress.order.is_some() || state.ordered.is_none() {
                    progress.ordered_key = None;
                }
                progress.order.clone_from(&url);
                progress.held.iter_mut().for_each(|hold| hold.messages = 0);
                Ok::<_, RenewalError>(())
            })?;
        }
        Report::Replaced => update(&mut |progress| {
            progress.is_replaced = true;
            progress.held.iter_mut().for_each(|hold| hold.messages = 0);
        })?,
        Report::Revoked => {
            let present = state::of(daemon, name).await?;
            let present = present.certificate.map(|present| URL_SAFE_NO_PAD.encode(present.der()));
            daemon.renewals.update(name.as_str(), |progress, known| {
                // The authority has done what the message said, whatever a person asks since.
                let done = progress.revoking.take();
                let done = done.ok_or_else(|| RenewalError::NotRevoked(name.clone()))?;
                known.end(&done);
                replace_revoked(progress, &done, present.as_deref());
                progress.forget_revocation_failures();
                Ok::<_, RenewalError>(())
            })?;
        }
        Report::Clock(ahead) => {
            daemon.renewals.note_clock(&authority(&config, &plan)?.directory, ahead);
        }
        Report::NoWindow { certificate, retry_after } => update(&mut |progress| {
            let next_look = now.saturating_add(due::next_look(retry_after));
            match &mut progress.window {
                Some(kept) if kept.certificate == certificate => kept.next_look = next_look,
                other => {
                    *other = Some(Window {
                        certificate: certificate.clone(),
                        start: 0,
                        end: 0,
                        chosen: None,
                        explanation: None,
                        next_look,
                    });
                }
            }
        })?,
        Report::Window { certificate, start, end, explanation, retry_after } => {
            update(&mut |progress| {
                let kept = progress
                    .window
                    .as_ref()
                    .filter(|kept| (&kept.certificate, kept.start, kept.end) == (&certificate, start, end));
                // The chosen time stays while the window stays.
                let chosen = kept.map_or_else(|| due::chosen(start, end, random()), |kept| kept.chosen);
                progress.window = Some(Window {
                    certificate: certificate.clone(),
                    start,
                    end,
                    chosen,
                    explanation: explanation.as_deref().map(printable),
                    next_look: now.saturating_add(due::next_look(retry_after)),
                });
            })?;
        }
        Report::Failed { kind, detail, retry_after } => {
            let state = state::of(daemon, name).await?;
            let present = state.certificate.as_ref().map(state::validity);
            let (is_first, key) = (state.progress.failures == 0, state.key);
            let (kind, detail) = (printable(&kind), printable(&detail));
            let failure = Failure::of(&kind, retry_after);
            let is_late = daemon.renewals.update(name.as_str(), |progress, known| {
                let is_late = progress.has_new_wish();
                progress.held = None;
                if is_late {
                    // The attempt is older than the wish of a person, for which there is another
                    // one.
                    progress.next_try = 0;
                    return Ok(true);
                }
                if is_first {
                    progress.forget_attempts();
                }
                let mut failure = failure;
                // The next certificate is for another key. An authority that refuses that one too
                // is not given key after key.
                if let Some(key) = key.as_ref().filter(|_| kind == "badPublicKey") {
                    let ordered = progress.ordered(key);
                    if ordered > progress.refused_version(key) {
                        progress.refused_key.clone_from(&progress.ordered_key);
                    }
                    match (known.newer_than(key), ordered) {
                        (None, Some(number)) => {
                            known.want_newer_than(key, number, now);
                            progress.ordered_key = None;
                        }
                        (None, None) => {}
                        (Some(_), _) => failure = Failure::NeedsPerson,
                    }
                }
                // Failures of the unit and of the authority are counted apart.
                let was_here = progress
                    .last_error
                    .as_ref()
                    .map(|before| Failure::of(&before.kind, None) == Failure::Here);
                if was_here.is_some_and(|was_here| was_here != (failure == Failure::Here)) {
                    progress.failures = 0;
                }
                progress.failures = progress.failures.saturating_add(1);
                // The order may be the reason.
                if progress.failures >= GIVE_UP && failure != Failure::Here {
                    progress.drop_order();
                }
                let spread = spread(name.as_str()).wrapping_add(random());
                progress.next_try = due::next_try(now, failure, progress.failures, present, spread);
                progress.last_error = Some(Failed { at: now, kind: kind.clone(), detail: detail.clone() });
                Ok::<_, RenewalError>(false)
            })?;
            if is_late {
                tracing::info!(plan = name.as_str(), kind, "an earlier attempt has failed: {detail}");
                return Ok(());
            }
            daemon.metrics.renewals.failure(plan.issuer.name(), &kind);
            let plan = name.as_str();
            tracing::warn!(plan, kind, "the certificate was not renewed: {detail}");
        }
    }
    Ok(())
}

/// Has a plan renewed now, because a person asks. `new_key` makes a new version of its key.
///
/// # Errors
/// There is no such plan, or the act cannot be recorded.
pub(crate) async fn renew_now(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    new_key: bool,
) -> Result<(), Error> {
    let plan = plan(&daemon.config(), name)?;
    let begun = begin(daemon, actor, Action::RenewCertificate, Some(&plan.key)).await?;
    let state = begun.result(state::of(daemon, name).await).await?;
    let is_worked_on = daemon.renewals.is_worked_on(name.as_str());
    let updated = daemon.renewals.update(name.as_str(), |progress, known| {
        if let Some(key) = state.key.as_ref().filter(|_| new_key) {
            let refused = progress.refused_version(key).max(known.refused(key));
            let newest = progress.ordered(key).max(refused).max(state.version).max(Some(key.current));
            newest.into_iter().for_each(|newest| known.want_newer_than(key, newest, now()));
        }
        ask(progress, is_worked_on);
        progress.asked_at = Some(now());
        Ok::<_, RenewalError>(())
    });
    begun.result(updated).await?;
    begun.done(Act::RenewCertificate(name), None).await
}

/// Notes that a person asks: failures of before do not count, and there is one more order.
pub(super) fn ask(progress: &mut Progress, is_worked_on: bool) {
    progress.wishes += 1;
    progress.forget_failures();
    // An order that nobody works on may be of no use any more.
    if !is_worked_on {
        progress.drop_order();
    }
    if !progress.orders.is_empty() {
        progress.orders.remove(0);
    }
}

/// Notes the result of a deployment. If every listener shows the certificate of a version that is
/// not current yet, that version becomes current.
///
/// # Errors
/// There is no such plan, or the file cannot be written.
pub(crate) async fn deployed(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    told: keyward_plans::Deployed,
) -> Result<(), Error> {
    daemon.renewals.check().map_err(RenewalError::from)?;
    let before = state::of(daemon, name).await?;
    let checked = |shown: Shown| Shown { problem: shown.problem.as_deref().map(printable), ..shown };
    let keyward_plans::Deployed { certificate, is_placeholder, listeners, problem } = told;
    let listeners = listeners.into_iter().map(|(at, shown)| (at, checked(shown))).collect();
    let problem = problem.as_deref().map(printable);
    // The files may be those for a key that the plan had before, or with a certificate that is not
    // in the store any more.
    let version = before.key.as_ref().and_then(|key| state::with_certificate(key, &certificate));
    let former = before.progress.deployed.as_ref().filter(|one| one.certificate == certificate);
    let (key, public_key) = match version {
        Some((version, _)) => (Some(before.plan.key.to_string()), Some(digest(&version.spki))),
        None => former.map(|one| (one.key.clone(), one.public_key.clone())).unwrap_or_default(),
    };
    let deployed = Deployed { certificate, is_placeholder, key, public_key, listeners, problem };
    let is_served = deployed.is_served()
        && before.certificate.as_ref().is_some_and(|one| one.fingerprint() == deployed.certificate);
    daemon.renewals.note_look(name.as_str());
    let is_news = before.progress.deployed.as_ref().map(|before| &before.problem) != Some(&deployed.problem);
    if let Some(problem) = deployed.problem.as_ref().filter(|_| is_news) {
        tracing::error!(plan = name.as_str(), "the certificate is not in use: {problem}");
    }
    // An older version comes back with former names of the plan, and does not become current again.
    // A certificate that is revoked or for a compromised key makes no version current. The version
    // is current before anybody sees that it is served.
    let current = before.key.as_ref().map_or(u32::MAX, |key| key.current);
    let is_good = is_served && !before.is_revoked();
    if let Some(number) = before.version.filter(|number| is_good && current < *number) {
        versions::promote(daemon, actor, &before.plan.key, number).await?;
    }
    // Most looks see what was seen before, and need no disk.
    if before.progress.deployed.as_ref() == Some(&deployed) && before.ordered.is_none() {
        return Ok(());
    }
    let served = before.certificate.as_ref().filter(|_| is_served).map(|one| digest(one.spki()));
    let is_worked_on = daemon.renewals.is_worked_on(name.as_str());
    daemon.renewals.update(name.as_str(), |progress, _| {
        // An agent may be at work on another one.
        if served.is_some() && progress.order.is_none() && !is_worked_on && progress.ordered_key == served {
            progress.ordered_key = None;
        }
        progress.deployed = Some(deployed);
        Ok::<_, RenewalError>(())
    })?;
    Ok(())
}

/// Failures in a row after which the next attempt begins with another order.
const GIVE_UP: u32 = 4;
