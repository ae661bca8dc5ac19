//! One request of a peer and its answer.
//!
//! The order of the checks is part of the contract: a peer learns nothing of keys that no grant covers, not
//! even whether they exist.

use core::pin::pin;
use core::time::Duration;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::message::{
    Decrypt, Describe, Description, Plaintext, Request, Response, Sign, Signature, Status, Watch, request,
    response, sign,
};
use keyward_proto::{Label, Outcome, Scheme, Use};

use crate::backend::{Backend, BackendError, Context, SigningInput, Times, Trace};
use crate::daemon::{Daemon, key_material};
use crate::ground::fair::Full;
use crate::keys::changes::is_empty;
use crate::keys::{Key, StoreError, Version};
use crate::peers::users::{Account, Admitted};
use crate::policy::act::{Act, lacking};
use crate::policy::authorise::Peer;
use crate::policy::purpose::{Purpose, classify, other_format};

/// Answers a request that had arrived completely at `arrived`.
pub(super) async fn answer(
    daemon: &Daemon,
    peer: &Peer,
    account: &Arc<Account>,
    request: Request,
    arrived: Instant,
    trace: Trace,
) -> Response {
    daemon.metrics.request();
    let asked = Context { deadline: deadline(daemon, &request, arrived), trace, user: account.id };
    let answer = match request.body {
        Some(request::Body::Sign(sign)) => {
            self::sign(daemon, peer, account, &sign, &asked).await.map(response::Body::Signature)
        }
        Some(request::Body::Describe(describe)) => {
            self::describe(daemon, peer, account, &describe).await.map(response::Body::Description)
        }
        Some(request::Body::GetStatus(_)) => Ok(response::Body::Status(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            peer_uid: peer.uid,
        })),
        Some(request::Body::Decrypt(decrypt)) => {
            self::decrypt(daemon, peer, account, &decrypt, &asked).await.map(response::Body::Plaintext)
        }
        // Which the session answers: it alone knows what else arrives.
        Some(request::Body::Watch(_)) => Err(Outcome::Malformed),
        None => Err(Outcome::Malformed),
    };
    let (outcome, body) = match answer {
        Ok(body) => (Outcome::Done, Some(body)),
        Err(outcome) => (outcome, None),
    };
    Response { id: request.id, outcome: outcome.into(), body }
}

/// Answers a request that is refused unseen, since too many others of its user wait.
pub(super) fn overloaded(daemon: &Daemon, peer: &Peer, request: &Request) -> Response {
    daemon.metrics.request();
    match request.body {
        Some(request::Body::Sign(_)) => daemon.metrics.signature(Outcome::Overloaded, None),
        Some(request::Body::Decrypt(_)) => daemon.metrics.decryption(Outcome::Overloaded),
        _ => {}
    }
    too_many(daemon, peer, "", "too many requests of this user wait");
    Response { id: request.id, outcome: Outcome::Overloaded.into(), body: None }
}

/// Answers a request to watch, when there are changes that the peer may know of or `end` comes.
pub(super) async fn watch(
    daemon: &Daemon,
    peer: &Peer,
    id: u64,
    watch: &Watch,
    end: impl Future<Output = ()>,
) -> Response {
    daemon.metrics.request();
    let mut end = pin!(end);
    let mut revisions = daemon.keys.changes().subscribe();
    let mut after = watch.after;
    let mut is_ended = false;
    loop {
        revisions.mark_unchanged();
        let changes = {
            // Not held while waiting: others look at it for each signature.
            let config = daemon.config();
            daemon.keys.changes().since(after, |label| config.grants.covers(peer, label))
        };
        after = changes.revision;
        let is_over = !is_empty(&changes) || is_ended;
        if !is_over {
            tokio::select! {
                biased;
                // Looks once more: a change may be the reason of the end.
                () = &mut end => is_ended = true,
                _ = revisions.changed() => {}
            }
        } else {
            let body = Some(response::Body::Changes(changes));
            return Response { id, outcome: Outcome::Done.into(), body };
        }
    }
}

