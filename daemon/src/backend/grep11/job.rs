//! One signature or decryption, as it is asked for: what is sent to a unit, and what of its answer is passed on.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{self, Digest};
use keyward_proto::{PublicKey, Scheme};
use keyward_unit::{Header, Input, UnitError, Wkid};

use super::connection::Connection;
use super::mechanism::{self, Form};
use super::premaster;
use crate::backend::pool::failure::Failure;
use crate::backend::pool::unit::Unit;
use crate::backend::verify::{Signed, verifies};
use crate::backend::{BackendError, KeyMaterial, Trace};

/// What is to be done with a key, with everything that does not depend on the unit.
pub(super) struct Job<'a> {
    key: KeyMaterial<'a>,
    public: PublicKey,
    task: Task<'a>,
    /// Blobs of the key.
    blobs: Vec<&'a [u8]>,
    /// Master keys of these blobs.
    pub(super) wkids: Vec<Wkid>,
    /// Units that have answered with signatures that do not verify.
    suspects: Mutex<Vec<Arc<Unit>>>,
}

enum Task<'a> {
    Sign(ToSign<'a>),
    /// Decrypt a ciphertext with the padding of PKCS #1 v1.5.
    Decrypt(&'a [u8]),
}

#[derive(Clone, Copy)]
struct ToSign<'a> {
    scheme: Scheme,
    message: Option<&'a [u8]>,
    digest: Option<Digest>,
}

impl<'a> Job<'a> {
    /// A signature.
    pub(super) fn to_sign(
        key: KeyMaterial<'a>,
        scheme: Scheme,
        input: Input<'a>,
    ) -> Result<Self, BackendError> {
        let (public, key_type) = (public_key(key)?, key.key_type);
        if !public.schemes().contains(&scheme) {
            return Err(UnitError::SchemeNotSupported { scheme, key_type }.into());
        }
        let (message, digest) = match (input, scheme.hash()) {
            (Input::Message(message), Some(hash)) => {
                (Some(message), Some(digest::digest(mechanism::algorithm(hash), message)))
            }
            (Input::Message(message), None) => (Some(message), None),
            (Input::Digest(_), None) => return Err(UnitError::WholeMessageNeeded(scheme).into()),
            (Input::Digest(digest), Some(hash)) => {
                let given = digest.len();
                let digest = Digest::import_less_safe(digest, mechanism::algorithm(hash));
                let wrong = |_| UnitError::DigestLength { needed: hash.length(), given };
                (None, Some(digest.map_err(wrong)?))
            }
        };
        Self::new(key, public, Task::Sign(ToSign { scheme, message, digest }))
    }

    /// A decryption.
    pub(super) fn to_decrypt(key: KeyMaterial<'a>, ciphertext: &'a [u8]) -> Result<Self, BackendError> {
        let public = public_key(key)?;
        premaster::check(&public, ciphertext)?;
        Self::new(key, public, Task::Decrypt(ciphertext))
    }

    fn new(key: KeyMaterial<'a>, public: PublicKey, task: Task<'a>) -> Result<Self, BackendError> {
        let blobs = key.blobs().filter_map(|blob| Some((blob, Header::read(blob)?.wkid())));
        let (blobs, wkids): (Vec<_>, Vec<_>) = blobs.unzip();
        if wkids.is_empty() {
            return Err(BackendError::NoBlob);
        }
        Ok(Self { key, public, task, blobs, wkids, suspects: Mutex::default() })
    }

    /// Has a unit do it.
    pub(super) async fn ask(
        &self,
        connection: &Connection,
        unit: &Unit,
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let number = self.wkids.iter().position(|wkid| *wkid == connection.wkid);
        let blob = number.and_then(|number| self.blobs.get(number).copied());
        let blob = blob.ok_or(Failure::OtherMasterKey(Some(connection.wkid)))?;
        match &self.task {
            Task::Sign(task) => task.sign_over(connection, unit, blob, trace).await,
            Task::Decrypt(ciphertext) => connection.decrypt(blob, ciphertext, trace).await,
        }
    }

