//! Health of backends and their units.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use keyward_unit::Wkid;

use super::{Admin, Answer};
use crate::admin::api::UnitView;
use crate::admin::status_view::BackendView;
use crate::backend::{Backend, UnitHealth};
use crate::daemon::Daemon;
use crate::ground::opening::described;
use crate::ground::text::printable;
use crate::keys::StoreError;

/// 200 if every backend could sign now.
pub(super) async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let problems = admin.daemon.problems().await;
    let embedded = admin.daemon.backends.embedded().filter(|_| !admin.daemon.next_start_fails());
    let opening = embedded.map(|embedded| embedded.opening().name());
    let opening = opening.map(|name| format!("the embedded unit is opened {}\n", described(name)));
    let (status, text) = match problems.is_empty() {
        true => (StatusCode::OK, "ready\n".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n"),
    };
    (status, text + &opening.unwrap_or_default())
}

/// Every backend.
pub(super) async fn backends(daemon: &Daemon) -> Result<Vec<BackendView>, StoreError> {
    let mut views = Vec::new();
    for backend in daemon.backends.iter() {
        views.push(BackendView {
            name: backend.name().into(),
            unit: backend.unit_kind().into(),
            wkid: match backend.usable() {
                Ok(()) => daemon.keys.wkid(backend.name()).await?,
                Err(unusable) => unusable.needed(),
            }
            .map(|wkid| wkid.to_string()),
            ready: daemon.is_ready(backend).await,
            opening: backend.opening().map(|opening| opening.name().into()),
            next_start_fails: backend.opening().is_some() && daemon.next_start_fails(),
        });
    }
    Ok(views)
}

/// Units of every backend, as an answer.
pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<UnitView>> {
    Ok(Json(views(&admin.daemon).await?))
}

/// Units of every backend.
pub(super) async fn views(daemon: &Daemon) -> Result<Vec<UnitView>, StoreError> {
    let mut views = Vec::new();
    for backend in daemon.backends.iter() {
        let of_keys = MasterKeys::of(daemon, backend).await?;
        views.extend(backend.units().into_iter().map(|unit| view(backend, &of_keys, unit)));
    }
    Ok(views)
}

/// Master keys that wrap the keys of a backend.
struct MasterKeys {
    /// `None` before the first key.
    present: Option<Wkid>,
    /// `None` unless the keys are being rewrapped.
    next: Option<Wkid>,
}

impl MasterKeys {
    async fn of(daemon: &Daemon, backend: &Backend) -> Result<Self, StoreError> {
        if let Err(unusable) = backend.usable() {
            return Ok(Self { present: unusable.needed(), next: None });
        }
        let present = daemon.keys.wkid(backend.name()).await?;
        Ok(Self { present, next: daemon.keys.next_wkid(backend.name()).await? })
    }
}

fn view(backend: &Backend, of_keys: &MasterKeys, unit: UnitHealth) -> UnitView {
    // After a change the embedded unit has both master keys until the daemon restarts.
    let both: Vec<Wkid> = [unit.next_wkid, unit.wkid].into_iter().flatten().collect();
    let wkid = both.iter().find(|wkid| Some(**wkid) == of_keys.present).or(both.last()).copied();
    let is_other = of_keys.present.is_some() && wkid.is_some() && of_keys.present != wkid;
    let next_master_key = is_other && of_keys.next == wkid;
    UnitView {
        backend: backend.name().into(),
        address: unit.address,
        health: unit.state.name().into(),
        breaker: unit.load.map(|_| unit.state.breaker().into()),
        latency_us: unit.load.and_then(|load| u64::try_from(load.latency.as_micros()).ok()),
        in_flight: unit.load.map(|load| load.in_flight),
        calls: unit.load.map(|load| load.calls),
        failures: unit.load.map(|load| load.failures),
        other_master_key: backend.usable().is_err() || is_other && !next_master_key,
        next_master_key,
        wkid: wkid.map(|wkid| wkid.to_string()),
        mechanisms: unit.mechanisms,
        problem: unit.problem.map(|text| printable(&text)),
    }
}