fn deadline(daemon: &Daemon, request: &Request, arrived: Instant) -> Instant {
    let ours = daemon.config().request_timeout;
    let patience = match request.deadline_ms {
        0 => ours,
        theirs => ours.min(Duration::from_millis(theirs.into())),
    };
    arrived + patience
}

async fn describe(
    daemon: &Daemon,
    peer: &Peer,
    account: &Account,
    describe: &Describe,
) -> Result<Description, Outcome> {
    let key = find(daemon, peer, account, &describe.label).await?;
    let version = match (describe.version, describe.certified) {
        (0, true) => key.certified(),
        (number, _) => key.version(number),
    };
    let version = version.ok_or(Outcome::UnknownVersion)?;
    Ok(Description {
        label: describe.label.clone(),
        version: version.number,
        r#type: version.key_type.to_string(),
        public_key: version.spki.clone(),
        versions: key.versions.iter().map(|version| version.number).collect(),
        uses: key.uses.iter().map(|u| u.name().into()).collect(),
        certificates: version.certificates.clone(),
        state: key.state.name().into(),
    })
}

async fn sign(
    daemon: &Daemon,
    peer: &Peer,
    account: &Arc<Account>,
    sign: &Sign,
    asked: &Context,
) -> Result<Signature, Outcome> {
    let mut purpose = None;
    let signature = signature(daemon, peer, account, sign, asked, &mut purpose).await;
    let outcome = signature.as_ref().err().copied().unwrap_or(Outcome::Done);
    daemon.metrics.signature(outcome, purpose);
    tracing::debug!(
        key = shown(&sign.label),
        version = sign.version,
        scheme = %Scheme::try_from(sign.scheme).map_or("unknown", Scheme::name),
        purpose = %purpose.map_or("unknown", Purpose::name),
        uid = peer.uid,
        pid = peer.pid,
        outcome = %outcome.name(),
        trace = %asked.trace.id(),
        "signature"
    );
    refused(daemon, peer, &sign.label, outcome, &kind(sign, outcome, purpose));
    signature.map(|signature| Signature { signature })
}

/// What the message was, for the log of a refusal: of a handshake that is refused for having another format too, which.
fn kind(sign: &Sign, outcome: Outcome, purpose: Option<Purpose>) -> Cow<'static, str> {
    match (purpose, &sign.input) {
        (Some(Purpose::Other), Some(sign::Input::Message(message))) if outcome != Outcome::Done => {
            other_format(message).map_or("other".into(), |format| format!("other, as {format}").into())
        }
        _ => purpose.map_or("unknown", Purpose::name).into(),
    }
}

async fn signature(
    daemon: &Daemon,
    peer: &Peer,
    account: &Arc<Account>,
    sign: &Sign,
    asked: &Context,
    seen: &mut Option<Purpose>,
) -> Result<Vec<u8>, Outcome> {
    let key = find(daemon, peer, account, &sign.label).await?;
    let version = usable(daemon, &key, sign.version, sign.public_key_fingerprint)?;
    let scheme = Scheme::try_from(sign.scheme).map_err(|_| Outcome::NotSupported)?;
    let (input, purpose) = match &sign.input {
        Some(sign::Input::Message(message)) => {
            (SigningInput::Message(message), classify(message, &version.spki))
        }
        Some(sign::Input::Digest(digest)) => (SigningInput::Digest(digest), Purpose::Other),
        None => return Err(Outcome::Malformed),
    };
    *seen = Some(purpose);
    let (backend, _admitted) = backend(daemon, peer, account, &key, Act::Sign(purpose), asked)?;
    let mut times = Times::default();
    let mut signed = backend.sign(key_material(version), scheme, input, asked, &mut times).await;
    if let Err(error) = &signed
        && let Some(again) = Box::pin(wrapped_anew(daemon, error, &key, version)).await
    {
        signed = backend.sign(key_material(&again), scheme, input, asked, &mut times).await;
    }
    let outcome = signed.as_ref().err().map_or(Outcome::Done, BackendError::outcome);
    daemon.metrics.times(backend, scheme, outcome, &times);
    signed.map_err(|error| {
        if !error.is_of_the_peer() {
            fault(daemon, peer, "sign", &sign.label, &error, outcome);
        }
        outcome
    })
}

