//! State of the daemon.

use std::process;

use axum::Json;
use axum::extract::State;

use super::trail_view::AuditView;
use super::{Admin, Answer, units};
use crate::admin::api::{MeasureView, StatusView};
use crate::admin::purge_view::{PurgesView, RecoveryView};
use crate::ground::{confinement, names};
use crate::keys::StoreError;

pub(super) async fn show(State(admin): State<Admin>) -> Answer<StatusView> {
    Ok(Json(view(&admin).await?))
}

async fn view(Admin { daemon, peers, .. }: &Admin) -> Result<StatusView, StoreError> {
    let confinement = tokio::task::spawn_blocking(confinement::observe).await.unwrap_or_default();
    let (closed_for_malformed, closed_for_limit) = daemon.metrics.closed();
    let shred = daemon.keys.shred().await?;
    Ok(StatusView {
        purges: Some(PurgesView::of(daemon, &shred).await?),
        recovery: RecoveryView::of(&shred),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: process::id(),
        uptime_seconds: daemon.started.elapsed().as_secs(),
        dev: daemon.dev,
        backends: units::backends(daemon).await?,
        state_dir: daemon.keys.state_dir().to_owned(),
        keys: daemon.keys.count().await?,
        store_created: daemon.keys.created().await?,
        grants: daemon.configured_grants(),
        config_file: daemon.config_file.clone(),
        config: Some(daemon.fingerprint()),
        waiting_for_restart: daemon.waiting_for_restart.load().to_vec(),
        problems: daemon
            .problems()
            .await
            .into_iter()
            .chain(daemon.other_problems())
            .chain(names::problem())
            .collect(),
        confinement: confinement.into_iter().map(MeasureView::of).collect(),
        altered: daemon.keys.altered(),
        audit: daemon.trail().map(AuditView::of),
        connections: peers.connections.total(),
        outcomes: daemon.metrics.outcomes(),
        decryption_outcomes: daemon.metrics.decryption_outcomes(),
        last_refusals: Some(daemon.metrics.last_refusals()),
        purposes: daemon.metrics.purposes(),
        closed_for_malformed,
        requests: daemon.metrics.requests(),
        closed_for_limit,
    })
}
