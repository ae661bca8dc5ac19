//! One operation with a private key, from the request to the answer of a unit.
//!
//! An [`Operation`] is one value that collects all facts: the checks set the purpose of the
//! message, and the unit sets the times. [`super::record`] makes metrics and log lines of the
//! operation at its end.
//!
//! The order of the checks is part of the contract: a peer learns nothing about keys that no grant
//! of the peer covers, not even if they exist.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::message::{Decrypt, Plaintext, Sign, Signature, response, sign};
use keyward_proto::{Fingerprint, Label, Outcome, Scheme};

use super::shared::Shared;
use super::users::{Account, OperationPermit};
use crate::audit::{Hash, Unwritten};
use crate::backend::{Backend, BackendError, Context, SigningInput, Unusable};
use crate::daemon::key_material;
use crate::ground::fair::Full;
use crate::keys::{InUse, Key, Standing, StoreError, Version, now};
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
    /// Purpose of the message, once it is classified.
    pub(super) purpose: Option<Purpose>,
    /// Version that the request means, once it is found, and its public key.
    pub(super) found: Option<(u32, Fingerprint)>,
    /// Time at which the state of the key was checked, in seconds since 1970.
    pub(super) now: u64,
    /// Standing of the key, once it is known.
    pub(super) standing: Option<Standing>,
    /// SHA-256 of the message, if the signature needed it too.
    pub(super) digest: Option<Hash>,
    /// Last call to a backend to sign, if there was one.
    pub(super) backend_call: Option<BackendCall<'a>>,
}

/// Call to a backend to sign.
#[derive(Clone, Copy)]
pub(super) struct BackendCall<'a> {
    pub(super) backend: &'a Backend,
    pub(super) scheme: Scheme,
    pub(super) outcome: Outcome,
}

/// Body of the request.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    Sign(&'a Sign),
    Decrypt(&'a Decrypt),
}

