//! Reload of the configuration.

use axum::extract::State;
use axum::{Extension, Json};

use super::{Admin, Administrator, Answer};
use crate::admin::api::Reloaded;
use crate::daemon::Reload;
use crate::lifecycle;

pub(super) async fn reload(
    State(admin): State<Admin>,
    Extension(Administrator(actor)): Extension<Administrator>,
) -> Answer<Reloaded> {
    let Reload { waiting_for_restart, problems, .. } = lifecycle::reload(&admin.daemon, actor).await?;
    Ok(Json(Reloaded { waiting_for_restart, problems }))
}
