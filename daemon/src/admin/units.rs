//! Units: how they are, and the keys of a backend on their way to another master key.

use axum::Extension;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use keyward_grep11::ckm;
use keyward_unit::{Header, Wkid};

use super::{Admin, AdminError, Administrator, Answer};
use crate::api::{BackendView, Finished, Rewrapped, UnitView};
use crate::backend::grep11::{Breaker, Grep11};
use crate::backend::{Backend, BackendError};
use crate::daemon::Daemon;
use crate::keys::{Key, StoreError};

/// 200 if every backend could sign now.
pub(super) async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    let unready = admin.daemon.backends.iter().filter(|backend| !backend.is_ready());
    let unready: Vec<_> =
        unready.map(|backend| format!("no unit of backend {} is in order\n", backend.name())).collect();
    match unready.is_empty() {
        true => (StatusCode::OK, "ready\n".into()),
        false => (StatusCode::SERVICE_UNAVAILABLE, unready.concat()),
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
                Backend::Embedded(unit) => Some(unit.wkid().to_string()),
                Backend::Grep11(_) => daemon.keys.wkid(backend.name()).await?,
            },
            ready: backend.is_ready(),
        });
    }
    Ok(views)
}

pub(super) async fn list(State(admin): State<Admin>) -> Answer<Vec<UnitView>> {
    let mut views = Vec::new();
    for backend in admin.daemon.backends.iter() {
        match backend {
            Backend::Embedded(unit) => views.push(UnitView {
                backend: backend.name().into(),
                address: "in this process".into(),
                health: "up".into(),
                breaker: None,
                latency_us: None,
                in_flight: None,
                calls: None,
                failures: None,
                wkid: Some(unit.wkid().to_string()),
                other_master_key: false,
                mechanisms: Vec::new(),
                problem: None,
            }),
            Backend::Grep11(grep11) => {
                let settled = admin.daemon.keys.wkid(backend.name()).await?;
                views.extend(grep11.units().map(|unit| {
                    let status = unit.status();
                    let wkid = status.wkid.map(|wkid| wkid.to_string());
                    UnitView {
                        backend: backend.name().into(),
                        address: unit.endpoint.to_string(),
                        health: match status.breaker {
                            Breaker::Closed(_) => "up",
                            Breaker::HalfOpen(_) => "trying",
                            Breaker::Open => "down",
                        }
                        .into(),
                        breaker: Some(status.breaker.name().into()),
                        latency_us: u64::try_from(status.latency.as_micros()).ok(),
                        in_flight: Some(status.in_flight),
                        calls: Some(status.calls),
                        failures: Some(status.failures),
                        other_master_key: settled.is_some() && wkid.is_some() && settled != wkid,
                        wkid,
                        mechanisms: status.mechanisms.iter().map(|number| mechanism(*number)).collect(),
                        problem: status.problem.or_else(|| grep11.tokens().problem()),
                    }
                }));
            }
        }
    }
    Ok(Json(views))
}

fn mechanism(number: u64) -> String {
    ckm::name(number).map_or_else(|| format!("{number:#x}"), str::to_owned)
}

