//! Who may use a key: what the grants say of a user, without that user asking.

use std::ffi::CString;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use keyward_proto::{Label, Outcome, Use};
use nix::unistd::{User, getgrouplist};

use super::keys::label;
use super::{Admin, AdminError, Answer};
use crate::admin::api::{AccessView, UseAccessView};
use crate::keys::StoreError;
use crate::peers::service;
use crate::policy::act::Act;
use crate::policy::authorise::{Grants, Peer, Refusal};

/// Decides as it is decided for handshakes of a process that runs as that user and in that group: for each kind of
/// handshake that the uses of the key name and, if they name none, for that of a TLS server. Where a use is refused for TLS 1.2
/// alone, the one for TLS 1.3 comes after it.
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<AccessView> {
    let label = label(&text)?;
    let (mut uid, mut gid, mut groups, mut named) = (None, None, None, None);
    for (name, value) in query {
        let number = |text: &str| {
            text.parse::<u32>().map_err(|_| AdminError::Invalid(format!("{name} is not a number")))
        };
        match name.as_str() {
            "uid" => uid = Some(number(&value)?),
            "gid" => gid = Some(number(&value)?),
            "groups" => {
                let each = value.split(',').filter(|text| !text.is_empty()).map(number);
                groups = Some(each.collect::<Result<Arc<[u32]>, _>>()?);
            }
            "service" => named = Some(value),
            _ => return Err(AdminError::Invalid(format!("unknown parameter {name}"))),
        }
    }
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(AdminError::Invalid("uid and gid are needed".into()));
    };
    let key = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    let config = admin.daemon.config();
    let obstacle = service::obstacle().filter(|_| config.grants.depend_on_service(uid));
    let outside = Peer {
        uid,
        gid,
        groups: groups.unwrap_or_else(|| groups_of(uid, gid)),
        // Of a process that is known, the service does not have to be found out.
        service: named.as_deref().filter(|name| !name.is_empty() && obstacle.is_none()).map(Arc::from),
        ..Peer::default()
    };
    // If no process is known: one outside of every service that grants name, and one in each of
    // them.
    let services = config.grants.iter().filter_map(|grant| grant.who.service.clone());
    let services = services.filter(|_| named.is_none() && obstacle.is_none());
    let inside = services.map(|service| Peer { service: Some(service), ..outside.clone() });
    let peers: Vec<_> = core::iter::once(outside.clone()).chain(inside).collect();
    let names = |one: &Use| {
        key.uses.contains(one)
            || (key.uses.contains(&Use::Any) && matches!(one, Use::TlsServer | Use::TlsClient))
    };
    let mut asked: Vec<_> = HANDSHAKES.into_iter().filter(names).collect();
    if asked.is_empty() {
        asked.push(Use::TlsServer);
    }
    let refusal = |one| {
        let of = |peer| refusal(&config.grants, peer, &label, &key.uses, one);
        let allowed = peers.iter().find(|peer| of(peer).is_none());
        let of_peer = allowed.and_then(|peer| peer.service.as_deref());
        let service = of_peer.filter(|_| named.is_none()).map(str::to_owned);
        (of(allowed.unwrap_or(&outside)), service)
    };
    let mut views = Vec::new();
    for one in asked {
        let (refused, service) = refusal(one);
        views.push(UseAccessView {
            r#use: one.name().into(),
            refusal: refused.map(|refusal| Outcome::from(refusal).name().into()),
            service,
        });
        let narrower = match one {
            Use::TlsServer => Use::Tls13Server,
            Use::TlsClient => Use::Tls13Client,
            _ => continue,
        };
        if let (Some(_), (None, service)) = (refused, refusal(narrower)) {
            views.push(UseAccessView { r#use: narrower.name().into(), refusal: None, service });
        }
    }
    let granted =
        |one: &Use| peers.iter().any(|peer| config.grants.uses(peer, &label).any(|granted| granted == *one));
    let granted = Use::ALL.into_iter().filter(granted).map(|one| one.name().into()).collect();
    Ok(Json(AccessView { uses: views, obstacle: obstacle.map(str::to_owned), granted }))
}

/// The groups that a process of the user has, by the group database; none if there is no such user.
fn groups_of(uid: u32, gid: u32) -> Arc<[u32]> {
    let user = User::from_uid(uid.into()).ok().flatten();
    let name = user.and_then(|user| CString::new(user.name).ok());
    let groups = name.and_then(|name| getgrouplist(&name, gid.into()).ok());
    groups.unwrap_or_default().into_iter().map(|group| group.as_raw()).collect()
}

/// Why a peer may not have all that a use admits, if it may not.
fn refusal(grants: &Grants, peer: &Peer, label: &Label, key_uses: &[Use], one: Use) -> Option<Refusal> {
    Act::admitted_by(one).find_map(|act| grants.authorise(peer, label, key_uses, act).err())
}

/// What a key is used for in a handshake.
const HANDSHAKES: [Use; 7] = [
    Use::TlsServer,
    Use::Tls13Server,
    Use::Tls12Server,
    Use::Tls12DheServer,
    Use::TlsClient,
    Use::Tls13Client,
    Use::RsaKeyExchange,
];