/// RSA key exchange.
async fn decrypt(
    daemon: &Daemon,
    peer: &Peer,
    account: &Arc<Account>,
    decrypt: &Decrypt,
    asked: &Context,
) -> Result<Plaintext, Outcome> {
    let plaintext = premaster(daemon, peer, account, decrypt, asked).await;
    let outcome = plaintext.as_ref().err().copied().unwrap_or(Outcome::Done);
    daemon.metrics.decryption(outcome);
    tracing::debug!(
        key = shown(&decrypt.label),
        version = decrypt.version,
        uid = peer.uid,
        pid = peer.pid,
        outcome = %outcome.name(),
        trace = %asked.trace.id(),
        "decryption"
    );
    refused(daemon, peer, &decrypt.label, outcome, Use::RsaKeyExchange.name());
    plaintext
}

async fn premaster(
    daemon: &Daemon,
    peer: &Peer,
    account: &Arc<Account>,
    decrypt: &Decrypt,
    asked: &Context,
) -> Result<Plaintext, Outcome> {
    let key = find(daemon, peer, account, &decrypt.label).await?;
    let version = usable(daemon, &key, decrypt.version, decrypt.public_key_fingerprint)?;
    let (backend, _admitted) = backend(daemon, peer, account, &key, Act::DecryptPremaster, asked)?;
    let client_version = u16::try_from(decrypt.client_version).ok().filter(|version| *version != 0);
    let client_version = client_version.ok_or(Outcome::Malformed)?;
    let secret = daemon.keys.rejection_secret().map_err(|error| {
        fault(daemon, peer, "decrypt", &decrypt.label, &error, Outcome::Internal);
        Outcome::Internal
    })?;
    let ask = async |version: &Version| {
        backend
            .decrypt_premaster(key_material(version), &decrypt.ciphertext, client_version, secret, asked)
            .await
    };
    let mut premaster = ask(version).await;
    if let Err(error) = &premaster
        && let Some(again) = Box::pin(wrapped_anew(daemon, error, &key, version)).await
    {
        premaster = ask(&again).await;
    }
    // Whoever sends the answer wipes it.
    premaster.map(|mut premaster| Plaintext { plaintext: core::mem::take(&mut *premaster) }).map_err(
        |error| {
            if !error.is_of_the_peer() {
                fault(daemon, peer, "decrypt", &decrypt.label, &error, error.outcome());
            }
            error.outcome()
        },
    )
}

/// The same version with the blob that has taken the place of the one that was read, if that is why
/// the unit did not use it: the master key was changed while the request waited.
async fn wrapped_anew(
    daemon: &Daemon,
    error: &BackendError,
    key: &Key,
    version: &Version,
) -> Option<Version> {
    if !error.is_of_a_retired_blob() {
        return None;
    }
    let key = daemon.keys.get(&key.label).await.ok()??;
    let now = key.version(version.number).filter(|_| key.state.may_sign())?;
    (now.spki == version.spki && now.blob != version.blob).then(|| now.clone())
}

/// The key with a label, if the peer may know of it.
async fn find(daemon: &Daemon, peer: &Peer, account: &Account, label: &str) -> Result<Arc<Key>, Outcome> {
    let label: Label = label.parse().map_err(|_| Outcome::Malformed)?;
    if !daemon.config().grants.covers(peer, &label) {
        return Err(Outcome::NoGrant);
    }
    if let Some(key) = daemon.keys.cached(label.as_str()) {
        return Ok(key);
    }
    // Boxed: most requests need no room for it.
    Box::pin(look_up(daemon, peer, account, &label)).await
}

/// Looks for a key in the store, in the user's turn: labels of which there is no key are not
/// remembered, and nobody may keep all others waiting by asking for such.
async fn look_up(
    daemon: &Daemon,
    peer: &Peer,
    account: &Account,
    label: &Label,
) -> Result<Arc<Key>, Outcome> {
    let mut place = daemon.look_ups.enter(account.id, LOOK_UP).await.map_err(|Full| Outcome::Overloaded)?;
    let begin = Instant::now();
    let found = daemon.keys.get(label).await;
    place.charge(begin.elapsed());
    match found {
        Ok(key) => key.ok_or(Outcome::UnknownKey),
        Err(error) => {
            let outcome = match error {
                StoreError::Altered(_) | StoreError::Unlisted(_) => Outcome::BlobDamaged,
                // The master key that opens the store is not there.
                StoreError::Locked(_) => Outcome::OtherMasterKey,
                _ => Outcome::Internal,
            };
            fault(daemon, peer, "look up the key", label.as_str(), &error, outcome);
            Err(outcome)
        }
    }
}

