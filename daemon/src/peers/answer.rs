//! Answer to one request of a peer.
//!
//! A request for a private key becomes an [`Operation`]. This file answers all other requests.

use core::pin::pin;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::Outcome;
use keyward_proto::message::{Describe, Description, Request, Response, Status, Watch, request, response};

use super::operation::{Find, Operation, find_key};
use super::record;
use super::shared::Shared;
use super::users::Account;
use crate::backend::{Context, Trace};
use crate::keys::changes::is_empty;
use crate::keys::now;
use crate::policy::authorise::Peer;

/// Answers a request that has arrived completely at the time `arrived`.
pub(super) async fn answer(
    shared: &Shared,
    peer: &Peer,
    account: &Arc<Account>,
    request: Request,
    arrived: Instant,
    trace: Trace,
) -> Response {
    shared.daemon.metrics.request();
    let context = Context::new(deadline(shared, &request, arrived), trace, account.id);
    let answer = match &request.body {
        Some(request::Body::Sign(sign)) => {
            recorded(Operation::sign(shared, peer, account, sign, context)).await
        }
        Some(request::Body::Decrypt(decrypt)) => {
            recorded(Operation::decrypt(shared, peer, account, decrypt, context)).await
        }
        Some(request::Body::Describe(describe)) => {
            self::describe(shared, peer, account, describe).await.map(response::Body::Description)
        }
        Some(request::Body::GetStatus(_)) => Ok(response::Body::Status(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            peer_uid: peer.uid,
        })),
        // The session answers requests to watch, because only the session sees if more arrives.
        Some(request::Body::Watch(_)) | None => {
            record::without_body(shared, peer);
            Err(Outcome::Malformed)
        }
    };
    let (outcome, body) = match answer {
        Ok(body) => (Outcome::Done, Some(body)),
        Err(outcome) => (outcome, None),
    };
    Response { id: request.id, outcome: outcome.into(), body }
}

/// Carries an operation out, and records the result.
async fn recorded(mut operation: Operation<'_>) -> Result<response::Body, Outcome> {
    let result = operation.carry_out().await;
    record::record(&operation, result.as_ref().err());
    result.map_err(|failure| failure.outcome())
}

/// Refuses a request because too many other requests of its user wait.
pub(super) fn overloaded(shared: &Shared, peer: &Peer, request: &Request) -> Response {
    shared.daemon.metrics.request();
    match request.body {
        Some(request::Body::Sign(_)) => shared.daemon.metrics.signature(Outcome::Overloaded, None),
        Some(request::Body::Decrypt(_)) => shared.daemon.metrics.decryption(Outcome::Overloaded),
        _ => {}
    }
    record::limit_exceeded(shared, peer, "", "too many requests of this user wait");
    Response { id: request.id, outcome: Outcome::Overloaded.into(), body: None }
}

/// Answers a request to watch after a change that concerns the peer, or when `end` completes.
pub(super) async fn watch(
    shared: &Shared,
    peer: &Peer,
    id: u64,
    watch: &Watch,
    end: impl Future<Output = ()>,
) -> Response {
    shared.daemon.metrics.request();
    let mut end = pin!(end);
    let mut revisions = shared.daemon.keys.changes().subscribe();
    let mut after = watch.after;
    let mut is_ended = false;
    loop {
        revisions.mark_unchanged();
        let changes = {
            // Released before the wait: every signature needs the configuration.
            let config = shared.daemon.config();
            shared.daemon.keys.changes().since(after, |label| config.grants.covers(peer, label))
        };
        after = changes.revision;
        let is_over = !is_empty(&changes) || is_ended;
        if !is_over {
            tokio::select! {
                biased;
                // The loop looks for changes once more: a change may be the reason of the end.
                () = &mut end => is_ended = true,
                _ = revisions.changed() => {}
            }
        } else {
            let body = Some(response::Body::Changes(changes));
            return Response { id, outcome: Outcome::Done.into(), body };
        }
    }
}

/// Deadline of a request: the time of its peer or of the configuration, whichever is earlier.
fn deadline(shared: &Shared, request: &Request, arrived: Instant) -> Instant {
    let configured = shared.daemon.config().request_timeout;
    let timeout = match request.deadline_ms {
        0 => configured,
        requested => configured.min(Duration::from_millis(requested.into())),
    };
    arrived + timeout
}

async fn describe(
    shared: &Shared,
    peer: &Peer,
    account: &Account,
    describe: &Describe,
) -> Result<Description, Outcome> {
    let found = find_key(shared, peer, account, &describe.label, Find::ToDescribe).await;
    let key = found.map_err(|failure| {
        record::failure(shared, peer, &describe.label, "describe the key", &failure);
        failure.outcome()
    })?;
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
        uses: key.uses.iter().map(|one| one.name().into()).collect(),
        certificates: version.certificates.clone(),
        state: key.standing(now()).on_the_wire().name().into(),
    })
}
