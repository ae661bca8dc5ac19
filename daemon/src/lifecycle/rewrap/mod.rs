//! Rewraps the keys of a backend by the next master key.

mod next;

use std::collections::HashMap;
use std::sync::Arc;

use keyward_proto::Label;
use keyward_unit::Wkid;
use tokio::task::JoinSet;

use super::details::Act;
use super::event::{Action, Actor, begin};
use super::unit::blocking;
use super::{Error, audit_key, next_start};
use crate::backend::{Backend, Embedded};
use crate::config::EMBEDDED;
use crate::daemon::{Daemon, key_material};
use crate::keys::{Key, StoreError, Version};

/// The outcome of rewrapping some keys of a backend.
#[derive(Debug)]
pub(crate) struct Rewrapped {
    /// Number of keys that were read, of every backend.
    pub(crate) looked_at: u64,
    /// Number of keys of the backend among these.
    pub(crate) keys: u64,
    /// Number of blobs that were wrapped by this call.
    pub(crate) wrapped: u64,
    /// Label to pass as `after` for the next keys; none after the last key.
    pub(crate) next: Option<String>,
}

/// The outcome of putting the next master key of a backend in force.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Master key that is in force now.
    pub(crate) wkid: Wkid,
    /// Number of keys whose old blobs were deleted.
    pub(crate) keys: u64,
}

/// Wraps the next keys, from the first label after `after`, by the next master key. Skips versions
/// that are wrapped already, so an interrupted run can start again at any label.
///
/// # Errors
/// [`Error`] says why there is no next master key, or which unit has failed.
pub(crate) async fn rewrap(
    daemon: &Daemon,
    actor: Actor,
    name: &str,
    after: Option<String>,
) -> Result<Rewrapped, Error> {
    let begun = begin(daemon, actor, Action::Rewrap, None).await?;
    let done = begun.result(rewrap_some(daemon, name, after).await).await?;
    let Rewrapped { keys, wrapped, .. } = done;
    begun.done(Act::Rewrap { backend: name, keys, wrapped }, None).await?;
    Ok(done)
}

async fn rewrap_some(daemon: &Daemon, name: &str, after: Option<String>) -> Result<Rewrapped, Error> {
    let backend = backend(daemon, name)?;
    let old = present(daemon, name).await?;
    let listed = daemon.keys.list(after, BATCH).await?;
    let next = (listed.len() == BATCH).then(|| listed.last().map(|key| key.label().to_string())).flatten();
    let looked_at = listed.len() as u64;
    // Altered keys are found again when the rewrapping is finished.
    let mut keys: Vec<_> = listed.into_iter().filter_map(|listed| listed.key().ok()).collect();
    keys.retain(|key| key.backend == name);
    let new = next::of_keys(backend, &keys, old).await?;
    if let Some(new) = new.filter(|new| *new != old)
        && daemon.keys.next_wkid(name).await? != Some(new)
    {
        daemon.keys.set_next_wkid(name, new).await?;
    }
    let mut done = Rewrapped { looked_at, keys: keys.len() as u64, wrapped: 0, next };
    if new == Some(old) {
        // The key store names the next master key already: the change was interrupted at its end.
        return Ok(done);
    }
    for key in keys {
        done.wrapped += rewrap_key(daemon, backend, key, old, new).await?;
    }
    audit_key::rewrap(daemon, backend, new).await?;
    Ok(done)
}

