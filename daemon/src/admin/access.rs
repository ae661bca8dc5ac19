//! Who may use a key: what the grants say of a user, without that user asking.

use axum::Json;
use axum::extract::{Path, Query, State};
use keyward_proto::{Outcome, Use};

use super::keys::label;
use super::{Admin, AdminError, Answer};
use crate::api::AccessView;
use crate::keys::StoreError;
use crate::policy::authorise::{Peer, includes};

/// Decides as it is decided for handshakes of a process that runs as that user and in that group: for each kind of
/// handshake that the uses of the key allow and, if they allow none, for that of a TLS server.
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
    let mut asked: Vec<_> = HANDSHAKES.into_iter().filter(|u| includes(&key.uses, *u)).collect();
    if asked.is_empty() {
        asked.push(Use::TlsServer);
    }
    let views = asked.into_iter().map(|asked| {
        let refusal = config.grants.authorise(&peer, &label, &key.uses, asked).err();
        AccessView {
            r#use: asked.name().into(),
            refusal: refusal.map(|refusal| Outcome::from(refusal).name().into()),
        }
    });
    Ok(Json(views.collect()))
}

/// What a key is used for in a handshake.
const HANDSHAKES: [Use; 3] = [Use::TlsServer, Use::TlsClient, Use::RsaKeyExchange];
