//! One operation with a private key, on its way from the socket to a unit and back.
//!
//! An [`Operation`] is one value that travels: the checks fill in the purpose of the message, the
//! unit fills in the times, and the end is its outcome. [`super::record`] makes metrics
//! and log lines of the operation.
//!
//! The order of the checks is part of the contract: a peer learns nothing of keys that no grant
//! covers, not even whether they exist.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::message::{Decrypt, Plaintext, Sign, Signature, response, sign};
use keyward_proto::{Label, Outcome, Scheme};

use super::shared::Shared;
use super::users::{Account, Admitted};
use crate::backend::{Backend, BackendError, Context, SigningInput};
use crate::daemon::key_material;
use crate::ground::fair::Full;
use crate::keys::{Key, StoreError, Version};
use crate::policy::act::Act;
use crate::policy::authorise::Peer;
use crate::policy::purpose::{Purpose, classify};

/// An operation with a private key that a peer asks for.
pub(super) struct Operation<'a> {
    pub(super) shared: &'a Shared,
    pub(super) peer: &'a Peer,
    account: &'a Arc<Account>,
    pub(super) body: Body<'a>,
    pub(super) context: Context,
    /// The purpose of the message, as soon as that is known.
    pub(super) purpose: Option<Purpose>,
    /// The backend that was asked to sign, with the scheme and the outcome of that.
    pub(super) asked: Option<(&'a Backend, Scheme, Outcome)>,
}

/// The request as it came.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    Sign(&'a Sign),
    Decrypt(&'a Decrypt),
}