/// Wraps the versions of a key that are not wrapped yet. Returns the number of these versions.
async fn rewrap_key(
    daemon: &Daemon,
    backend: &Backend,
    key: Key,
    old: Wkid,
    new: Option<Wkid>,
) -> Result<u64, Error> {
    let is_ready = |version: &Version| {
        let by_new = |blob: &[u8]| new.is_none_or(|new| is_wrapped_by(backend, blob, new));
        !is_wrapped_by(backend, &version.blob, old) || version.next_blob.as_deref().is_some_and(by_new)
    };
    let (mut key, mut next_blobs, mut wrapped) = (Arc::new(key), HashMap::new(), 0);
    loop {
        let before = next_blobs.len();
        for version in key.versions.iter().filter(|version| !is_ready(version)) {
            if !next_blobs.contains_key(&version.blob) {
                next_blobs.insert(version.blob.clone(), backend.rewrap(&version.blob, new).await?);
            }
        }
        if next_blobs.len() == before {
            return Ok(wrapped);
        }
        match daemon.keys.update(&key.label, |key| Ok(set_next(key, &next_blobs))).await {
            // Another caller may have added a version in the meantime.
            Ok((stored, set)) => (key, wrapped) = (stored, set),
            Err(StoreError::Unknown(_)) => return Ok(wrapped),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Gives the versions with these blobs their next blobs. Returns the number of these versions.
fn set_next(key: &mut Key, next_blobs: &HashMap<Vec<u8>, Vec<u8>>) -> u64 {
    let mut set = 0;
    for version in &mut key.versions {
        if let Some(next) = next_blobs.get(&version.blob) {
            version.next_blob = Some(next.clone());
            set += 1;
        }
    }
    set
}

/// Puts the next master key of a backend in force, and deletes the old blobs. Refuses while a key
/// or a unit does not have the next master key.
///
/// # Errors
/// [`Error`] says which keys or units are not ready.
pub(crate) async fn finish_rewrap(daemon: &Arc<Daemon>, actor: Actor, name: &str) -> Result<Finished, Error> {
    if name == EMBEDDED && daemon.backends.embedded().is_some_and(Embedded::is_owned) {
        return Err(Error::OwnersActivate);
    }
    let begun = begin(daemon, actor, Action::FinishRewrap, None).await?;
    let done = begun.result(finish_unowned(daemon, name).await).await?;
    let Finished { wkid, keys } = done;
    begun.done(Act::FinishRewrap { backend: name, wkid, keys }, None).await?;
    Ok(done)
}

/// Puts the next master key of a backend in force, whose embedded unit nobody owns.
async fn finish_unowned(daemon: &Arc<Daemon>, name: &str) -> Result<Finished, Error> {
    let locked = lock(daemon, name).await?;
    if name == EMBEDDED {
        next_start::refuse_to_lose(daemon).await?;
    }
    let finished = finish(daemon, name, &locked).await?;
    if let Some(embedded) = daemon.backends.embedded().filter(|_| name == EMBEDDED) {
        let custodian = Arc::clone(embedded.custodian());
        blocking(move || custodian.activate_next_master_key()).await?;
    }
    Ok(finished)
}

/// The right to change the master key of a backend. Nobody else changes the master key meanwhile,
/// and no key is made, because nobody would check whether the key is ready.
pub(super) type Locked<'a> = tokio::sync::RwLockWriteGuard<'a, ()>;

/// Waits for the right to change the master key of a backend.
///
/// # Errors
/// [`Error::UnknownBackend`] if there is no such backend.
pub(super) async fn lock<'a>(daemon: &'a Daemon, name: &str) -> Result<Locked<'a>, Error> {
    Ok(backend(daemon, name)?.master_key_lock().write().await)
}

/// Refuses to change a master key while keys are missing that were here before: no check would see
/// that they need the old master key.
///
/// # Errors
/// [`Error::StoreIncomplete`].
pub(super) async fn refuse_incomplete_store(daemon: &Daemon) -> Result<(), Error> {
    match daemon.keys.problem().await {
        None => Ok(()),
        Some(problem) => Err(Error::StoreIncomplete(problem)),
    }
}

/// Refuses to give up the next master key of the embedded unit if it wraps anything alone: the blob
/// of a key, of the audit key, or the store key. Then the change can only be finished.
///
/// # Errors
/// [`Error::StoreNeedsNew`], or the reason why the keys cannot be read.
pub(super) async fn refuse_to_give_up(daemon: &Daemon, new: Wkid, _: &Locked<'_>) -> Result<(), Error> {
    refuse_incomplete_store(daemon).await?;
    let backend = backend(daemon, EMBEDDED)?;
    let is_gone = |blob: &[u8]| is_wrapped_by(backend, blob, new);
    let needs_new = daemon.keys.master_key().await? == Some(new)
        || audit_key::blob(daemon, backend).await?.is_some_and(|blob| is_gone(&blob))
        || keys_of(daemon, EMBEDDED)
            .await?
            .iter()
            .flat_map(|key| &key.versions)
            .any(|one| is_gone(&one.blob));
    if needs_new { Err(Error::StoreNeedsNew) } else { Ok(()) }
}

/// Refuses to empty a register in the middle of a change that has begun to end: keys need both
/// master keys. Works while the store is locked.
///
/// # Errors
/// [`Error::StoreNeedsNew`], or the reason why the keys cannot be read.
pub(super) async fn refuse_to_cut_off(daemon: &Daemon, new: Wkid, _: &Locked<'_>) -> Result<(), Error> {
    let backend = backend(daemon, EMBEDDED)?;
    let mut after = None;
    loop {
        let page = daemon.keys.look_at_list(after, BATCH).await?;
        after = page.last().map(|listed| listed.label().to_string());
        let last = page.len() < BATCH;
        let keys = page.into_iter().filter_map(|listed| listed.key().ok());
        let mut blobs = keys.filter(|key| key.backend == EMBEDDED).flat_map(|key| key.versions);
        if blobs.any(|version| is_wrapped_by(backend, &version.blob, new)) {
            return Err(Error::StoreNeedsNew);
        }
        if last {
            return Ok(());
        }
    }
}

/// Puts the next master key in force as [`finish_rewrap`] does, within another act. After an
/// interruption, does the rest.
///
/// # Errors
/// [`Error`] says which keys or units are not ready.
pub(super) async fn finish(daemon: &Arc<Daemon>, name: &str, _: &Locked<'_>) -> Result<Finished, Error> {
    refuse_incomplete_store(daemon).await?;
    let backend = backend(daemon, name)?;
    let old = present(daemon, name).await?;
    let keys = keys_of(daemon, name).await?;
    if daemon.keys.altered().total() > 0 {
        return Err(Error::StoreAltered);
    }
    let units = next::Units::probe(backend).await?;
    let new = units.next(&keys, old)?;
    // The keys first: they can only be wrapped while a unit has the old master key.
    refuse_old_keys(backend, &keys, new)?;
    units.refuse_others(new)?;
    prove_next(daemon, name, &keys).await?;
    for key in &keys {
        replace_blobs(daemon, backend, key, new).await?;
    }
    audit_key::replace_blob(daemon, backend, new).await?;
    let store_key = next::store_key(daemon, backend, new).await?;
    daemon.keys.set_wkid(name, new, store_key).await?;
    Ok(Finished { wkid: new, keys: keys.len() as u64 })
}

fn refuse_old_keys(backend: &Backend, keys: &[Key], new: Wkid) -> Result<(), Error> {
    let is_ready =
        |version: &Version| is_wrapped_by(backend, version.next_blob.as_ref().unwrap_or(&version.blob), new);
    let old = keys.iter().filter(|key| !key.versions.iter().all(is_ready));
    let labels: Vec<Label> = old.map(|key| key.label.clone()).collect();
    match labels.is_empty() {
        true => Ok(()),
        false => Err(Error::NotRewrapped { backend: backend.name().into(), labels }),
    }
}

/// All keys of a backend. An altered key of any backend is an error: that key could be of this
/// backend.
async fn keys_of(daemon: &Daemon, backend: &str) -> Result<Vec<Key>, StoreError> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = daemon.keys.list(after, BATCH).await?;
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

/// Proves the next blob of each version, [`PROOFS`] versions at a time.
async fn prove_next(daemon: &Arc<Daemon>, name: &str, keys: &[Key]) -> Result<(), Error> {
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
            let (daemon, name) = (Arc::clone(daemon), name.to_owned());
            proofs.spawn(async move {
                let proved = match daemon.backends.get(&name) {
                    Some(backend) => backend.prove_next(key_material(&version), &uses).await,
                    None => Ok(()),
                };
                (label, proved)
            });
        }
        match proofs.join_next().await {
            None => return Ok(()),
            Some(Ok((_, Ok(())))) => {}
            Some(Ok((label, Err(reason)))) => return Err(Error::Proof { label, reason }),
            Some(Err(_)) => return Err(Error::ProofGivenUp),
        }
    }
}

