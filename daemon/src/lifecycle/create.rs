//! New keys: generated, imported from a file, or adopted from another program.

use core::slice;
use std::sync::Arc;

use futures_util::future::join_all;
use keyward_proto::{KeyType, Label, Use};
use keyward_unit::NewKey;

use super::details::Act;
use super::event::{Action, Actor, Begun, begin};
use super::placement::Placement;
use super::uses::{check_uses, each_once};
use super::{Error, versions};
use crate::backend::BackendError;
use crate::daemon::Daemon;
use crate::keys::{Key, StoreError};

/// The properties of a new key that the actor chooses.
#[derive(Debug)]
pub(crate) struct KeySpec {
    pub(crate) label: Label,
    pub(crate) properties: Properties,
}

/// The properties that several new keys can have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties {
    /// The uses of the key; none stands for `tls-server`.
    pub(crate) uses: Vec<Use>,
    /// True if the actor accepts that one RSA key signs and decrypts.
    pub(crate) sign_and_decrypt: bool,
    /// The backend whose unit holds the key; none stands for the default backend.
    pub(crate) backend: Option<String>,
}

impl Properties {
    /// The properties with each use once.
    fn checked(self) -> Self {
        Self { uses: each_once(self.uses), ..self }
    }
}

/// Generates a key in a unit.
///
/// # Errors
/// [`Error`] says why the key cannot have these properties, or why the unit has made no key.
pub(crate) async fn generate(
    daemon: &Daemon,
    actor: Actor,
    spec: KeySpec,
    key_type: KeyType,
) -> Result<Arc<Key>, Error> {
    let KeySpec { label, properties } = spec;
    let all = generate_all(daemon, actor, slice::from_ref(&label), properties, key_type).await?;
    all.into_iter().next().unwrap_or(Err(StoreError::Unknown(label).into()))
}

/// Generates keys in a unit: one for each label, or the reason why there is none. They are on
/// record one by one, and wait for the unit and the disks together.
///
/// # Errors
/// [`Error`] says why no key can have these properties.
pub(crate) async fn generate_all(
    daemon: &Daemon,
    actor: Actor,
    labels: &[Label],
    properties: Properties,
    key_type: KeyType,
) -> Result<Vec<Result<Arc<Key>, Error>>, Error> {
    let properties = properties.checked();
    let mut placement = Placement::of(daemon, properties.backend.as_deref()).await?;
    check_uses(&properties.uses, key_type, properties.sign_and_decrypt)?;
    let (mut all, mut left) = (Vec::new(), labels);
    // The first key of a backend decides its master key, before other keys are made.
    if placement.wkid.is_none() && left.len() > 1 {
        let (first, others) = left.split_at(1);
        all = generate_some(daemon, actor, first, &properties, key_type, &placement).await;
        left = others;
        drop(placement);
        placement = Placement::of(daemon, properties.backend.as_deref()).await?;
    }
    for labels in left.chunks(placement.backend.at_a_time()) {
        all.extend(generate_some(daemon, actor, labels, &properties, key_type, &placement).await);
    }
    Ok(all)
}

async fn generate_some(
    daemon: &Daemon,
    actor: Actor,
    labels: &[Label],
    properties: &Properties,
    key_type: KeyType,
    placement: &Placement<'_>,
) -> Vec<Result<Arc<Key>, Error>> {
    let found = match daemon.keys.stored_all(labels.to_vec()).await {
        Ok(found) => found,
        Err(error) => return labels.iter().map(|_| Err(error.again().into())).collect(),
    };
    let begun = join_all(labels.iter().zip(found).map(async |(label, found)| {
        refuse_existing(label, found?.as_ref())?;
        begin(daemon, actor, Action::Generate, Some(label)).await
    }));
    let begun = begun.await;
    let count = begun.iter().filter(|begun| begun.is_ok()).count();
    let made = placement.backend.generate_all(key_type, &properties.uses, placement.wkid, count).await;
    let mut made = made.into_iter();
    let all = labels.iter().zip(begun).map(|(label, begun)| {
        // There is one for each act that has begun.
        let made = begun.is_ok().then(|| made.next().unwrap_or(Err(BackendError::GivenUp)));
        let spec = KeySpec { label: label.clone(), properties: properties.clone() };
        async move {
            let begun = begun?;
            let made = begun.result(made.unwrap_or(Err(BackendError::GivenUp))).await?;
            let key = add(&begun, daemon, spec, placement, &made).await?;
            begun.done(Act::Generate(&key), Some(key.current)).await?;
            Ok(key)
        }
    });
    join_all(all).await
}