    /// The signature as TLS has it, if it is one of this message by this key. Of what was decrypted nobody can tell.
    pub(super) fn checked(&self, raw: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let Task::Sign(task) = self.task else { return Ok(raw) };
        let signed = match (task.digest, task.message) {
            (Some(digest), _) => Signed::Digest(digest),
            (None, message) => Signed::Message(message.unwrap_or_default()),
        };
        mechanism::signature(&self.public, raw)
            .filter(|signature| verifies(&self.public, self.key.spki, task.scheme, &signed, signature))
            .ok_or(Failure::WrongSignature)
    }

    /// Notes a unit whose signature does not verify. Whose fault that is, its own or that of the key, which may have
    /// come with the public key of another, is not known before another attempt.
    pub(super) fn suspect(&self, unit: &Arc<Unit>) {
        self.suspects().push(Arc::clone(unit));
    }

    /// A unit has signed as it should, so the key is sound, and the suspects are not.
    pub(super) fn signed_by(&self, unit: &Arc<Unit>) {
        for suspect in self.suspects().drain(..) {
            // One that was right the second time may be right again.
            suspect.failed(&Failure::WrongSignature, !Arc::ptr_eq(&suspect, unit), None);
        }
    }

    /// Nobody has signed, so each suspect is to show by another key what it can.
    pub(super) fn examine_suspects(&self) {
        self.suspects().iter().for_each(Unit::examine);
    }

    /// Whether different units agree that the key is not sound.
    pub(super) fn is_unsound(&self) -> bool {
        let suspects = self.suspects();
        suspects.iter().any(|suspect| !Arc::ptr_eq(suspect, &suspects[0]))
    }

    fn suspects(&self) -> MutexGuard<'_, Vec<Arc<Unit>>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ToSign<'_> {
    /// Has a unit sign, in a form that it can.
    async fn sign_over(
        &self,
        connection: &Connection,
        unit: &Unit,
        blob: &[u8],
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let not_offered = || Failure::NotOffered(format!("it has no mechanism for {}", self.scheme));
        let form = unit.form(self.scheme).ok_or_else(not_offered)?;
        let signed = self.sign_as(form, connection, blob, trace).await;
        match signed {
            Err(Failure::NotOffered(_)) if form == Form::Digest && self.scheme.is_pss() => {
                unit.refused_digest_pss();
                match unit.form(self.scheme) {
                    Some(Form::Message) => self.sign_as(Form::Message, connection, blob, trace).await,
                    _ => signed,
                }
            }
            signed => signed,
        }
    }

    async fn sign_as(
        &self,
        form: Form,
        connection: &Connection,
        blob: &[u8],
        trace: &Trace,
    ) -> Result<Vec<u8>, Failure> {
        let not_offered =
            || Failure::NotOffered(format!("for {} it takes whole messages only, no digests", self.scheme));
        let data = match (form, &self.digest, self.message) {
            (Form::Digest, Some(digest), _) => mechanism::data(self.scheme, digest.as_ref()),
            (Form::Message, _, Some(message)) => message.to_vec(),
            _ => return Err(not_offered()),
        };
        let number = mechanism::number(self.scheme, form).ok_or_else(not_offered)?;
        connection.sign(blob, mechanism::mechanism(self.scheme, number), data, trace).await
    }
}

/// A signature, or what was decrypted, and what it took.
pub(super) struct Answer {
    pub(super) outcome: Vec<u8>,
    pub(super) network: Duration,
    pub(super) unit: Duration,
    pub(super) verify: Duration,
}

fn public_key(key: KeyMaterial<'_>) -> Result<PublicKey, BackendError> {
    PublicKey::from_spki(key.spki).map_err(|_| BackendError::NoPublicKey)
}
