//! New keys: generated, imported from a file, or adopted from another program.

use std::sync::Arc;

use keyward_proto::{KeyType, Label, Use};
use keyward_unit::NewKey;

use super::details::Act;
use super::event::{Action, Actor, Begun, begin};
use super::placement::Placement;
use super::uses::{check_uses, each_once};
use super::{Error, versions};
use crate::daemon::Daemon;
use crate::keys::{Key, StoreError};

/// The properties of a new key that the actor chooses.
#[derive(Debug)]
pub(crate) struct KeySpec {
    pub(crate) label: Label,
    /// The uses of the key; none stands for `tls-server`.
    pub(crate) uses: Vec<Use>,
    /// True if the actor accepts that one RSA key signs and decrypts.
    pub(crate) sign_and_decrypt: bool,
    /// The backend whose unit holds the key; none stands for the default backend.
    pub(crate) backend: Option<String>,
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
    let spec = KeySpec { uses: each_once(spec.uses), ..spec };
    let placement = Placement::of(daemon, spec.backend.as_deref()).await?;
    check_uses(&spec.uses, key_type, spec.sign_and_decrypt)?;
    refuse_existing(daemon, &spec.label).await?;
    let label = spec.label.clone();
    let begun = begin(daemon, actor, Action::Generate, Some(&label)).await?;
    let made = begun.result(placement.backend.generate(key_type, &spec.uses, placement.wkid).await).await?;
    let key = add(&begun, daemon, spec, &placement, &made).await?;
    begun.done(Act::Generate(&key), Some(key.current)).await?;
    Ok(key)
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
    let spec = KeySpec { uses: each_once(spec.uses), ..spec };
    let placement = Placement::of(daemon, spec.backend.as_deref()).await?;
    refuse_existing(daemon, &spec.label).await?;
    let label = spec.label.clone();
    let begun = begin(daemon, actor, Action::Import, Some(&label)).await?;
    let made = begun.result(placement.backend.import(file, &spec.uses, placement.wkid).await).await?;
    begun.result(check_uses(&spec.uses, made.key_type, spec.sign_and_decrypt)).await?;
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
    let spec = KeySpec { uses: each_once(spec.uses), ..spec };
    let placement = Placement::of(daemon, spec.backend.as_deref()).await?;
    if !placement.backend.adopts() {
        return Err(Error::NotAdoptable);
    }
    refuse_existing(daemon, &spec.label).await?;
    check_master_key(daemon, &placement, &blob).await?;
    if placement.backend.is_extractable(&blob) {
        tracing::warn!(
            key = spec.label.as_str(),
            "the adopted key can be extracted from its unit: CKA_EXTRACTABLE is true"
        );
    }
    let label = spec.label.clone();
    let begun = begin(daemon, actor, Action::Adopt, Some(&label)).await?;
    let made = begun.result(placement.backend.adopt(blob, public, &spec.uses).await).await?;
    begun.result(check_uses(&spec.uses, made.key_type, spec.sign_and_decrypt)).await?;
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

/// Refuses a label in use before the unit spends time on a key. The store refuses such a label
/// again when the key is stored.
async fn refuse_existing(daemon: &Daemon, label: &Label) -> Result<(), Error> {
    match daemon.keys.get(label).await? {
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
    let key = versions::first(spec.label, spec.uses, placement.backend.name(), made);
    begun.result(daemon.keys.put(key).await).await
}
