//! Revocations that people ask for. The agent carries the messages, see message.rs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_plans::ToRevoke;
use keyward_proto::Label;

use super::report::ask;
use super::revocable::{self, Found};
use super::state::PlanState;
use super::{RenewalError, at, authority, state};
use crate::config::{Identifier, Plan, origin};
use crate::daemon::Daemon;
use crate::keys::certificates::Certificate;
use crate::keys::now;
use crate::lifecycle::Error;
use crate::lifecycle::details::Act;
use crate::lifecycle::event::{Action, Actor, begin};
use crate::renewal::former::FormerOrder;
use crate::renewal::known::digest;
use crate::renewal::revocation::{At, KEY_COMPROMISE, Revocation};
use crate::renewal::{Known, Progress};

/// The certificates that a person means.
#[derive(Debug)]
pub(crate) enum Meant {
    /// SHA-256 of each, in hexadecimal digits.
    Certificates(Vec<String>),
    /// A version of the key, and its certificate if there is one; `None` for the current version.
    Version(Option<u32>),
}

/// Has certificates of a plan revoked, because a person asks. After the reason `keyCompromise`,
/// their versions of the key get no certificate any more. The certificate of the plan is renewed if
/// it is one of these. A person asks for each, so there is no limit.
///
/// # Errors
/// There is no such certificate, or the act cannot be recorded.
pub(crate) async fn revoke(
    daemon: &Daemon,
    actor: Actor,
    name: &Label,
    reason: u8,
    meant: Meant,
) -> Result<(), Error> {
    let state = state::of(daemon, name).await?;
    let certificates = match (meant, reason) {
        (Meant::Certificates(named), _) if !named.is_empty() => named,
        (Meant::Version(number), KEY_COMPROMISE) => {
            return key_compromise(daemon, actor, &state, Vec::new(), number).await;
        }
        _ => return Err(RenewalError::NothingMeant.into()),
    };
    let mut found = revocable::found(daemon, &state).await?;
    let mut meant = Vec::new();
    for certificate in certificates {
        let at = found.iter().position(|one| one.certificate.fingerprint() == certificate);
        let at = at.ok_or_else(|| RenewalError::NotRevocable { plan: name.clone(), certificate })?;
        meant.push(found.swap_remove(at));
    }
    if reason == KEY_COMPROMISE {
        return key_compromise(daemon, actor, &state, meant, None).await;
    }
    let of = |one: &Found| revocation(daemon, &state, &one.key.label, &one.certificate, reason);
    let asked: Option<Vec<_>> = meant.iter().map(of).collect();
    let asked = asked.ok_or_else(|| RenewalError::NotAcme(name.clone()))?;
    let present = state.certificate.as_ref();
    let is_present = present.is_some_and(|present| meant.iter().any(|one| one.certificate == *present));
    let begun = begin(daemon, actor, Action::RevokeCertificate, Some(&state.plan.key)).await?;
    let is_worked_on = daemon.renewals.is_worked_on(name.as_str());
    let updated = daemon.renewals.update(name.as_str(), |progress, known| {
        asked.iter().for_each(|asked| known.revoke(asked.clone()));
        match is_present {
            true => ask(progress, is_worked_on),
            false => progress.forget_revocation_failures(),
        }
        Ok::<_, RenewalError>(())
    });
    begun.result(updated).await?;
    let certificates = fingerprints(&meant);
    begun.done(Act::RevokeCertificate { plan: name, reason, certificates: &certificates }, None).await
}

fn fingerprints(meant: &[Found]) -> Vec<String> {
    meant.iter().map(|one| one.certificate.fingerprint()).collect()
}