/// Replaces the blobs of a key by its next blobs. Does not change a version that another caller has
/// added in the meantime.
async fn replace_blobs(daemon: &Daemon, backend: &Backend, key: &Key, new: Wkid) -> Result<(), StoreError> {
    let is_next = |next: &[u8]| is_wrapped_by(backend, next, new);
    if !key.versions.iter().any(|version| version.next_blob.as_deref().is_some_and(is_next)) {
        return Ok(());
    }
    let replace = |key: &mut Key| {
        for version in &mut key.versions {
            if let Some(next) = version.next_blob.take_if(|next| is_next(next)) {
                version.blob = next;
            }
        }
        Ok(())
    };
    match daemon.keys.update(&key.label, replace).await {
        Ok(_) | Err(StoreError::Unknown(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_wrapped_by(backend: &Backend, blob: &[u8], wkid: Wkid) -> bool {
    backend.master_key_of(blob) == Some(wkid)
}

fn backend<'a>(daemon: &'a Daemon, name: &str) -> Result<&'a Backend, Error> {
    let backend = daemon.backends.get(name);
    backend.ok_or_else(|| Error::UnknownBackend { name: name.into(), known: String::new() })
}

/// Master key that wraps the keys of a backend.
async fn present(daemon: &Daemon, name: &str) -> Result<Wkid, Error> {
    daemon.keys.wkid(name).await?.ok_or_else(|| Error::BackendWithoutKeys(name.into()))
}

/// Number of versions that are proved at a time.
const PROOFS: usize = 16;
/// Number of keys that one call reads, so that the caller has an answer soon.
const BATCH: usize = 50;
