//! Who may use a key: what the grants say of a user, without that user asking.

use axum::Json;
use axum::extract::{Path, Query, State};
use keyward_proto::Outcome;

use super::keys::label;
use super::{Admin, AdminError, Answer};
use crate::api::AccessView;
use crate::authorise::Peer;
use crate::keys::StoreError;
use crate::purpose::Purpose;

/// Decides as it is decided for a handshake of a TLS server whose process runs as that user and in that group.
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<AccessView> {
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
    let peer = Peer { uid, gid, pid: 0 };
    let purpose = Purpose::Tls13ServerCertificateVerify;
    let refusal =
        admin.daemon.config().grants.authorise(&peer, &label, &key.uses, purpose.required_use()).err();
    Ok(Json(AccessView { refusal: refusal.map(|refusal| Outcome::from(refusal).name().into()) }))
}
