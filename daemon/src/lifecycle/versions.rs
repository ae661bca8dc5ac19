//! Versions of keys: the first version, and versions that replace it as the current version.

use std::sync::Arc;

use keyward_proto::{Fingerprint, KeyType, Label, Use};
use keyward_unit::NewKey;

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use super::life::check;
use super::placement::Placement;
use super::uses::check_uses;
use crate::daemon::Daemon;
use crate::keys::{Key, Life, State, StoreError, Verb, Version, now};

/// Generates a new version of a key, which becomes the current version.
///
/// # Errors
/// [`Error`] says why the key cannot have another version, or why the unit has made no key.
pub(crate) async fn rotate(daemon: &Daemon, actor: Actor, label: &Label) -> Result<Arc<Key>, Error> {
    make(daemon, actor, label, true).await.map(|(key, _)| key)
}

/// Generates a new version of a key. Returns its number.
async fn make(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    is_current: bool,
) -> Result<(Arc<Key>, u32), Error> {
    let key = daemon.keys.get(label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    check(&key, Verb::AddVersion)?;
    let key_type = key.version(0).map(|version| version.key_type);
    let key_type = key_type.filter(|known| KeyType::GENERATED.contains(known));
    let key_type = key_type.ok_or_else(|| Error::NotGenerated(label.clone()))?;
    refuse_full(&key)?;
    let placement = Placement::of(daemon, Some(&key.backend)).await?;
    let begun = begin(daemon, actor, Action::Rotate, Some(label)).await?;
    let made = begun.result(placement.backend.generate(key_type, &key.uses, placement.wkid).await).await?;
    let (key, number) = begun.result(add(daemon, &key, &made, is_current).await).await?;
    begun.done(Act::Rotate, Some(number)).await?;
    Ok((key, number))
}

/// Generates a new version of a key, which does not become the current version yet. Returns its
/// number.
///
/// # Errors
/// The errors of [`rotate`].
pub(super) async fn prepare(daemon: &Daemon, actor: Actor, label: &Label) -> Result<(Arc<Key>, u32), Error> {
    make(daemon, actor, label, false).await
}

/// Makes a version the current version.
///
/// # Errors
/// [`Error`] says why the key cannot have another version.
pub(super) async fn promote(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    number: u32,
) -> Result<Arc<Key>, Error> {
    let begun = begin(daemon, actor, Action::Rotate, Some(label)).await?;
    let promote = |key: &mut Key| {
        check(key, Verb::AddVersion)?;
        let label = || key.label.clone();
        if key.version(number).is_none() {
            return Err(Error::NoVersion { label: label(), number });
        }
        key.current = number;
        Ok(())
    };
    let promoted = daemon.keys.update(label, promote).await.map(|(key, ())| key);
    let key = begun.result(promoted).await?;
    begun.done(Act::Rotate, Some(number)).await?;
    Ok(key)
}

/// Imports the private key in a file as the current version of a key, which keeps its uses.
///
/// # Errors
/// [`Error`] says why the file is not a private key, or why the key cannot have this version.
pub(crate) async fn import_version(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    file: impl AsRef<[u8]> + Send + 'static,
) -> Result<Arc<Key>, Error> {
    let key = daemon.keys.get(label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    check(&key, Verb::AddVersion)?;
    refuse_full(&key)?;
    let placement = Placement::of(daemon, Some(&key.backend)).await?;
    let begun = begin(daemon, actor, Action::Import, Some(label)).await?;
    let made = begun.result(placement.backend.import(file, &key.uses, placement.wkid).await).await?;
    begun.result(check_import(&key, &made)).await?;
    let (key, _) = begun.result(add(daemon, &key, &made, true).await).await?;
    begun.done(Act::Import(&key), Some(key.current)).await?;
    Ok(key)
}

/// Refuses a private key that cannot be a version of a key.
fn check_import(key: &Key, made: &NewKey) -> Result<(), Error> {
    // The actor who gave the key these uses has accepted them.
    check_uses(&key.uses, made.key_type, true)?;
    match key.versions.iter().find(|version| version.spki == made.spki) {
        Some(known) => Err(Error::SameKey { label: key.label.clone(), number: known.number }),
        None => Ok(()),
    }
}

/// A new key with its first version.
pub(super) fn first(label: Label, uses: Vec<Use>, backend: &str, made: &NewKey) -> Key {
    let version = version(1, made);
    Key {
        label,
        state: State::Enabled,
        life: Life::default(),
        uses,
        backend: backend.into(),
        current: version.number,
        versions: vec![version],
        revision: 0,
        unverified: false,
    }
}

/// Stores a private key that was made for `key` as its newest version. Returns the number.
async fn add(daemon: &Daemon, key: &Key, made: &NewKey, is_current: bool) -> Result<(Arc<Key>, u32), Error> {
    let blob = |key: &Key| key.versions.first().map(|version| version.blob.clone());
    let add = |now: &mut Key| {
        // With other uses, the key would have other attributes at the unit.
        if now.uses != key.uses || blob(now) != blob(key) {
            return Err(StoreError::Changed(key.label.clone()).into());
        }
        check(now, Verb::AddVersion)?;
        refuse_full(now)?;
        let number = now.versions.last().map_or(0, |version| version.number) + 1;
        if is_current {
            now.current = number;
        }
        now.versions.push(version(number, made));
        Ok::<_, Error>(number)
    };
    daemon.keys.update(&key.label, add).await
}

/// Refuses another version of a key that has as many versions as a key can have.
fn refuse_full(key: &Key) -> Result<(), Error> {
    match key.versions.len() < MAX_VERSIONS {
        true => Ok(()),
        false => Err(Error::ManyVersions { label: key.label.clone(), most: MAX_VERSIONS }),
    }
}

/// A version that was made just now.
fn version(number: u32, made: &NewKey) -> Version {
    Version {
        number,
        key_type: made.key_type,
        blob: made.blob.clone(),
        next_blob: None,
        fingerprint: Fingerprint::of(&made.spki),
        spki: made.spki.clone(),
        created: now(),
        certificates: Vec::new(),
    }
}

/// Maximum number of versions of a key. All versions are in memory while the key is used.
const MAX_VERSIONS: usize = 1000;