/// Work for a unit, parsed from the body.
#[derive(Clone, Copy)]
enum Work<'a> {
    Sign { scheme: Scheme, input: SigningInput<'a>, purpose: Purpose },
    Decrypt { ciphertext: &'a [u8], client_version: Option<u16> },
}

impl<'a> Operation<'a> {
    /// Operation that makes a signature.
    pub(super) fn sign(
        shared: &'a Shared,
        peer: &'a Peer,
        account: &'a Arc<Account>,
        sign: &'a Sign,
        context: Context,
    ) -> Self {
        Self::new(shared, peer, account, Body::Sign(sign), context)
    }

    /// Operation that decrypts a premaster secret, for the RSA key exchange of TLS 1.2.
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
        Self {
            shared,
            peer,
            account,
            body,
            context,
            purpose: None,
            found: None,
            now: 0,
            standing: None,
            digest: None,
            backend_call: None,
        }
    }

    /// Checks the operation and calls the backend.
    ///
    /// # Errors
    /// [`Failure`] says which check has refused the operation, or why no unit has carried it out.
    pub(super) async fn carry_out(&mut self) -> Result<response::Body, Failure> {
        let key = find_key(self.shared, self.peer, self.account, self.label(), Find::ToUse).await?;
        let version = self.usable_version(&key)?;
        let work = self.parse(version)?;
        let (backend, _permit) = self.authorise(&key, work.act())?;
        let mut result = self.call(backend, version, work).await;
        if let Err(Failure::Backend(error)) = &result
            && error.is_of_a_retired_blob()
            && let Some(rewrapped) = Box::pin(self.rewrapped(&key, version)).await
        {
            result = self.call(backend, &rewrapped, work).await;
        }
        result
    }

    /// Label as the peer gave it.
    pub(super) fn label(&self) -> &'a str {
        match self.body {
            Body::Sign(sign) => &sign.label,
            Body::Decrypt(decrypt) => &decrypt.label,
        }
    }

    /// Word for the operation in messages.
    pub(super) fn verb(&self) -> &'static str {
        match self.body {
            Body::Sign(_) => "sign",
            Body::Decrypt(_) => "decrypt",
        }
    }

    /// Number of the version that the peer gave. 0 stands for the current version.
    pub(super) fn version(&self) -> u32 {
        match self.body {
            Body::Sign(sign) => sign.version,
            Body::Decrypt(decrypt) => decrypt.version,
        }
    }

    /// Version that the request means.
    ///
    /// # Errors
    /// There is no such version, its public key is not the one that the request names, or the key
    /// is not active.
    fn usable_version<'k>(&mut self, key: &'k Key) -> Result<&'k Version, Outcome> {
        let version = key.version(self.version()).ok_or(Outcome::UnknownVersion)?;
        self.found = Some((version.number, version.fingerprint));
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
        self.now = now();
        let standing = key.standing(self.now);
        self.standing = Some(standing);
        match standing {
            Standing::Active => Ok(version),
            _ => Err(Outcome::KeyDisabled),
        }
    }

    /// Parses the body and classifies the message. The purpose of a message depends on the public
    /// key.
    fn parse(&mut self, version: &Version) -> Result<Work<'a>, Outcome> {
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

    /// Checks that the grants of the peer admit the operation, that the deadline has not passed,
    /// and that the limits of a grant admit one more operation. Returns the backend of the key, and
    /// the permit: the operation counts as in flight until the permit is dropped.
    fn authorise(&self, key: &Key, act: Act) -> Result<(&'a Backend, OperationPermit), Failure> {
        let config = self.shared.daemon.config();
        let grants = config.grants.authorise(self.peer, &key.label, &key.uses, act);
        let grants = grants.map_err(|refusal| act.refused_as(refusal))?;
        if Instant::now() >= self.context.deadline {
            return Err(Outcome::DeadlineExceeded.into());
        }
        if config.audit.refuse_on_failure
            && let Some(failure) = self.shared.daemon.trail_failure()
        {
            return Err(Failure::NotRecorded(failure));
        }
        let permit = self.account.operation_permit(&config, grants).ok_or(Failure::GrantUsedUp)?;
        let backend = self.shared.daemon.backends.get(&key.backend);
        let backend = backend.ok_or_else(|| Failure::NoBackend(key.backend.clone()))?;
        Ok((backend, permit))
    }

    /// Calls the backend, which has a unit do the work.
    async fn call(
        &mut self,
        backend: &'a Backend,
        version: &Version,
        work: Work<'a>,
    ) -> Result<response::Body, Failure> {
        let key = key_material(version);
        match work {
            Work::Sign { scheme, input, .. } => {
                let input = match input {
                    // The audit record has this hash too, so the message is hashed once.
                    SigningInput::Message(message)
                        if backend.signs_digests() && scheme.hash() == Some(keyward_proto::Hash::Sha256) =>
                    {
                        SigningInput::Digest(self.digest.insert(Hash::of(message)).as_bytes())
                    }
                    input => input,
                };
                let signed = backend.sign(key, scheme, input, &mut self.context).await;
                let outcome = signed.as_ref().err().map_or(Outcome::Done, BackendError::outcome);
                self.backend_call = Some(BackendCall { backend, scheme, outcome });
                Ok(response::Body::Signature(Signature { signature: signed? }))
            }
            Work::Decrypt { ciphertext, client_version } => {
                let client_version = client_version.ok_or(Outcome::Malformed)?;
                let secret = self.shared.daemon.keys.rejection_secret().map_err(Failure::RejectionSecret)?;
                let decrypt =
                    backend.decrypt_premaster(key, ciphertext, client_version, secret, &mut self.context);
                let mut premaster = decrypt.await?;
                // The session wipes the premaster secret after it has sent it.
                Ok(response::Body::Plaintext(Plaintext { plaintext: core::mem::take(&mut *premaster) }))
            }
        }
    }

    /// Version with a new blob, if the key was rewrapped under a new master key while the request
    /// waited.
    async fn rewrapped(&self, key: &Key, version: &Version) -> Option<Version> {
        let key = self.shared.daemon.keys.get(&key.label).await.ok()??;
        let now = key.version(version.number).filter(|_| key.may_sign(now()))?;
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
    /// A check has refused the operation.
    Refused(Outcome),
    /// All grants are at their limit of rate or of operations in flight.
    GrantUsedUp,
    /// Too many other look-ups of keys by this user wait.
    TooManyLookUps,
    /// The key cannot be read.
    LookUp(StoreError),
    /// The backend of the key is not configured.
    NoBackend(String),
    /// The secret for implicit rejection cannot be read.
    RejectionSecret(StoreError),
    /// The audit trail cannot be written, and the configuration refuses uses without a record.
    NotRecorded(Unwritten),
    /// The backend has failed or refused.
    Backend(BackendError),
}

