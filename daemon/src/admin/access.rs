//! Access of a user to a key, for an administrator who asks on behalf of the user.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keyward_proto::{Label, Outcome, Use};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::parse::{OfKey, Parameters, number};
use super::{Admin, Answer};
use crate::admin::api::{AccessView, UseAccessView};
use crate::ground::names;
use crate::keys::{Key, StoreError, now};
use crate::peers::service;
use crate::policy::act::{Act, Refusal};
use crate::policy::authorise::{Grants, Peer};

/// The user in the query of a request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    #[serde(deserialize_with = "number")]
    uid: u32,
    #[serde(deserialize_with = "number")]
    gid: u32,
    /// Supplementary groups of a process; none stands for those in the group database.
    #[serde(default, deserialize_with = "numbers")]
    groups: Option<Arc<[u32]>>,
    /// Service of a process, empty outside of all services; none stands for each service that a
    /// grant names.
    service: Option<String>,
}

/// Answers which handshakes of a user succeed, for each kind of handshake that the uses of the key
/// name. No handshake succeeds with a key that is not active. If the uses name none, the answer is
/// about the handshake of a TLS server. If a use is refused for TLS 1.2 alone, the use for TLS 1.3
/// follows.
pub(super) async fn show(
    State(admin): State<Admin>,
    OfKey(label): OfKey,
    Parameters(user): Parameters<User>,
) -> Answer<AccessView> {
    let key = admin.daemon.keys.look(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    let config = admin.daemon.config();
    let obstacle = service::obstacle().filter(|_| config.grants.depend_on_service(user.uid));
    let access = Access {
        grants: &config.grants,
        key: &key,
        signs: key.may_sign(now()),
        tells_service: user.service.is_none(),
        peers: peers(user, &config.grants, obstacle.is_some()),
    };
    let (uses, granted) = (access.uses(), access.granted());
    let obstacle = obstacle.map(str::to_owned);
    Ok(Json(AccessView { uses, obstacle, granted, unverified: key.unverified }))
}

/// Processes of a user for which grants may decide differently: the process of the query. If no
/// process is known, a process outside of every service, and one in each service that a grant
/// names.
fn peers(user: User, grants: &Grants, has_obstacle: bool) -> Vec<Peer> {
    let User { uid, gid, groups, service } = user;
    let is_known = service.is_some();
    let outside = Peer {
        uid,
        gid,
        groups: groups.unwrap_or_else(|| groups_of(uid, gid)),
        service: service.filter(|name| !name.is_empty() && !has_obstacle).map(Arc::from),
        ..Peer::default()
    };
    let services = grants.iter().filter_map(|grant| grant.who.service.clone());
    let services = services.filter(|_| !is_known && !has_obstacle);
    let inside = services.map(|service| Peer { service: Some(service), ..outside.clone() });
    core::iter::once(outside.clone()).chain(inside).collect()
}

/// A key, and the processes of a user that may want it.
struct Access<'a> {
    grants: &'a Grants,
    key: &'a Key,
    /// True if the key is active.
    signs: bool,
    /// At least one process; the first is outside of all services if no process is known.
    peers: Vec<Peer>,
    /// True if an answer names the service that has access.
    tells_service: bool,
}

impl Access<'_> {
    /// Each kind of handshake that the key is for.
    fn uses(&self) -> Vec<UseAccessView> {
        let mut views = Vec::new();
        for one in self.handshakes() {
            let view = self.view(one);
            let narrower = match one {
                Use::TlsServer => Some(Use::Tls13Server),
                Use::TlsClient => Some(Use::Tls13Client),
                _ => None,
            };
            let narrower = narrower.filter(|_| view.refusal.is_some()).map(|narrower| self.view(narrower));
            views.push(view);
            views.extend(narrower.filter(|narrower| narrower.refusal.is_none()));
        }
        views
    }

    fn handshakes(&self) -> Vec<Use> {
        let uses = &self.key.uses;
        let names = |one: &Use| {
            uses.contains(one) || (uses.contains(&Use::Any) && matches!(one, Use::TlsServer | Use::TlsClient))
        };
        let named: Vec<_> = HANDSHAKES.into_iter().filter(names).collect();
        if named.is_empty() { vec![Use::TlsServer] } else { named }
    }

    fn view(&self, one: Use) -> UseAccessView {
        let refusal = |peer| match refusal(self.grants, peer, &self.key.label, &self.key.uses, one) {
            // A peer without a grant does not learn of the state of the key.
            Some(Refusal::NoGrant) => Some(Outcome::NoGrant),
            _ if !self.signs => Some(Outcome::KeyDisabled),
            refusal => refusal.map(Outcome::from),
        };
        let allowed = self.peers.iter().find(|peer| refusal(peer).is_none());
        let service = allowed.and_then(|peer| peer.service.as_deref());
        let refused = self.peers.first().filter(|_| allowed.is_none()).and_then(refusal);
        UseAccessView {
            r#use: one.name().into(),
            refusal: refused.map(|outcome| outcome.name().into()),
            service: service.filter(|_| self.tells_service).map(str::to_owned),
        }
    }

    /// Names of the uses that grants allow the user, whatever the uses of the key.
    fn granted(&self) -> Vec<String> {
        let label = &self.key.label;
        let is_granted = |one: &Use| {
            self.peers.iter().any(|peer| self.grants.uses(peer, label).any(|granted| granted == *one))
        };
        Use::ALL.into_iter().filter(is_granted).map(|one| one.name().into()).collect()
    }
}

/// Numbers in a query, separated by commas.
fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<[u32]>>, D::Error> {
    let text = String::deserialize(from)?;
    let numbers = text.split(',').filter(|text| !text.is_empty()).map(str::parse);
    numbers.collect::<Result<_, _>>().map(Some).map_err(|_| D::Error::custom("not numbers"))
}

/// Groups of a process of the user, by the group database; empty if there is no such user.
fn groups_of(uid: u32, gid: u32) -> Arc<[u32]> {
    let user = names::user_by_id(uid).ok().flatten();
    user.and_then(|user| names::groups_of(&user.name, gid).ok()).unwrap_or_default().into()
}

/// Reason why a peer is refused something that a use admits; none if the peer may have all of it.
fn refusal(grants: &Grants, peer: &Peer, label: &Label, key_uses: &[Use], one: Use) -> Option<Refusal> {
    Act::admitted_by(one).find_map(|act| grants.authorise(peer, label, key_uses, act).err())
}

/// Uses of a key in a handshake.
const HANDSHAKES: [Use; 7] = [
    Use::TlsServer,
    Use::Tls13Server,
    Use::Tls12Server,
    Use::Tls12DheServer,
    Use::TlsClient,
    Use::Tls13Client,
    Use::RsaKeyExchange,
];
