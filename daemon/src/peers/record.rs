//! The record of operations with private keys: metrics and log lines.
//!
//! A peer can cause these lines, so each user has a limit of its own ([`super::lines`]).

use std::borrow::Cow;

use keyward_proto::message::sign;
use keyward_proto::{Label, Outcome, Scheme, Use};

use super::operation::{Body, Failure, Operation};
use super::shared::Shared;
use crate::policy::act::lacking;
use crate::policy::authorise::Peer;
use crate::policy::purpose::{Purpose, other_format};

/// Makes metrics and log lines of an operation that has ended.
pub(super) fn record(operation: &Operation<'_>, failed: Option<&Failure>) {
    let Operation { shared, peer, .. } = operation;
    let outcome = failed.map_or(Outcome::Done, Failure::outcome);
    let metrics = &shared.daemon.metrics;
    match operation.body {
        Body::Sign(_) => metrics.signature(outcome, operation.purpose.map(Purpose::index)),
        Body::Decrypt(_) => metrics.decryption(outcome),
    }
    if let Some((backend, scheme, outcome)) = operation.asked {
        metrics.times(backend.name(), scheme, outcome, &operation.context.times.of(backend));
    }
    debug_line(operation, outcome);
    let Some(failed) = failed else { return };
    failure(shared, peer, operation.label(), operation.verb(), failed);
    refusal_line(operation, outcome);
}

/// Tells the operator of a failure that is not the peer's, or of a user who asks for too much.
/// `verb` is the word for the operation that failed.
pub(super) fn failure(shared: &Shared, peer: &Peer, label: &str, verb: &str, failure: &Failure) {
    let verb = if matches!(failure, Failure::LookUp(_)) { "look up the key" } else { verb };
    match failure {
        Failure::GrantUsedUp => too_many(shared, peer, label, "rate or in-flight of the grant is used up"),
        Failure::Refused(_) | Failure::TooManyLookUps => {}
        Failure::Backend(error) if error.is_of_the_peer() => {}
        _ => {
            let outcome = failure.outcome();
            if let Some(times) = shared.lines.faults.admit(peer, outcome.name()) {
                let service = peer.service.as_deref();
                tracing::warn!(key = label, uid = peer.uid, service, times, "cannot {verb}: {failure}");
            }
        }
    }
}

/// Tells the operator of a user who asks for more than the daemon or a grant admits.
pub(super) fn too_many(shared: &Shared, peer: &Peer, label: &str, why: &'static str) {
    if let Some(times) = shared.lines.refusals.admit(peer, why) {
        let Peer { uid, pid, .. } = *peer;
        let (key, service) = (shown(label), peer.service.as_deref());
        tracing::info!(key, uid, service, pid, reason = "overloaded", times, "refused a peer: {why}");
    }
}

fn debug_line(operation: &Operation<'_>, outcome: Outcome) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let (key, version) = (shown(operation.label()), operation.version());
    let Peer { uid, pid, .. } = *operation.peer;
    let (outcome, trace) = (outcome.name(), operation.context.trace.id());
    match operation.body {
        Body::Sign(sign) => {
            let scheme = Scheme::try_from(sign.scheme).map_or("unknown", Scheme::name);
            let purpose = operation.purpose.map_or("unknown", Purpose::name);
            tracing::debug!(
                key,
                version,
                %scheme,
                %purpose,
                uid,
                pid,
                %outcome,
                %trace,
                "signature"
            );
        }
        Body::Decrypt(_) => tracing::debug!(key, version, uid, pid, %outcome, %trace, "decryption"),
    }
}

/// Tells the operator of a refusal that only the operator can change. A server may log little of it.
fn refusal_line(operation: &Operation<'_>, outcome: Outcome) {
    let Operation { shared, peer, .. } = operation;
    let is_refusal = matches!(
        outcome,
        Outcome::NoGrant
            | Outcome::UnknownKey
            | Outcome::UnknownVersion
            | Outcome::KeyDisabled
            | Outcome::UseRefused
            | Outcome::UseNotGranted
            | Outcome::DeadlineExceeded
            | Outcome::NoDowngradeSentinel
            | Outcome::DheRefused
            | Outcome::OtherDhGroup
            | Outcome::OtherPublicKey
    );
    let reason = outcome.name();
    if let Some(times) = is_refusal.then(|| shared.lines.refusals.admit(peer, reason)).flatten() {
        let (key, purpose) = (shown(operation.label()), kind(operation));
        let Peer { uid, pid, .. } = **peer;
        let service = peer.service.as_deref();
        let needs = lacking(outcome, &purpose).map(Use::name);
        tracing::info!(key, purpose = &*purpose, uid, service, pid, reason, needs, times, "refused a peer");
    }
}

/// The purpose for the log: for a message that resembles another format, with that format.
fn kind(operation: &Operation<'_>) -> Cow<'static, str> {
    match (operation.body, operation.purpose) {
        (Body::Decrypt(_), _) => Use::RsaKeyExchange.name().into(),
        (Body::Sign(sign), Some(Purpose::Other)) => match &sign.input {
            Some(sign::Input::Message(message)) => {
                other_format(message).map_or("other".into(), |format| format!("other, as {format}").into())
            }
            _ => Purpose::Other.name().into(),
        },
        (Body::Sign(_), purpose) => purpose.map_or("unknown", Purpose::name).into(),
    }
}

/// A label of a peer, as far as the log shows it.
fn shown(label: &str) -> &str {
    if label.len() > Label::MAX { "(too long)" } else { label }
}
