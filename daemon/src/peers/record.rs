//! Record of operations with private keys: metrics, audit trail and log lines.
//!
//! Peers can cause these lines, so they are limited for each user ([`super::log_limits`]).

use std::borrow::Cow;
use std::time::SystemTime;

use keyward_proto::message::sign;
use keyward_proto::{Label, Outcome, Scheme, Use};

use super::operation::{BackendCall, Body, Failure, Operation};
use super::owner::Owner;
use super::shared::Shared;
use crate::audit::{self, Hash, KeyUse, Name};
use crate::keys::{Standing, now};
use crate::policy::act::lacking;
use crate::policy::authorise::Peer;
use crate::policy::purpose::{Purpose, other_format};

/// Counts, records and logs an operation that has ended.
pub(super) fn record(operation: &Operation<'_>, failed: Option<&Failure>) {
    let Operation { shared, peer, .. } = operation;
    let outcome = failed.map_or(Outcome::Done, Failure::outcome);
    let metrics = &shared.daemon.metrics;
    match operation.body {
        Body::Sign(_) => metrics.signature(outcome, operation.purpose.map(Purpose::index)),
        Body::Decrypt(_) => metrics.decryption(outcome),
    }
    if let Some(BackendCall { backend, scheme, outcome }) = operation.backend_call {
        metrics.times(backend.name(), scheme, outcome, &operation.context.times.of(backend));
    }
    match shared.daemon.trail() {
        Some(Ok(trail)) => trail.record_use(key_use(operation, outcome)),
        Some(Err(_)) => shared.daemon.has_no_record_of(1, 0),
        None => {}
    }
    if outcome == Outcome::Done {
        let Peer { uid, service, command, .. } = peer;
        let usage = shared.daemon.keys.usage();
        usage.note(operation.label(), *uid, service.as_ref(), command.as_ref(), operation.now);
    }
    debug_line(operation, outcome);
    let Some(failed) = failed else { return };
    let owner = Owner::of(peer, &shared.daemon.config().grants);
    shared.refusals.note(peer, owner, loggable(operation.label()), outcome, now());
    failure(shared, peer, operation.label(), operation.verb(), failed);
    refusal_line(operation, failed);
}

/// The operation as the audit trail has it.
fn key_use(operation: &Operation<'_>, outcome: Outcome) -> KeyUse {
    let (scheme, message) = match operation.body {
        Body::Sign(sign) => {
            let message = match &sign.input {
                Some(sign::Input::Message(bytes) | sign::Input::Digest(bytes)) => bytes.as_slice(),
                None => &[],
            };
            (Scheme::try_from(sign.scheme).ok().map(Scheme::name), message)
        }
        Body::Decrypt(decrypt) => (None, decrypt.ciphertext.as_slice()),
    };
    let Peer { uid, gid, pid, service, command, .. } = operation.peer;
    KeyUse {
        time: SystemTime::now(),
        peer: audit::Peer {
            uid: *uid,
            gid: *gid,
            pid: *pid,
            command: command.clone(),
            unit: service.clone(),
        },
        key: Name::of(operation.label()),
        version: operation.found.map_or(operation.version(), |(version, _)| version),
        fingerprint: operation.found.map(|(_, fingerprint)| fingerprint.number()),
        purpose: operation.purpose.map(Purpose::name),
        scheme,
        message: operation.digest.unwrap_or_else(|| Hash::of(message)),
        outcome: outcome.name(),
        request: operation.context.trace.number(),
    }
}

/// Logs a failure that is not the fault of the peer, or that limits of a grant have caused. `verb`
/// is the word for the operation that failed.
pub(super) fn failure(shared: &Shared, peer: &Peer, label: &str, verb: &str, failure: &Failure) {
    let verb = if matches!(failure, Failure::LookUp(_)) { "look up the key" } else { verb };
    match failure {
        Failure::GrantUsedUp => {
            limit_exceeded(shared, peer, label, "rate or in-flight of the grant is used up")
        }
        Failure::Refused(_) | Failure::TooManyLookUps => {}
        Failure::Backend(error) if error.is_of_the_peer() => {}
        _ => {
            let outcome = failure.outcome();
            if let Some(times) = shared.log_limits.faults.admit(peer, outcome.name()) {
                let service = peer.service.as_deref();
                let (uid, outcome) = (peer.uid, outcome.name());
                tracing::warn!(key = label, uid, service, outcome, times, "cannot {verb}: {failure}");
            }
        }
    }
}

/// Logs a user that exceeds a limit of the daemon or of a grant.
pub(super) fn limit_exceeded(shared: &Shared, peer: &Peer, label: &str, limit: &'static str) {
    if let Some(times) = shared.log_limits.refusals.admit(peer, limit) {
        let Peer { uid, pid, .. } = *peer;
        let (key, service) = (loggable(label), peer.service.as_deref());
        tracing::info!(key, uid, service, pid, outcome = "overloaded", times, "refused a peer: {limit}");
    }
}

/// Logs a request that asks for nothing.
pub(super) fn without_body(shared: &Shared, peer: &Peer) {
    let outcome = Outcome::Malformed.name();
    if let Some(times) = shared.log_limits.refusals.admit(peer, outcome) {
        let Peer { uid, pid, .. } = *peer;
        let service = peer.service.as_deref();
        tracing::info!(uid, service, pid, outcome, times, "refused a peer");
    }
}

fn debug_line(operation: &Operation<'_>, outcome: Outcome) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let (key, version) = (loggable(operation.label()), operation.version());
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

/// Logs a refusal that [`failure`] does not log. The log of the server may say little about it.
fn refusal_line(operation: &Operation<'_>, failed: &Failure) {
    let Operation { shared, peer, .. } = operation;
    let is_refusal = match failed {
        Failure::Refused(_) | Failure::TooManyLookUps => true,
        Failure::Backend(error) => error.is_of_the_peer(),
        _ => false,
    };
    let outcome = failed.outcome();
    let name = outcome.name();
    if let Some(times) = is_refusal.then(|| shared.log_limits.refusals.admit(peer, name)).flatten() {
        let (key, purpose) = (loggable(operation.label()), purpose_for_log(operation));
        let Peer { uid, pid, .. } = **peer;
        let service = peer.service.as_deref();
        let needs = lacking(outcome, &purpose).map(Use::name);
        let standing = operation.standing.filter(|standing| *standing != Standing::Active);
        let state = standing.map(Standing::state_name);
        tracing::info!(
            key,
            purpose = &*purpose,
            uid,
            service,
            pid,
            outcome = name,
            state,
            needs,
            times,
            "refused a peer"
        );
    }
}

/// Purpose for the log. For a message that resembles another format, the name of that format too.
fn purpose_for_log(operation: &Operation<'_>) -> Cow<'static, str> {
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

/// Label of a request as the log shows it. Labels that are too long to be valid are left out.
fn loggable(label: &str) -> &str {
    if label.len() > Label::MAX { "(too long)" } else { label }
}