/// Notes that the keys of certificates are compromised; without a certificate, that a version of
/// the key of the plan is. Then has the certificates of these versions revoked, whatever their
/// names, if an authority can do that. The renewal with another key does not wait for the
/// authority.
///
/// # Errors
/// There is no key, or the act cannot be recorded.
async fn key_compromise(
    daemon: &Daemon,
    actor: Actor,
    state: &PlanState,
    meant: Vec<Found>,
    version: Option<u32>,
) -> Result<(), Error> {
    let (plan, name) = (&state.plan, &state.plan.name);
    let mut versions: Vec<_> = meant
        .iter()
        .map(|one| (one.key.label.clone(), one.version, digest(one.certificate.spki())))
        .collect();
    if meant.is_empty() {
        let key = state.key.as_ref().ok_or_else(|| RenewalError::NoCertificate(name.clone()))?;
        let number = version.unwrap_or(key.current);
        let missing = || Error::NoVersion { label: key.label.clone(), number };
        let public_key = digest(&key.version(number).ok_or_else(missing)?.spki);
        versions.push((key.label.clone(), number, public_key));
    }
    let newest = versions.iter().filter(|(label, ..)| *label == plan.key).map(|(_, number, _)| *number).max();
    // Nothing is wrong with a version that is newer.
    let is_present = newest.is_some_and(|newest| state.version.is_none_or(|present| present <= newest));
    let begun = begin(daemon, actor, Action::RevokeCertificate, Some(&plan.key)).await?;
    let here = authority(&daemon.config(), plan)
        .ok()
        .map(|authority| (authority.origin().to_owned(), at(authority)));
    let is_worked_on = daemon.renewals.is_worked_on(name.as_str());
    let noted = daemon.renewals.update(name.as_str(), |progress, known| {
        for (_, _, public_key) in &versions {
            known.note_compromised(public_key.clone(), now());
        }
        let ordered = progress.ordered_key.clone();
        if let Some(public_key) = ordered.filter(|one| versions.iter().any(|(.., other)| one == other)) {
            // The authority may have issued its certificate. The order for another key does not
            // wait for that.
            if let Some(url) = progress.order.take() {
                known.note_former(former(plan, progress, url, public_key, here));
            }
            progress.drop_order();
        }
        match is_present {
            true => {
                ask(progress, is_worked_on);
                progress.asked_at = Some(now());
            }
            false => progress.forget_revocation_failures(),
        }
        Ok::<_, RenewalError>(())
    });
    begun.result(noted).await?;
    let mut certificates: Vec<_> =
        meant.into_iter().map(|one| (one.key.label.clone(), one.certificate)).collect();
    // A chain for these keys that is attached from now on is seen by that step itself.
    for (label, number, _) in &versions {
        let key = begun.result(daemon.keys.get(label).await).await?;
        let version = key.as_ref().and_then(|key| key.version(*number));
        let leaf = version.and_then(state::of_version).filter(|leaf| leaf.not_after() > now());
        if let Some(leaf) = leaf.filter(|leaf| !certificates.iter().any(|(_, one)| one == leaf)) {
            certificates.push((label.clone(), leaf));
        }
    }
    let of = |(label, one): &(Label, Certificate)| revocation(daemon, state, label, one, KEY_COMPROMISE);
    let asked: Vec<_> = certificates.iter().filter_map(of).collect();
    if !asked.is_empty() {
        let updated = daemon.renewals.update(name.as_str(), |_, known| {
            asked.into_iter().for_each(|asked| known.revoke(asked));
            Ok::<_, RenewalError>(())
        });
        begun.result(updated).await?;
    }
    let certificates: Vec<_> = certificates.iter().map(|(_, one)| one.fingerprint()).collect();
    let act = Act::RevokeCertificate { plan: name, reason: KEY_COMPROMISE, certificates: &certificates };
    begun.done(act, None).await
}

/// The order of a plan that is under way for a public key. `here` has the origin of the present
/// authority of the plan, and the account there.
fn former(
    plan: &Plan,
    progress: &Progress,
    url: String,
    public_key: String,
    here: Option<(String, At)>,
) -> FormerOrder {
    let names = match progress.ordered_names.is_empty() {
        // An earlier version did not note them.
        true => plan.names.iter().map(Identifier::to_string).collect(),
        false => progress.ordered_names.clone(),
    };
    let here = here.filter(|(of, _)| origin(&url) == Some(of.as_str()));
    FormerOrder {
        at: here.map(|(_, at)| at).unwrap_or_default(),
        url,
        plan: plan.name.to_string(),
        key: plan.key.to_string(),
        public_key,
        names,
        since: now(),
        next_look: 0,
    }
}

/// The revocation of a certificate at the authority that has issued it; `None` if a program has.
fn revocation(
    daemon: &Daemon,
    state: &PlanState,
    key: &Label,
    certificate: &Certificate,
    reason: u8,
) -> Option<Revocation> {
    let at = match state.known.issuer(certificate) {
        Some(issued) => issued.at(),
        // A certificate that a person has attached.
        None => authority(&daemon.config(), &state.plan).ok().map(at),
    };
    let (plan, key) = (state.plan.name.to_string(), key.to_string());
    Some(Revocation::of(certificate, reason, at?, plan, key))
}

