//! Rewraps the keys of a backend by the next master key.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Deserialize;

use super::parse::Parameters;
use super::{Admin, Administrator, Answer};
use crate::admin::api::{Finished, Rewrapped};
use crate::lifecycle;

/// The query of a request to rewrap keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    /// The label after which to begin; none for the first key.
    after: Option<String>,
}

pub(super) async fn rewrap(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    Path(backend): Path<String>,
    Parameters(Batch { after }): Parameters<Batch>,
) -> Answer<Rewrapped> {
    let done = lifecycle::rewrap(&admin.daemon, actor, &backend, after).await?;
    let lifecycle::Rewrapped { looked_at, keys, wrapped, next } = done;
    Ok(Json(Rewrapped { looked_at, keys, wrapped, next }))
}

pub(super) async fn finish(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
    Path(backend): Path<String>,
) -> Answer<Finished> {
    let done = lifecycle::finish_rewrap(&admin.daemon, actor, &backend).await?;
    let lifecycle::Finished { wkid, keys } = done;
    Ok(Json(Finished { backend, wkid: wkid.to_string(), keys }))
}