impl Failure {
    /// Outcome for the answer to the peer.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(outcome) => *outcome,
            Self::GrantUsedUp | Self::TooManyLookUps => Outcome::Overloaded,
            Self::LookUp(StoreError::Altered(_) | StoreError::Unlisted(_)) => Outcome::BlobDamaged,
            // The daemon does not have the master key that opens the store.
            Self::LookUp(StoreError::Locked(_)) => Outcome::OtherMasterKey,
            Self::LookUp(_) | Self::RejectionSecret(_) => Outcome::Internal,
            Self::NotRecorded(_) => Outcome::NotRecorded,
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
            Self::NotRecorded(error) => write!(f, "{error}, and on-failure is \"refuse\" in section [audit]"),
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

/// Reason why a key is looked up.
#[derive(Clone, Copy)]
pub(super) enum Find {
    /// The private key is to be used, so the record must be verified.
    ToUse,
    /// The key is to be described, also while the store is locked and nothing is verified: servers
    /// that start meanwhile load their references.
    ToDescribe,
}

/// Finds a key by its label.
///
/// # Errors
/// No grant of the peer covers the label, there is no such key, or the key cannot be read.
pub(super) async fn find_key(
    shared: &Shared,
    peer: &Peer,
    account: &Account,
    label: &str,
    find: Find,
) -> Result<Arc<InUse>, Failure> {
    let label: Label = label.parse().map_err(|_| Outcome::Malformed)?;
    if !shared.daemon.config().grants.covers(peer, &label) {
        return Err(Outcome::NoGrant.into());
    }
    if let Some(key) = shared.daemon.keys.cached(label.as_str()) {
        return Ok(key);
    }
    // Boxed, because most requests need no memory for a look-up.
    let key = Box::pin(look_up(shared, account, &label, find)).await?;
    Ok(Arc::new(key.into()))
}

/// Looks a key up in the store, in a turn of the user. Unknown labels are not cached: without
/// turns, a user who asks for many of them would delay all other users.
async fn look_up(shared: &Shared, account: &Account, label: &Label, find: Find) -> Result<Arc<Key>, Failure> {
    let entered = shared.look_ups.enter(account.id, LOOK_UP).await;
    let mut permit = entered.map_err(|Full| Failure::TooManyLookUps)?;
    let begin = Instant::now();
    let found = match find {
        Find::ToUse => shared.daemon.keys.get(label).await,
        Find::ToDescribe => shared.daemon.keys.look(label).await,
    };
    permit.charge(begin.elapsed());
    found.map_err(|error| not_found(shared, error))?.ok_or(Outcome::UnknownKey.into())
}

/// Reason why a key cannot be read. While the unit is sealed, the store is locked too.
fn not_found(shared: &Shared, error: StoreError) -> Failure {
    let unusable = shared.daemon.backends.embedded().and_then(|embedded| embedded.usable_unit().err());
    match (error, unusable) {
        (
            StoreError::Locked(_),
            Some(sealed @ (Unusable::Empty { .. } | Unusable::Emptied { .. } | Unusable::Sealed { .. })),
        ) => Failure::Backend(sealed.into()),
        // The unit has its master key just now, and the store is not open yet.
        (StoreError::Locked(_), None) => Failure::Backend(Unusable::Sealed { needed: None }.into()),
        (error, _) => Failure::LookUp(error),
    }
}

/// Estimate of the time of a look-up, until it is measured.
const LOOK_UP: Duration = Duration::from_micros(50);