/// Gives up the revocations of certificates of a plan, because a person asks: those that the plan
/// has by its name or its key; or, if there is no such plan any more, those that it had. A
/// certificate that the authority may have revoked already is replaced. A key that was called
/// compromised stays it. Returns what was given up.
///
/// # Errors
/// There is no such plan, nothing waits, or the act cannot be recorded.
pub(crate) async fn keep(daemon: &Daemon, actor: Actor, name: &Label) -> Result<Vec<ToRevoke>, Error> {
    daemon.renewals.check().map_err(RenewalError::from)?;
    let plan = daemon.config().plans.iter().find(|plan| plan.name == *name).cloned();
    let key = plan.as_ref().map(|plan| &plan.key);
    let known = daemon.renewals.known();
    let is_of_name = |plan: &str| plan == name.as_str();
    let (revocations, orders, present) = match &plan {
        Some(plan) => {
            let state = state::of(daemon, name).await?;
            let is_own = |of: &str, key: &str| is_of_name(of) || of.is_empty() || key == plan.key.as_str();
            let mut revocations = state.revocations;
            revocations.retain(|asked| is_own(&asked.plan, &asked.key));
            let mut orders = state.former_orders;
            orders.retain(|order| is_own(&order.plan, &order.key));
            (revocations, orders, state.certificate)
        }
        None => {
            let revocations = known.revocations(now()).filter(|asked| is_of_name(&asked.plan));
            let orders = known.former_orders().iter().filter(|order| is_of_name(&order.plan));
            (revocations.cloned().collect(), orders.cloned().collect(), None)
        }
    };
    if revocations.is_empty() && orders.is_empty() {
        return Err(match plan {
            Some(_) => RenewalError::NothingToKeep(name.clone()).into(),
            None => RenewalError::NoPlan(name.clone()).into(),
        });
    }
    let begun = begin(daemon, actor, Action::RenewCertificate, key).await?;
    let present = present.map(|present| URL_SAFE_NO_PAD.encode(present.der()));
    let updated = daemon.renewals.update(name.as_str(), |progress, known| {
        let mut given_up = Vec::new();
        for asked in &revocations {
            // The authority may have carried it out by now.
            let Some(asked) = known.wanted(asked).cloned() else { continue };
            if asked.is_sent {
                replace_revoked(progress, &asked, present.as_deref());
            }
            given_up.push(shown(known, &asked));
            known.give_up(&asked);
        }
        for order in &orders {
            given_up.push(shown_order(order));
            known.give_up_former(&order.url);
        }
        progress.forget_revocation_failures();
        Ok::<_, RenewalError>(given_up)
    });
    let given_up = begun.result(updated).await?;
    begun.done(Act::RenewCertificate(name), None).await?;
    Ok(given_up)
}

/// A certificate that is to be revoked, for people.
pub(crate) fn shown(known: &Known, asked: &Revocation) -> ToRevoke {
    let certificate = asked.read_certificate();
    ToRevoke {
        plan: asked.plan.clone(),
        key: asked.key.clone(),
        certificate: certificate.as_ref().map(Certificate::fingerprint),
        order: None,
        authority: asked.at.directory.clone(),
        may_be_revoked: asked.is_sent,
        is_compromised: certificate.is_some_and(|one| known.is_compromised(&digest(one.spki()))),
    }
}

/// An order whose certificate is to be revoked, for people.
pub(crate) fn shown_order(order: &FormerOrder) -> ToRevoke {
    ToRevoke {
        plan: order.plan.clone(),
        key: order.key.clone(),
        certificate: None,
        order: Some(order.url.clone()),
        authority: order.at.directory.clone(),
        may_be_revoked: false,
        is_compromised: true,
    }
}

/// Notes that a certificate of a plan is revoked, or may be. `present` is the certificate that the
/// plan has: one that was replaced already needs no renewal.
pub(super) fn replace_revoked(progress: &mut Progress, revoked: &Revocation, present: Option<&str>) {
    if present == Some(&revoked.certificate) {
        progress.asked_at = Some(now());
        progress.forget_attempts();
    }
}
