//! Certificate requests: the only messages that a key signs for an administrator.

use keyward_proto::{KeyType, Label, Outcome, PublicKey, Scheme};

use super::Error;
use super::details::Act;
use super::event::{Action, Actor, begin};
use crate::backend::{BackendError, Context, SigningInput};
use crate::daemon::{Daemon, key_material};
use crate::keys::{Key, Standing, StoreError, Version, now};
use crate::policy::act;
use crate::policy::purpose::{Purpose, classify};

/// A certificate request that a key has signed.
#[derive(Debug)]
pub(crate) struct SignedRequest {
    /// The version of the key that has signed.
    pub(crate) version: u32,
    pub(crate) scheme: Scheme,
    pub(crate) signature: Vec<u8>,
}

/// Signs a CertificationRequestInfo (RFC 2986, 4.1) in DER by a version of a key; number 0 stands
/// for the current version. Asks for no grant: an actor who may call this may also change the uses
/// of the key, and the uses must include certificate requests.
///
/// # Errors
/// [`Error`] says why the key does not sign the request.
pub(crate) async fn sign_request(
    daemon: &Daemon,
    actor: Actor,
    label: &Label,
    number: u32,
    info: &[u8],
) -> Result<SignedRequest, Error> {
    let key = daemon.keys.get(label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
    let version = key.version(number).ok_or_else(|| Error::NoVersion { label: label.clone(), number })?;
    check(&key, version, info)?;
    let scheme = scheme(version);
    let begun = begin(daemon, actor, Action::SignRequest, Some(label)).await?;
    let signed = sign(daemon, &key, version, scheme, info, Some(Purpose::CertificateRequest)).await;
    let signature = begun.result(signed).await?;
    let version = version.number;
    begun.done(Act::SignRequest(scheme), Some(version)).await?;
    Ok(SignedRequest { version, scheme, signature })
}

/// Refuses a key that must not sign requests, and bytes that are no request for the key.
fn check(key: &Key, version: &Version, info: &[u8]) -> Result<(), Error> {
    let label = || key.label.clone();
    let standing = key.standing(now());
    if standing != Standing::Active {
        return Err(Error::not_active(key, standing));
    }
    if !act::Act::Sign(Purpose::CertificateRequest).is_admitted_by(&key.uses) {
        return Err(Error::NotForRequests { label: label(), uses: key.uses.clone() });
    }
    match classify(info, &version.spki) {
        Purpose::CertificateRequest => Ok(()),
        _ => Err(Error::NotARequest { label: label(), number: version.number }),
    }
}

/// Signs a message that the daemon has built or checked. `purpose` is what the metrics count it as.
///
/// # Errors
/// The unit refuses, or is not available.
pub(super) async fn sign(
    daemon: &Daemon,
    key: &Key,
    version: &Version,
    scheme: Scheme,
    message: &[u8],
    purpose: Option<Purpose>,
) -> Result<Vec<u8>, Error> {
    let backend = daemon
        .backends
        .get(&key.backend)
        .ok_or_else(|| Error::BackendGone { label: key.label.clone(), backend: key.backend.clone() })?;
    let mut context = Context::of_daemon(daemon.config().request_timeout);
    let signed =
        backend.sign(key_material(version), scheme, SigningInput::Message(message), &mut context).await;
    let outcome = signed.as_ref().err().map_or(Outcome::Done, BackendError::outcome);
    daemon.metrics.signature(outcome, purpose.map(Purpose::index));
    daemon.metrics.times(backend.name(), scheme, outcome, &context.times.of(backend));
    Ok(signed?)
}

/// The preferred scheme of a key, except for RSA keys that are not bound to RSASSA-PSS: not every
/// certificate authority takes RSASSA-PSS.
pub(super) fn scheme(version: &Version) -> Scheme {
    let schemes = PublicKey::from_spki(&version.spki).map_or(version.key_type.schemes(), |key| key.schemes());
    match (version.key_type, schemes.first()) {
        (KeyType::Rsa(_), _) | (_, None) => Scheme::RsaPkcs1Sha256,
        (_, Some(preferred)) => *preferred,
    }
}
