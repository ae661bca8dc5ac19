//! The page of metrics, see docs/metrics.md.

use core::time::Duration;
use std::time::Instant;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::trail_view::AuditView;
use super::{Admin, Asker, plans};
use crate::backend::{Backend, UnitState};
use crate::observe::audit_metrics::AuditLook;
use crate::observe::metrics::{Access, Metrics, UnitLoad};
use crate::peers::shared::Shared;

/// The page for users without a role, and its time. Making the page costs more than the rest of a
/// request, so these users get the same page for [`PAGE_LIFE`].
#[derive(Default)]
pub(super) struct StrangersPage(Mutex<Option<(Instant, Bytes)>>);

impl StrangersPage {
    /// Answers with the page.
    pub(super) async fn answer(&self, peers: &Shared) -> Response {
        let mut page = self.0.lock().await;
        answer(match &*page {
            Some((made, text)) if made.elapsed() < PAGE_LIFE => text.clone(),
            _ => page.insert((Instant::now(), text(peers).await)).1.clone(),
        })
    }
}

/// Answers with the page.
pub(super) async fn page(State(admin): State<Admin>, Extension(asker): Extension<Asker>) -> Response {
    match asker.has_role() {
        true => answer(text(&admin.peers).await),
        false => admin.strangers_page.answer(&admin.peers).await,
    }
}

fn answer(text: Bytes) -> Response {
    ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response()
}

/// Sets the metrics that are not counted as events, and writes the page.
async fn text(peers: &Shared) -> Bytes {
    let daemon = &peers.daemon;
    let metrics = &daemon.metrics;
    metrics.set_connections(peers.connections.total());
    if let Ok(count) = daemon.keys.count().await {
        metrics.set_keys(count);
    }
    if let Ok(shred) = daemon.keys.shred().await {
        metrics.set_final(shred.is_final());
    }
    if let Ok((plans, watched)) = plans::looks(daemon).await {
        metrics.renewals.set(plans, watched, daemon.renewals.agent_seen());
    }
    metrics.set_altered(daemon.keys.altered().total());
    metrics.set_checked(daemon.is_surveyed());
    if let Some(trail) = daemon.trail() {
        let view = AuditView::of(trail);
        metrics.audit.set(&AuditLook {
            has_failed: view.failure.is_some(),
            unwritten: view.unwritten,
            has_summaries: view.summaries.is_some(),
            last: view.last,
            signed: view.checkpoint.map_or(0, |checkpoint| checkpoint.through),
        });
    }
    for backend in daemon.backends.iter() {
        metrics.set_ready(backend.name(), daemon.is_ready(backend).await);
        measure_units(metrics, backend);
    }
    metrics.text().into()
}

fn measure_units(metrics: &Metrics, backend: &Backend) {
    let Some(remote) = backend.remote_status() else { return };
    let access = Access {
        waiting: remote.waiting,
        files_unusable: remote.files_problem.is_some(),
        token_valid_for: remote.token_valid_for,
    };
    metrics.set_access(backend.name(), &access);
    for unit in backend.units() {
        let load = unit.load.map(|load| UnitLoad {
            in_flight: load.in_flight,
            latency: load.latency,
            calls: load.calls,
            failures: load.failures,
        });
        metrics.set_unit(backend.name(), unit.address, unit.state != UnitState::Down, load.as_ref());
    }
}

/// Time for which users without a role get the same page.
const PAGE_LIFE: Duration = Duration::from_secs(1);
