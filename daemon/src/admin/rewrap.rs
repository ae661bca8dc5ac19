//! Keys of a backend on their way to another master key.

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};

use super::{Admin, AdminError, Administrator, Answer};
use crate::admin::api::{Finished, Rewrapped};
use crate::lifecycle;

pub(super) async fn rewrap(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Rewrapped> {
    let mut after = None;
    for (parameter, value) in query {
        match parameter.as_str() {
            "after" => after = Some(value),
            _ => return Err(AdminError::Invalid(format!("unknown parameter {parameter}"))),
        }
    }
    let lifecycle::Rewrapped { looked_at, keys, wrapped, next } =
        lifecycle::rewrap(&admin.daemon, &name, after).await?;
    Ok(Json(Rewrapped { looked_at, keys, wrapped, next }))
}

pub(super) async fn finish(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(name): Path<String>,
) -> Answer<Finished> {
    let lifecycle::Finished { wkid, keys } = lifecycle::finish_rewrap(&admin.daemon, &name).await?;
    tracing::info!(backend = name, wkid, keys, uid = who.uid, "keys have another master key");
    Ok(Json(Finished { backend: name, wkid, keys }))
}
