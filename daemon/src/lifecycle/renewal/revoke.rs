//! Revocations that people ask for. The agent carries the messages, see message.rs.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_proto::Label;

use super::report::ask;
use super::{RenewalError, authority, plan, state};
use crate::config::{Config, Plan};
use crate::daemon::Daemon;
use crate::keys::certificates::Certificate;
use crate::keys::now;
use crate::lifecycle::Error;
use crate::lifecycle::details::Act;
use crate::lifecycle::event::{Action, Actor, begin};
use crate::renewal::known::{MOST_REVOCATIONS, Revocation, digest};
use crate::renewal::{Known, Progress};

/// Has the certificate of a plan revoked, and renewed after that, because a person asks.
///
/// # Errors
/// There is no certificate, or the act cannot be recorded.
pub(crate) async fn revoke(daemon: &Daemon, actor: Actor, name: &Label, reason: u8) -> Result<(), Error> {
    let state = state::of(daemon, name).await?;
    let certificate = state.certificate.as_ref().ok_or_else(|| RenewalError::NoCertificate(name.clone()))?;
    let config = daemon.config();
    let directory = match state.known.issuer(certificate) {
        Some(issued) => issued.directory.clone().ok_or_else(|| RenewalError::NotAcme(name.clone()))?,
        // A certificate that a person has attached.
        None => authority(&config, &state.plan)?.directory.clone(),
    };
    let begun = begin(daemon, actor, Action::RevokeCertificate, Some(&state.plan.key)).await?;
    let is_worked_on = daemon.renewals.is_worked_on(name.as_str());
    let updated = daemon.renewals.update(name.as_str(), |progress, known| {
        want_revoked(&config, &state.plan, known, certificate, directory, reason)?;
        // No authority certifies a key again that was revoked as compromised, nor the one of the
        // order under way.
        if reason == KEY_COMPROMISE {
            known.note_compromised(digest(certificate.spki()), now());
            let ordered = progress.ordered_key.clone();
            let is_of_key = state.key.as_ref().is_some_and(|key| progress.ordered(key).is_some());
            ordered.filter(|_| is_of_key).into_iter().for_each(|key| known.note_compromised(key, now()));
        }
        ask(progress, known, is_worked_on);
        // Another key does not wait until the authority has revoked the certificate of this one.
        // The renewal for any other reason comes after the revocation.
        if reason == KEY_COMPROMISE {
            progress.asked_at = Some(now());
        }
        Ok::<_, RenewalError>(())
    });
    begun.result(updated).await?;
    begun.done(Act::RevokeCertificate { plan: name, reason }, None).await
}

/// Notes that a certificate is to be revoked by the authority with this directory.
///
/// # Errors
/// There are too many of these already.
pub(super) fn want_revoked(
    config: &Config,
    plan: &Plan,
    known: &mut Known,
    certificate: &Certificate,
    directory: String,
    reason: u8,
) -> Result<(), RenewalError> {
    let revocation = Revocation {
        reason,
        certificate: URL_SAFE_NO_PAD.encode(certificate.der()),
        directory,
        not_after: certificate.not_after(),
        is_sent: false,
        plan: plan.name.to_string(),
        key: plan.key.to_string(),
    };
    let is_own = |asked: &&Revocation| {
        let keeper = state::keeper(config, asked);
        keeper.is_some_and(|keeper| keeper.name == plan.name) && asked.certificate != revocation.certificate
    };
    if known.revocations(now()).filter(is_own).count() >= MOST_REVOCATIONS {
        return Err(RenewalError::ManyRevocations { plan: plan.name.clone(), most: MOST_REVOCATIONS });
    }
    if !known.has_room() {
        return Err(RenewalError::ManyKnown);
    }
    known.revoke(revocation);
    Ok(())
}

/// Gives up the revocations of certificates of a plan, because a person asks. A certificate that
/// the authority may have revoked already is replaced. A key that was called compromised stays it.
///
/// # Errors
/// There is no such plan, no revocation waits, or the act cannot be recorded.
pub(crate) async fn keep(daemon: &Daemon, actor: Actor, name: &Label) -> Result<(), Error> {
    let plan = plan(&daemon.config(), name)?;
    let begun = begin(daemon, actor, Action::RenewCertificate, Some(&plan.key)).await?;
    let state = begun.result(state::of(daemon, name).await).await?;
    let present = state.certificate.map(|present| URL_SAFE_NO_PAD.encode(present.der()));
    let updated = daemon.renewals.update(name.as_str(), |progress, known| {
        if state.revocations.is_empty() {
            return Err(RenewalError::NothingToKeep(name.clone()));
        }
        for asked in &state.revocations {
            if known.wanted(asked).is_some_and(|asked| asked.is_sent) {
                replace_revoked(progress, asked, present.as_deref());
            }
            known.give_up(asked);
        }
        progress.forget_revocation_failures();
        Ok(())
    });
    begun.result(updated).await?;
    begun.done(Act::RenewCertificate(name), None).await
}

/// Notes that a certificate of a plan is revoked, or may be. `present` is the certificate that the
/// plan has: one that was replaced already needs no renewal.
pub(super) fn replace_revoked(progress: &mut Progress, revoked: &Revocation, present: Option<&str>) {
    if present == Some(&revoked.certificate) {
        progress.asked_at = Some(now());
        (progress.failures, progress.next_try, progress.last_error) = (0, 0, None);
    }
}

/// Reason of a revocation: the key is compromised (RFC 5280, 5.3.1).
pub(super) const KEY_COMPROMISE: u8 = 1;