/// The work for a unit, after the request was understood.
#[derive(Clone, Copy)]
enum Work<'a> {
    Sign { scheme: Scheme, input: SigningInput<'a>, purpose: Purpose },
    Decrypt { ciphertext: &'a [u8], client_version: Option<u16> },
}

impl<'a> Operation<'a> {
    /// A signature.
    pub(super) fn sign(
        shared: &'a Shared,
        peer: &'a Peer,
        account: &'a Arc<Account>,
        sign: &'a Sign,
        context: Context,
    ) -> Self {
        Self::new(shared, peer, account, Body::Sign(sign), context)
    }

    /// The decryption of a premaster secret, for the RSA key exchange of TLS 1.2.
    pub(super) fn decrypt(
        shared: &'a Shared,
        peer: &'a Peer,
        account: &'a Arc<Account>,
        decrypt: &'a Decrypt,
        context: Context,
    ) -> Self {
        Self::new(shared, peer, account, Body::Decrypt(decrypt), context)
    }

    fn new(
        shared: &'a Shared,
        peer: &'a Peer,
        account: &'a Arc<Account>,
        body: Body<'a>,
        context: Context,
    ) -> Self {
        Self { shared, peer, account, body, context, purpose: None, asked: None }
    }

    /// Checks the operation and has a unit carry it out.
    ///
    /// # Errors
    /// [`Failure`] says which check has refused the operation, or why no unit has carried it out.
    pub(super) async fn carry_out(&mut self) -> Result<response::Body, Failure> {
        let key = find(self.shared, self.peer, self.account, self.label()).await?;
        let version = self.usable_version(&key)?;
        let work = self.work(version)?;
        let (backend, _admitted) = self.admit(&key, work.act())?;
        let mut result = self.ask(backend, version, work).await;
        if let Err(Failure::Backend(error)) = &result
            && error.is_of_a_retired_blob()
            && let Some(again) = Box::pin(self.rewrapped(&key, version)).await
        {
            result = self.ask(backend, &again, work).await;
        }
        result
    }

    /// The label as the peer gave it.
    pub(super) fn label(&self) -> &'a str {
        match self.body {
            Body::Sign(sign) => &sign.label,
            Body::Decrypt(decrypt) => &decrypt.label,
        }
    }

    /// The word for the operation in messages.
    pub(super) fn verb(&self) -> &'static str {
        match self.body {
            Body::Sign(_) => "sign",
            Body::Decrypt(_) => "decrypt",
        }
    }

    /// The number of the version that the peer gave; 0 stands for the current version.
    pub(super) fn version(&self) -> u32 {
        match self.body {
            Body::Sign(sign) => sign.version,
            Body::Decrypt(decrypt) => decrypt.version,
        }
    }

    /// The version that the request means, if that has the public key that the request names and
    /// the key may be used at all.
    fn usable_version<'k>(&self, key: &'k Key) -> Result<&'k Version, Outcome> {
        let version = key.version(self.version()).ok_or(Outcome::UnknownVersion)?;
        let fingerprint = match self.body {
            Body::Sign(sign) => sign.public_key_fingerprint,
            Body::Decrypt(decrypt) => decrypt.public_key_fingerprint,
        };
        match fingerprint {
            None => self.shared.daemon.metrics.without_public_key(),
            Some(fingerprint) if fingerprint != version.fingerprint.number() => {
                return Err(Outcome::OtherPublicKey);
            }
            Some(_) => {}
        }
        match key.state.may_sign() {
            true => Ok(version),
            false => Err(Outcome::KeyDisabled),
        }
    }

    /// Understands the request. The purpose of a message depends on the public key.
    fn work(&mut self, version: &Version) -> Result<Work<'a>, Outcome> {
        let sign = match self.body {
            Body::Sign(sign) => sign,
            Body::Decrypt(decrypt) => {
                let client_version = u16::try_from(decrypt.client_version).ok();
                let client_version = client_version.filter(|version| *version != 0);
                return Ok(Work::Decrypt { ciphertext: &decrypt.ciphertext, client_version });
            }
        };
        let scheme = Scheme::try_from(sign.scheme).map_err(|_| Outcome::NotSupported)?;
        let (input, purpose) = match &sign.input {
            Some(sign::Input::Message(message)) => {
                (SigningInput::Message(message), classify(message, &version.spki))
            }
            Some(sign::Input::Digest(digest)) => (SigningInput::Digest(digest), Purpose::Other),
            None => return Err(Outcome::Malformed),
        };
        self.purpose = Some(purpose);
        Ok(Work::Sign { scheme, input, purpose })
    }

    /// The backend of a key, if the peer may have the key do this, may do so now, and still waits
    /// for the answer. The operation counts as in flight until [`Admitted`] is dropped.
    fn admit(&self, key: &Key, act: Act) -> Result<(&'a Backend, Admitted), Failure> {
        let config = self.shared.daemon.config();
        let grants = config.grants.authorise(self.peer, &key.label, &key.uses, act);
        let grants = grants.map_err(|refusal| act.refused_as(refusal))?;
        if Instant::now() >= self.context.deadline {
            return Err(Outcome::DeadlineExceeded.into());
        }
        let admitted = self.account.admit(&config, grants).ok_or(Failure::GrantUsedUp)?;
        let backend = self.shared.daemon.backends.get(&key.backend);
        let backend = backend.ok_or_else(|| Failure::NoBackend(key.backend.clone()))?;
        Ok((backend, admitted))
    }

    /// Has a unit of the backend do the work.
    async fn ask(
        &mut self,
        backend: &'a Backend,
        version: &Version,
        work: Work<'a>,
    ) -> Result<response::Body, Failure> {
        let key = key_material(version);
        match work {
            Work::Sign { scheme, input, .. } => {
                let signed = backend.sign(key, scheme, input, &mut self.context).await;
                let outcome = signed.as_ref().err().map_or(Outcome::Done, BackendError::outcome);
                self.asked = Some((backend, scheme, outcome));
                Ok(response::Body::Signature(Signature { signature: signed? }))
            }
            Work::Decrypt { ciphertext, client_version } => {
                let client_version = client_version.ok_or(Outcome::Malformed)?;
                let secret = self.shared.daemon.keys.rejection_secret().map_err(Failure::RejectionSecret)?;
                let decrypt =
                    backend.decrypt_premaster(key, ciphertext, client_version, secret, &mut self.context);
                let mut premaster = decrypt.await?;
                // The session wipes the premaster secret after it was sent.
                Ok(response::Body::Plaintext(Plaintext { plaintext: core::mem::take(&mut *premaster) }))
            }
        }
    }

    /// The same version with its new blob, if the master key was changed while the request waited.
    async fn rewrapped(&self, key: &Key, version: &Version) -> Option<Version> {
        let key = self.shared.daemon.keys.get(&key.label).await.ok()??;
        let now = key.version(version.number).filter(|_| key.state.may_sign())?;
        (now.spki == version.spki && now.blob != version.blob).then(|| now.clone())
    }
}

