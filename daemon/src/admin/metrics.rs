//! The page of metrics, see docs/metrics.md.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::trail_view::AuditView;
use crate::backend::{Backend, UnitState};
use crate::observe::audit_metrics::AuditLook;
use crate::observe::metrics::{Access, Metrics, UnitLoad};

/// Sets the metrics that are not counted as events, and answers with the page.
pub(super) async fn page(State(Admin { daemon, peers, .. }): State<Admin>) -> Response {
    let metrics = &daemon.metrics;
    metrics.set_connections(peers.connections.total());
    if let Ok(count) = daemon.keys.count().await {
        metrics.set_keys(count);
    }
    metrics.set_altered(daemon.keys.altered().total());
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
    ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.text()).into_response()
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
