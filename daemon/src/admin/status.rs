//! State of the daemon.

use core::time::Duration;
use std::process;

use axum::Json;
use axum::extract::State;

use super::findings::{Known, findings};
use super::overview::Overview;
use super::trail_view::AuditView;
use super::{Admin, AdminError, Answer, units};
use crate::admin::api::REFUSED_RELOAD;
use crate::admin::purge_view::{PurgesView, RecoveryView};
use crate::admin::status_view::{MeasureView, RefusalView, Severity, StatusView};
use crate::ground::{confinement, names};

pub(super) async fn show(State(admin): State<Admin>) -> Answer<StatusView> {
    Ok(Json(view(&admin).await?))
}

pub(super) async fn view(admin: &Admin) -> Result<StatusView, AdminError> {
    let Admin { daemon, peers, .. } = admin;
    let confinement = tokio::task::spawn_blocking(confinement::observe).await.unwrap_or_default();
    let (closed_for_malformed, closed_for_limit) = daemon.metrics.closed();
    let shred = daemon.keys.shred().await?;
    // The other facts are shown also if the keys cannot be read, or not in time.
    let (overview, unread) = match Overview::within(PATIENCE, daemon, &admin.overview).await {
        Ok(Some(overview)) => (Some(overview), None),
        Ok(None) => (None, Some("keys and certificates could not be read in time; ask again".to_owned())),
        Err(error) => (None, Some(format!("keys and certificates could not be read: {error}"))),
    };
    let altered = daemon.keys.altered();
    let is_altered = (altered.total() > 0).then(|| {
        format!("{} records or lists of the key store were altered; see keyward doctor", altered.total())
    });
    let backends = units::backends(daemon).await?;
    let unready = daemon.unready().await;
    let refused = daemon.refused_reload().map(|reason| format!("{REFUSED_RELOAD}: {reason}"));
    let others = daemon.keys.problem().await.into_iter().chain(daemon.other_problems()).chain(refused);
    let others: Vec<_> = others.chain(names::problem()).chain(unread).chain(is_altered).collect();
    let is_recorded = !daemon.config().audit.refuse_on_failure || daemon.trail_failure().is_none();
    let mut status = StatusView {
        purges: Some(PurgesView::of(daemon, &shred).await?),
        recovery: RecoveryView::of(&shred),
        version: env!("CARGO_PKG_VERSION").into(),
        pid: process::id(),
        uptime_seconds: daemon.started.elapsed().as_secs(),
        started: Some(daemon.started_at),
        can_sign: None,
        findings: None,
        locked: daemon.keys.is_locked(),
        dev: daemon.dev,
        backends,
        state_dir: daemon.keys.state_dir().to_owned(),
        keys: daemon.keys.count().await?,
        keys_by_state: overview.as_ref().map(|overview| overview.states.clone()),
        unusable_keys: overview.as_ref().map(|overview| overview.mute),
        certificates: overview.as_ref().map(|overview| overview.certificates()),
        store_created: daemon.keys.created().await?,
        grants: daemon.configured_grants(),
        config_file: daemon.config_file.clone(),
        config: Some(daemon.fingerprint()),
        waiting_for_restart: daemon.waiting_for_restart.load().to_vec(),
        problems: unready.iter().chain(&others).cloned().collect(),
        confinement: confinement.into_iter().map(MeasureView::of).collect(),
        altered,
        audit: daemon.trail().map(AuditView::of),
        connections: peers.connections.total(),
        outcomes: daemon.metrics.outcomes(),
        decryption_outcomes: daemon.metrics.decryption_outcomes(),
        last_refusals: Some(daemon.metrics.last_refusals()),
        refusals: Some(peers.refusals.newest().into_iter().map(RefusalView::of).collect()),
        purposes: daemon.metrics.purposes(),
        closed_for_malformed,
        requests: daemon.metrics.requests(),
        closed_for_limit,
    };
    let known = Known { unready, others, is_recorded };
    let findings = findings(daemon, known, &status).await;
    status.can_sign = Some(findings.iter().all(|finding| finding.severity != Severity::CannotSign));
    status.findings = Some(findings);
    Ok(status)
}

/// Longest time for the numbers of keys and certificates.
const PATIENCE: Duration = Duration::from_secs(2);