/// Imports the private key in a file. The file is dropped as soon as the unit has wrapped the key.
///
/// # Errors
/// [`Error`] says why the file is not a private key, or why the key cannot have these properties.
pub(crate) async fn import(
    daemon: &Daemon,
    actor: Actor,
    spec: KeySpec,
    file: impl AsRef<[u8]> + Send + 'static,
) -> Result<Arc<Key>, Error> {
    let spec = KeySpec { properties: spec.properties.checked(), ..spec };
    let placement = Placement::of(daemon, spec.properties.backend.as_deref()).await?;
    refuse_existing(&spec.label, daemon.keys.get(&spec.label).await?.as_deref())?;
    let label = spec.label.clone();
    let begun = begin(daemon, actor, Action::Import, Some(&label)).await?;
    let made =
        begun.result(placement.backend.import(file, &spec.properties.uses, placement.wkid).await).await?;
    begun.result(check_uses(&spec.properties.uses, made.key_type, spec.properties.sign_and_decrypt)).await?;
    let key = add(&begun, daemon, spec, &placement, &made).await?;
    begun.done(Act::Import(&key), Some(key.current)).await?;
    Ok(key)
}

/// Adopts a blob that a unit has wrapped for another program. `public` is the public key as
/// SubjectPublicKeyInfo in DER, or in the form of the unit.
///
/// # Errors
/// [`Error`] says why the units of the backend cannot use the blob.
pub(crate) async fn adopt(
    daemon: &Daemon,
    actor: Actor,
    spec: KeySpec,
    blob: Vec<u8>,
    public: &[u8],
) -> Result<Arc<Key>, Error> {
    let spec = KeySpec { properties: spec.properties.checked(), ..spec };
    let placement = Placement::of(daemon, spec.properties.backend.as_deref()).await?;
    if !placement.backend.adopts() {
        return Err(Error::NotAdoptable);
    }
    refuse_existing(&spec.label, daemon.keys.get(&spec.label).await?.as_deref())?;
    check_master_key(daemon, &placement, &blob).await?;
    if placement.backend.is_extractable(&blob) {
        tracing::warn!(
            key = spec.label.as_str(),
            "the adopted key can be extracted from its unit: CKA_EXTRACTABLE is true"
        );
    }
    let label = spec.label.clone();
    let begun = begin(daemon, actor, Action::Adopt, Some(&label)).await?;
    let made = begun.result(placement.backend.adopt(blob, public, &spec.properties.uses).await).await?;
    begun.result(check_uses(&spec.properties.uses, made.key_type, spec.properties.sign_and_decrypt)).await?;
    let key = add(&begun, daemon, spec, &placement, &made).await?;
    begun.done(Act::Adopt(&key), Some(key.current)).await?;
    Ok(key)
}

/// Refuses a blob that neither the master key of the backend nor the next master key has wrapped.
async fn check_master_key(daemon: &Daemon, placement: &Placement<'_>, blob: &[u8]) -> Result<(), Error> {
    let Placement { backend, wkid, .. } = placement;
    let (Some(keys), Some(blob)) = (*wkid, backend.master_key_of(blob)) else { return Ok(()) };
    if blob == keys || daemon.keys.next_wkid(backend.name()).await? == Some(blob) {
        return Ok(());
    }
    Err(Error::OtherMasterKey { backend: backend.name().into(), blob, keys })
}

/// Refuses a label in use before the unit spends time on a key: there is a key `found`. The store
/// refuses such a label again when the key is stored.
fn refuse_existing(label: &Label, found: Option<&Key>) -> Result<(), Error> {
    match found {
        Some(key) => Err(match key.life.deletion {
            Some(deletion) => Error::LabelOfDeleted { label: label.clone(), destroy_at: deletion.destroy_at },
            None => StoreError::Exists(label.clone()).into(),
        }),
        None => Ok(()),
    }
}

async fn add(
    begun: &Begun<'_>,
    daemon: &Daemon,
    spec: KeySpec,
    placement: &Placement<'_>,
    made: &NewKey,
) -> Result<Arc<Key>, Error> {
    begun.result(placement.record_master_key(daemon, made).await).await?;
    let KeySpec { label, properties } = spec;
    let key = versions::first(label, properties.uses, placement.backend.name(), made);
    begun.result(daemon.keys.put(key).await).await
}