/// How long it takes to look for a key in the store, until that has been measured.
const LOOK_UP: Duration = Duration::from_micros(50);

/// A version of a key, if the key may be used at all and the version has the public key that the
/// request names.
fn usable<'k>(
    daemon: &Daemon,
    key: &'k Key,
    version: u32,
    fingerprint: Option<u64>,
) -> Result<&'k Version, Outcome> {
    let version = key.version(version).ok_or(Outcome::UnknownVersion)?;
    match fingerprint {
        None => daemon.metrics.without_public_key(),
        Some(fingerprint) if fingerprint != version.fingerprint.number() => {
            return Err(Outcome::OtherPublicKey);
        }
        Some(_) => {}
    }
    match key.state.may_sign() {
        true => Ok(version),
        false => Err(Outcome::KeyDisabled),
    }
}

/// The backend of a key, if the peer may have the key do this, may do so now, and still waits for it.
fn backend<'d>(
    daemon: &'d Daemon,
    peer: &Peer,
    account: &Arc<Account>,
    key: &Key,
    act: Act,
    asked: &Context,
) -> Result<(&'d Backend, Admitted), Outcome> {
    let config = daemon.config();
    let grants = config.grants.authorise(peer, &key.label, &key.uses, act);
    let grants = grants.map_err(|refusal| act.refused_as(refusal))?;
    if Instant::now() >= asked.deadline {
        return Err(Outcome::DeadlineExceeded);
    }
    let admitted = account.admit(&config, grants).ok_or_else(|| {
        too_many(daemon, peer, key.label.as_str(), "rate or in-flight of the grant is used up");
        Outcome::Overloaded
    })?;
    let backend = daemon.backends.get(&key.backend).ok_or_else(|| {
        let what = if act == Act::DecryptPremaster { "decrypt" } else { "sign" };
        let reason = format_args!("its backend {} is not configured", key.backend);
        fault(daemon, peer, what, key.label.as_str(), &reason, Outcome::UnitUnavailable);
        Outcome::UnitUnavailable
    })?;
    Ok((backend, admitted))
}

/// What a peer gave for a label, as far as it belongs into the log.
fn shown(label: &str) -> &str {
    if label.len() > Label::MAX { "(too long)" } else { label }
}

/// Tells the operator of what only they can allow; a peer may see as little of it as a server logs.
fn refused(daemon: &Daemon, peer: &Peer, label: &str, outcome: Outcome, purpose: &str) {
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
    if let Some(times) = is_refusal.then(|| daemon.lines.refusals.admit(peer, reason)).flatten() {
        let key = shown(label);
        let Peer { uid, pid, .. } = *peer;
        let service = peer.service.as_deref();
        let needs = lacking(outcome, purpose).map(Use::name);
        tracing::info!(key, purpose, uid, service, pid, reason, needs, times, "refused a peer");
    }
}

/// Tells the operator of a user who asks for more than the daemon or a grant lets it.
fn too_many(daemon: &Daemon, peer: &Peer, label: &str, why: &'static str) {
    if let Some(times) = daemon.lines.refusals.admit(peer, why) {
        let Peer { uid, pid, .. } = *peer;
        let (key, service) = (shown(label), peer.service.as_deref());
        tracing::info!(key, uid, service, pid, reason = "overloaded", times, "refused a peer: {why}");
    }
}

fn fault(
    daemon: &Daemon,
    peer: &Peer,
    what: &str,
    label: &str,
    error: &dyn core::fmt::Display,
    outcome: Outcome,
) {
    if let Some(times) = daemon.lines.faults.admit(peer, outcome.name()) {
        let service = peer.service.as_deref();
        tracing::warn!(key = label, uid = peer.uid, service, times, "cannot {what}: {error}");
    }
}