/// Wraps the keys of some labels by the master key that is to come. Those that are wrapped already are left alone,
/// so this may be broken off and begun again at any time.
pub(super) async fn rewrap(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Rewrapped> {
    let grep11 = remote(&admin, &name)?;
    let mut after = None;
    for (parameter, value) in query {
        match parameter.as_str() {
            "after" => after = Some(value),
            _ => return Err(AdminError::Invalid(format!("unknown parameter {parameter}"))),
        }
    }
    let old = settled(&admin, &name).await?;
    let keys = admin.daemon.keys.list(after, BATCH).await?;
    let next = (keys.len() == BATCH).then(|| keys.last().map(|key| key.label.to_string())).flatten();
    let mut done = Rewrapped { looked_at: keys.len() as u64, keys: 0, wrapped: 0, next };
    for mut key in keys.into_iter().filter(|key| key.backend == name) {
        done.keys += 1;
        loop {
            let mut wrapped = 0;
            for version in &mut key.versions {
                if version.next_blob.is_none() && is_wrapped_by(&version.blob, &old) {
                    let blob = grep11.rewrap(&version.blob).await.map_err(BackendError::from)?;
                    version.next_blob = Some(blob);
                    wrapped += 1;
                }
            }
            if wrapped == 0 {
                break;
            }
            let label = key.label.clone();
            match admin.daemon.keys.put(key).await {
                Ok(_) => {
                    done.wrapped += wrapped;
                    break;
                }
                // Someone changed it meanwhile; if he deleted it there is nothing left to do.
                Err(StoreError::Changed(_) | StoreError::Unknown(_)) => {
                    match admin.daemon.keys.get(&label).await? {
                        Some(changed) => key = (*changed).clone(),
                        None => break,
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(Json(done))
}

/// Puts the master key in force that is to come: refuses while a blob or a unit is left behind, then gives up the old
/// blobs.
pub(super) async fn finish_rewrap(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(name): Path<String>,
) -> Answer<Finished> {
    let grep11 = remote(&admin, &name)?;
    let old = settled(&admin, &name).await?;
    let behind: Vec<String> = (grep11.units())
        .filter(|unit| unit.status().wkid.is_some_and(|wkid| wkid.to_string() == old))
        .map(|unit| unit.endpoint.to_string())
        .collect();
    if !behind.is_empty() {
        return Err(AdminError::LeftBehind(format!(
            "units still have the old master key {old}: {}; put the new one in force there first",
            behind.join(", ")
        )));
    }
    // First look at everything, then change anything.
    let mut new: Option<String> = None;
    let mut left = Vec::new();
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = admin.daemon.keys.list(after, BATCH).await?;
        after = page.last().map(|key| key.label.to_string());
        let last = page.len() < BATCH;
        for key in page.into_iter().filter(|key| key.backend == name) {
            for version in &key.versions {
                match master_key_after(version.next_blob.as_deref(), &version.blob, &old) {
                    Some(wkid) if new.as_ref().is_none_or(|new| *new == wkid) => new = Some(wkid),
                    _ => left.push(key.label.to_string()),
                }
            }
            keys.push(key);
        }
        if last {
            break;
        }
    }
    left.dedup();
    if !left.is_empty() {
        let more = if left.len() > 5 { ", ..." } else { "" };
        return Err(AdminError::LeftBehind(format!(
            "{} keys are not wrapped by the new master key: {}{more}; run: keyward key rewrap --backend {name}",
            left.len(),
            left[..left.len().min(5)].join(", ")
        )));
    }
    let Some(new) = new.filter(|new| *new != old) else {
        return Err(AdminError::LeftBehind(format!(
            "no key of backend {name} is wrapped by a new master key"
        )));
    };
    let count = keys.len() as u64;
    for key in keys {
        settle_on_next(&admin, key).await?;
    }
    admin.daemon.keys.set_wkid(&name, new.clone()).await?;
    tracing::info!(backend = name, wkid = new, keys = count, uid = who.uid, "keys have another master key");
    Ok(Json(Finished { backend: name, wkid: new, keys: count }))
}

async fn settle_on_next(admin: &Admin, mut key: Key) -> Result<(), StoreError> {
    loop {
        let mut changed = false;
        for version in &mut key.versions {
            if let Some(next) = version.next_blob.take() {
                version.blob = next;
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        let label = key.label.clone();
        match admin.daemon.keys.put(key).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Changed(_) | StoreError::Unknown(_)) => {
                match admin.daemon.keys.get(&label).await? {
                    Some(changed) => key = (*changed).clone(),
                    None => return Ok(()),
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// The master key that a version will be wrapped by when the old one is no more; `None` if by none.
fn master_key_after(next: Option<&[u8]>, blob: &[u8], old: &str) -> Option<String> {
    let wkid = Header::read(next.unwrap_or(blob))?.wkid().to_string();
    (wkid != old).then_some(wkid)
}

fn is_wrapped_by(blob: &[u8], wkid: &str) -> bool {
    Header::read(blob).is_some_and(|header| header.wkid().to_string() == wkid)
}

fn remote<'a>(admin: &'a Admin, name: &str) -> Result<&'a Grep11, AdminError> {
    match admin.daemon.backends.get(name) {
        Some(Backend::Grep11(grep11)) => Ok(grep11),
        Some(Backend::Embedded(_)) => Err(AdminError::Invalid(
            "the master key of the embedded unit cannot be changed in this version".into(),
        )),
        None => Err(AdminError::Invalid(format!("there is no backend {name:?}"))),
    }
}

/// The master key that the keys of a backend are wrapped by.
async fn settled(admin: &Admin, name: &str) -> Result<String, AdminError> {
    let wkid = admin.daemon.keys.wkid(name).await?;
    let wkid = wkid.filter(|wkid| wkid.parse::<Wkid>().is_ok());
    wkid.ok_or_else(|| AdminError::Invalid(format!("backend {name} has no keys")))
}

/// So many keys are looked at by one request, which is answered before anybody loses patience.
const BATCH: usize = 50;