impl Work<'_> {
    fn act(&self) -> Act {
        match self {
            Self::Sign { purpose, .. } => Act::Sign(*purpose),
            Self::Decrypt { .. } => Act::DecryptPremaster,
        }
    }
}

/// Reason why an operation was not carried out.
#[derive(Debug)]
pub(super) enum Failure {
    /// A check has refused it.
    Refused(Outcome),
    /// The rate or the operations in flight of the grants are used up.
    GrantUsedUp,
    /// Too many other look-ups of this user wait.
    TooManyLookUps,
    /// The key cannot be read.
    LookUp(StoreError),
    /// The backend of the key is not configured.
    NoBackend(String),
    /// The secret for implicit rejection cannot be had.
    RejectionSecret(StoreError),
    /// No unit of the backend has carried it out.
    Backend(BackendError),
}

impl Failure {
    /// The outcome that the peer is told.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(outcome) => *outcome,
            Self::GrantUsedUp | Self::TooManyLookUps => Outcome::Overloaded,
            Self::LookUp(StoreError::Altered(_) | StoreError::Unlisted(_)) => Outcome::BlobDamaged,
            // The master key that opens the store is not there.
            Self::LookUp(StoreError::Locked(_)) => Outcome::OtherMasterKey,
            Self::LookUp(_) | Self::RejectionSecret(_) => Outcome::Internal,
            Self::NoBackend(_) => Outcome::UnitUnavailable,
            Self::Backend(error) => error.outcome(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(outcome) => f.write_str(outcome.name()),
            Self::GrantUsedUp | Self::TooManyLookUps => f.write_str(Outcome::Overloaded.name()),
            Self::LookUp(error) | Self::RejectionSecret(error) => error.fmt(f),
            Self::NoBackend(name) => write!(f, "its backend {name} is not configured"),
            Self::Backend(error) => error.fmt(f),
        }
    }
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Self {
        Self::Refused(outcome)
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

/// The key with a label, if the peer may know of the key.
///
/// # Errors
/// A refusal, or that the key cannot be read.
pub(super) async fn find(
    shared: &Shared,
    peer: &Peer,
    account: &Account,
    label: &str,
) -> Result<Arc<Key>, Failure> {
    let label: Label = label.parse().map_err(|_| Outcome::Malformed)?;
    if !shared.daemon.config().grants.covers(peer, &label) {
        return Err(Outcome::NoGrant.into());
    }
    if let Some(key) = shared.daemon.keys.cached(label.as_str()) {
        return Ok(key);
    }
    // Boxed: most requests need no room for the look-up.
    Box::pin(look_up(shared, account, &label)).await
}

/// Looks for a key in the store, in the user's turn. Labels without a key are not remembered, so a
/// user who asks for many of them would otherwise keep all other users waiting.
async fn look_up(shared: &Shared, account: &Account, label: &Label) -> Result<Arc<Key>, Failure> {
    let entered = shared.look_ups.enter(account.id, LOOK_UP).await;
    let mut place = entered.map_err(|Full| Failure::TooManyLookUps)?;
    let begin = Instant::now();
    let found = shared.daemon.keys.get(label).await;
    place.charge(begin.elapsed());
    found.map_err(Failure::LookUp)?.ok_or(Outcome::UnknownKey.into())
}

/// Estimate of the time of a look-up, until one was measured.
const LOOK_UP: Duration = Duration::from_micros(50);
