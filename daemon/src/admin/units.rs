//! Units: how they are.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::{Admin, Answer};
use crate::admin::api::{BackendView, UnitView};
use crate::backend::Backend;
use crate::daemon::Daemon;
use crate::ground::text::printable;
use crate::keys::StoreError;

/// 200 if every backend could sign now.
pub(super) async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let problems = admin.daemon.problems().await;
    match problems.is_empty() {
        true => (StatusCode::OK, "ready\n".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n"),
    }
}

/// Every backend.
pub(super) async fn backends(daemon: &Daemon) -> Result<Vec<BackendView>, StoreError> {
    let mut views = Vec::new();
    for backend in daemon.backends.iter() {
        views.push(BackendView {
            name: backend.name().into(),
            unit: backend.kind().into(),
            wkid: match backend {
                Backend::Embedded(embedded) if let Err(unusable) = embedded.unit() => {
                    Some(unusable.needed().to_owned())
                }
                _ => daemon.keys.wkid(backend.name()).await?,
            },
            ready: daemon.is_ready(backend).await,
        });
    }
    Ok(views)
}

/// Units of every backend.
pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<UnitView>> {
    let mut views = Vec::new();
    for backend in admin.daemon.backends.iter() {
        match backend {
            Backend::Embedded(embedded) => views.push(UnitView {
                backend: backend.name().into(),
                address: "in this process".into(),
                health: if embedded.unit().is_ok() { "up" } else { "down" }.into(),
                breaker: None,
                latency_us: None,
                in_flight: None,
                calls: None,
                failures: None,
                wkid: match embedded.unit() {
                    Ok(_) => admin.daemon.keys.wkid(backend.name()).await?,
                    Err(unusable) => unusable.has().map(|wkid| wkid.to_string()),
                },
                other_master_key: embedded.unit().is_err(),
                next_master_key: false,
                mechanisms: Vec::new(),
                problem: embedded.unit().err().map(|unusable| unusable.to_string()),
            }),
            Backend::Grep11(grep11) => {
                let settled = admin.daemon.keys.wkid(backend.name()).await?;
                let next = admin.daemon.keys.next_wkid(backend.name()).await?;
                views.extend(grep11.units().into_iter().map(|unit| {
                    let wkid = unit.wkid.map(|wkid| wkid.to_string());
                    let other = settled.is_some() && wkid.is_some() && settled != wkid;
                    let next_master_key = other && next == wkid;
                    UnitView {
                        backend: backend.name().into(),
                        address: unit.address,
                        health: unit.state.name().into(),
                        breaker: unit.load.map(|_| unit.state.breaker().into()),
                        latency_us: unit.load.and_then(|load| u64::try_from(load.latency.as_micros()).ok()),
                        in_flight: unit.load.map(|load| load.in_flight),
                        calls: unit.load.map(|load| load.calls),
                        failures: unit.load.map(|load| load.failures),
                        other_master_key: other && !next_master_key,
                        next_master_key,
                        wkid,
                        mechanisms: unit.mechanisms,
                        problem: unit.problem.map(|text| printable(&text)),
                    }
                }));
            }
        }
    }
    Ok(Json(views))
}
