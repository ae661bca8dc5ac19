//! Keys of a backend on their way to another master key.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use keyward_unit::{Header, Wkid};
use tokio::task::JoinSet;

use super::{Admin, AdminError, Administrator, Answer};
use crate::admin::api::{Finished, Rewrapped};
use crate::backend::grep11::{Breaker, Grep11, Grep11Error, Status, Unit};
use crate::backend::{Backend, BackendError, Embedded};
use crate::config::Endpoint;
use crate::ground::master_key;
use crate::keys::{Key, StoreError, Version};

/// Wraps the keys of some labels by the master key that is to come. Those that are wrapped already
/// are left alone, so this may be broken off and begun again at any time.
pub(super) async fn rewrap(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Answer<Rewrapped> {
    let backend = backend(&admin, &name)?;
    let mut after = None;
    for (parameter, value) in query {
        match parameter.as_str() {
            "after" => after = Some(value),
            _ => return Err(AdminError::Invalid(format!("unknown parameter {parameter}"))),
        }
    }
    let old = settled(&admin, &name).await?;
    let listed = admin.daemon.keys.list(after, BATCH).await?;
    let next = (listed.len() == BATCH).then(|| listed.last().map(|key| key.label().to_string())).flatten();
    let looked_at = listed.len() as u64;
    // The others are found again when the rewrapping is to be finished.
    let mut keys: Vec<_> = listed.into_iter().filter_map(|listed| listed.key().ok()).collect();
    keys.retain(|key| key.backend == name);
    let coming = coming(&admin, backend, &keys, &old).await?;
    if coming.is_some() && coming != admin.daemon.keys.next_wkid(&name).await? {
        admin.daemon.keys.set_next_wkid(&name, coming.clone().unwrap_or_default()).await?;
    }
    let is_ready = |version: &Version| {
        let by_coming = |blob| coming.as_ref().is_none_or(|coming| is_wrapped_by(blob, coming));
        !is_wrapped_by(&version.blob, &old) || version.next_blob.as_deref().is_some_and(by_coming)
    };
    let mut done = Rewrapped { looked_at, keys: keys.len() as u64, wrapped: 0, next };
    for mut key in keys {
        loop {
            let mut wrapped = 0;
            for version in key.versions.iter_mut().filter(|version| !is_ready(version)) {
                let to = coming.as_ref().and_then(|coming| coming.parse().ok());
                let blob = backend.rewrap(&version.blob, to).await?;
                version.next_blob = Some(blob);
                wrapped += 1;
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

/// The master key that is to come, which a blob must be wrapped to find out: it may be another one
/// than when some of the keys were. `None` if there is nothing to wrap.
async fn coming(
    admin: &Admin,
    backend: &Backend,
    keys: &[Key],
    old: &str,
) -> Result<Option<String>, AdminError> {
    match backend {
        Backend::Embedded(embedded) => next_of(admin, embedded, old).map(Some),
        Backend::Grep11(grep11) => {
            Ok(coming_at_units(grep11, keys, old).await.map_err(BackendError::from)?)
        }
    }
}

/// The master key that the embedded unit is to have: the one that is configured now, for the next
/// start must find it.
fn next_of(admin: &Admin, embedded: &Embedded, old: &str) -> Result<String, AdminError> {
    let unit = embedded.unit().map_err(BackendError::from)?;
    let configured = admin.daemon.config().embedded.next_master_key.clone();
    let next = master_key::load_next(configured.as_deref());
    let next = next.map_err(|error| AdminError::Invalid(error.to_string()))?;
    let Some(next) = next else {
        return Err(AdminError::Invalid(format!(
            "no other master key than {old} is configured; name the file of the new one as next-master-key in section [embedded] of the configuration, and reload the daemon"
        )));
    };
    let wkid = next.wkid();
    if wkid.to_string() == old {
        return Err(AdminError::Invalid(format!(
            "the keys have the master key of next-master-key, {old}, already; name its file as master-key, and take next-master-key out of the configuration"
        )));
    }
    match wkid == unit.wkid() || unit.accept(next) {
        true => Ok(wkid.to_string()),
        false => Err(AdminError::Invalid(format!(
            "the daemon cannot take a third master key, {wkid}: restart it, with the file of {old} as master-key"
        ))),
    }
}

async fn coming_at_units(grep11: &Grep11, keys: &[Key], old: &str) -> Result<Option<String>, Grep11Error> {
    let versions = keys.iter().flat_map(|key| &key.versions);
    let by_old: Vec<_> = versions.filter(|version| is_wrapped_by(&version.blob, old)).collect();
    let Some(first) = by_old.first() else { return Ok(None) };
    match grep11.rewrap(&first.blob).await {
        Ok(blob) => Ok(Header::read(&blob).map(|header| header.wkid().to_string())),
        Err(error) => {
            // It may be in force already, so that no unit can wrap anything by it any more.
            let in_force = |wkid: &str| {
                grep11.units().map(Unit::status).any(|status| {
                    status.breaker != Breaker::Open && status.wkid.is_some_and(|own| own.to_string() == wkid)
                })
            };
            let next = by_old
                .first()
                .and_then(|version| Some(Header::read(version.next_blob.as_ref()?)?.wkid().to_string()));
            let next = next.filter(|next| in_force(next));
            let done = |version: &&&Version| {
                next.as_ref().is_some_and(|next| {
                    version.next_blob.as_ref().is_some_and(|blob| is_wrapped_by(blob, next))
                })
            };
            if by_old.iter().filter(done).count() == by_old.len() { Ok(next) } else { Err(error) }
        }
    }
}

/// Puts the master key in force that is to come: refuses while a key or a unit is left behind, then
/// gives up the old blobs.
pub(super) async fn finish(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(name): Path<String>,
) -> Answer<Finished> {
    let backend = backend(&admin, &name)?;
    // From here on no key is made that nobody has looked at.
    let _settling = backend.settling().write().await;
    let old = settled(&admin, &name).await?;
    let keys = keys_of(&admin, &name).await?;
    if admin.daemon.keys.altered().total() > 0 {
        return Err(AdminError::LeftBehind(
            "the key store was altered, and keys that nobody can list may be left behind; see keyward key list, then: keyward key repair".into(),
        ));
    }
    let (new, units) = match backend {
        Backend::Embedded(embedded) => (next_of(&admin, embedded, &old)?, Vec::new()),
        Backend::Grep11(grep11) => {
            grep11.look().await;
            let units: Vec<_> = grep11.units().map(|unit| (&unit.endpoint, unit.status())).collect();
            (new_at_units(&name, &keys, &units, &old)?, units)
        }
    };

    // First the keys, for they can only be wrapped as long as a unit has the old master key.
    let is_ready = |version: &Version| {
        let blob = version.next_blob.as_ref().unwrap_or(&version.blob);
        is_wrapped_by(blob, &new)
    };
    let left: Vec<_> = (keys.iter())
        .filter(|key| !key.versions.iter().all(is_ready))
        .map(|key| key.label.as_str())
        .collect();
    if !left.is_empty() {
        let more =
            if left.len() > SHOWN { format!(" and {} more", left.len() - SHOWN) } else { String::new() };
        return Err(AdminError::LeftBehind(format!(
            "not wrapped by the new master key: {}{more}; have that done by a unit that has the old one: keyward key rewrap --backend {name}",
            left[..left.len().min(SHOWN)].join(", ")
        )));
    }
    if let Backend::Grep11(_) = backend {
        refuse_units_behind(&name, &units, &new)?;
    }
    // The old blobs go only when the new ones have signed.
    prove_next(&admin, &name, &keys).await?;
    let count = keys.len() as u64;
    for key in keys {
        settle_on_next(&admin, key, &new).await?;
    }
    let store_key = store_key(&admin, backend, &new).await?;
    admin.daemon.keys.set_wkid(&name, new.clone(), store_key).await?;
    tracing::info!(backend = name, wkid = new, keys = count, uid = who.uid, "keys have another master key");
    Ok(Json(Finished { backend: name, wkid: new, keys: count }))
}

/// The master key that is to come, as keys and units have it.
fn new_at_units(
    name: &str,
    keys: &[Key],
    units: &[(&Endpoint, Status)],
    old: &str,
) -> Result<String, AdminError> {
    // Where all keys have been settled, or there are none, the units say what it is.
    let blobs = keys.iter().flat_map(|key| &key.versions).filter_map(|version| version.next_blob.as_deref());
    let wrapped_by = |blob| Header::read(blob).map(|header| header.wkid().to_string());
    let in_force = || units.iter().find_map(|(_, status)| in_force(status).filter(|wkid| wkid != old));
    blobs.filter_map(wrapped_by).next().or_else(in_force).ok_or_else(|| {
        AdminError::LeftBehind(format!(
            "nothing is wrapped by another master key than {old}, and no unit has one; begin with: keyward key rewrap --backend {name}"
        ))
    })
}

/// Refuses as long as a unit has another master key than the new one, or none is known to have it.
fn refuse_units_behind(name: &str, units: &[(&Endpoint, Status)], new: &str) -> Result<(), AdminError> {
    let other = |status: &Status| status.wkid.map(|wkid| wkid.to_string()).filter(|wkid| *wkid != new);
    let behind: Vec<_> = (units.iter())
        .filter_map(|(endpoint, status)| Some(format!("{endpoint} has {}", other(status)?)))
        .collect();
    if !behind.is_empty() {
        return Err(AdminError::LeftBehind(format!(
            "units do not have the new master key {new}: {}; put it in force there first",
            behind.join(", ")
        )));
    }
    if !units.iter().any(|(_, status)| in_force(status).as_deref() == Some(new)) {
        return Err(AdminError::LeftBehind(format!(
            "no unit of backend {name} is in order, so it is not known to have the new master key {new}"
        )));
    }
    Ok(())
}

/// The master key of a unit that is in order.
fn in_force(status: &Status) -> Option<String> {
    status.wkid.filter(|_| status.breaker != Breaker::Open).map(|wkid| wkid.to_string())
}

/// The store key as the new master key of the embedded unit wraps it.
async fn store_key(admin: &Admin, backend: &Backend, new: &str) -> Result<Option<Vec<u8>>, AdminError> {
    let Backend::Embedded(embedded) = backend else { return Ok(None) };
    let (Some(wrapped), Ok(new)) = (admin.daemon.keys.wrapped_store_key().await?, new.parse()) else {
        return Ok(None);
    };
    let unit = embedded.unit().map_err(BackendError::from)?;
    Ok(Some(unit.rewrap_store_key(&wrapped, new).map_err(BackendError::from)?))
}

/// All keys of a backend. None of any backend may have been altered, for it could be of this one.
async fn keys_of(admin: &Admin, backend: &str) -> Result<Vec<Key>, StoreError> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = admin.daemon.keys.list(after, BATCH).await?;
        after = page.last().map(|listed| listed.label().to_string());
        let last = page.len() < BATCH;
        for listed in page {
            keys.extend(Some(listed.key()?).filter(|key| key.backend == backend));
        }
        if last {
            return Ok(keys);
        }
    }
}

/// Has each key prove the blob that it is to have, some at a time.
async fn prove_next(admin: &Admin, name: &str, keys: &[Key]) -> Result<(), AdminError> {
    let mut proofs = JoinSet::new();
    let mut waiting = Vec::new();
    for key in keys {
        waiting.extend(
            key.versions.iter().map(|version| (key.label.clone(), version.clone(), key.uses.clone())),
        );
    }
    loop {
        while proofs.len() < PROOFS {
            let Some((label, version, uses)) = waiting.pop() else { break };
            let (daemon, name) = (Arc::clone(&admin.daemon), name.to_owned());
            proofs.spawn(async move {
                let backend = daemon.backends.get(&name);
                let proved = match backend {
                    Some(backend) => backend.prove_next(&version, &uses).await,
                    None => Ok(()),
                };
                (label, proved)
            });
        }
        match proofs.join_next().await {
            None => return Ok(()),
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((label, Err(error)))) => {
                return Err(AdminError::LeftBehind(format!(
                    "key {label} does not sign with what the new master key has wrapped, so the old is kept: {error}"
                )));
            }
            Some(Err(_)) => return Err(AdminError::LeftBehind("a proof was given up; run it again".into())),
        }
    }
}

async fn settle_on_next(admin: &Admin, mut key: Key, new: &str) -> Result<(), StoreError> {
    loop {
        let mut changed = false;
        for version in &mut key.versions {
            // One that somebody has brought in meanwhile stays what it is.
            if let Some(next) = version.next_blob.take_if(|next| is_wrapped_by(next, new)) {
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

fn is_wrapped_by(blob: &[u8], wkid: &str) -> bool {
    Header::read(blob).is_some_and(|header| header.wkid().to_string() == wkid)
}

fn backend<'a>(admin: &'a Admin, name: &str) -> Result<&'a Backend, AdminError> {
    let backend = admin.daemon.backends.get(name);
    backend.ok_or_else(|| AdminError::Invalid(format!("there is no backend {name:?}")))
}

/// The master key that the keys of a backend are wrapped by.
async fn settled(admin: &Admin, name: &str) -> Result<String, AdminError> {
    let wkid = admin.daemon.keys.wkid(name).await?;
    let wkid = wkid.filter(|wkid| wkid.parse::<Wkid>().is_ok());
    wkid.ok_or_else(|| AdminError::Invalid(format!("backend {name} has no keys")))
}

/// So many keys are proved at a time.
const PROOFS: usize = 16;
/// So many labels are told of those that are left behind.
const SHOWN: usize = 5;
/// So many keys are looked at by one request, which is answered before anybody loses patience.
const BATCH: usize = 50;
