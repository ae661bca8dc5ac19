//! Who may use a key: what the grants say of a user, without that user asking.

use axum::Json;
use axum::extract::{Path, Query, State};
use keyward_proto::{Label, Outcome, Use};

use super::keys::label;
use super::{Admin, AdminError, Answer};
use crate::api::AccessView;
use crate::keys::StoreError;
use crate::policy::act::Act;
use crate::policy::authorise::{Grants, Peer, Refusal};

/// Decides as it is decided for handshakes of a process that runs as that user and in that group: for each kind of
/// handshake that the uses of the key name and, if they name none, for that of a TLS server. Where a use is refused for TLS 1.2
/// alone, the one for TLS 1.3 comes after it.
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Vec<AccessView>> {
    let label = label(&text)?;
    let (mut uid, mut gid) = (None, None);
    for (name, value) in query {
        let number = value.parse().map_err(|_| AdminError::Invalid(format!("{name} is not a number")))?;
        match name.as_str() {
            "uid" => uid = Some(number),
            "gid" => gid = Some(number),
            _ => return Err(AdminError::Invalid(format!("unknown parameter {name}"))),
        }
    }
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(AdminError::Invalid("uid and gid are needed".into()));
    };
    let key = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    let peer = Peer { uid, gid, ..Peer::default() };
    let config = admin.daemon.config();
    let names = |one: &Use| {
        key.uses.contains(one)
            || (key.uses.contains(&Use::Any) && matches!(one, Use::TlsServer | Use::TlsClient))
    };
    let mut asked: Vec<_> = HANDSHAKES.into_iter().filter(names).collect();
    if asked.is_empty() {
        asked.push(Use::TlsServer);
    }
    let refusal = |one| refusal(&config.grants, &peer, &label, &key.uses, one);
    let mut views = Vec::new();
    for one in asked {
        let refused = refusal(one);
        views.push(AccessView {
            r#use: one.name().into(),
            refusal: refused.map(|refusal| Outcome::from(refusal).name().into()),
        });
        let narrower = match one {
            Use::TlsServer => Use::Tls13Server,
            Use::TlsClient => Use::Tls13Client,
            _ => continue,
        };
        if refused.is_some() && refusal(narrower).is_none() {
            views.push(AccessView { r#use: narrower.name().into(), refusal: None });
        }
    }
    Ok(Json(views))
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
