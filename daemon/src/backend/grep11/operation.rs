//! One signature or decryption: sends the operation to a unit, and checks the answer.

use aws_lc_rs::digest::{self, Digest};
use keyward_proto::{PublicKey, Scheme};
use keyward_unit::{Header, SigningInput, UnitError, Wkid};

use super::connection::Connection;
use super::driver::Grep11Driver;
use super::mechanism::{self, InputForm};
use super::premaster;
use crate::backend::pool::{Failure, Operation};
use crate::backend::verify::{Signed, verifies};
use crate::backend::{BackendError, KeyMaterial, Trace};

/// Operation with one key. Work that does not depend on the unit is done once for all attempts.
pub(super) struct KeyOperation<'a> {
    spki: &'a [u8],
    public: PublicKey,
    work: Work<'a>,
    blobs: Vec<&'a [u8]>,
    /// Master keys of the blobs, in the same order.
    wkids: Vec<Wkid>,
}

enum Work<'a> {
    Sign(Signing<'a>),
    /// Decrypt a ciphertext with the padding of PKCS #1 v1.5.
    Decrypt(&'a [u8]),
}

#[derive(Clone, Copy)]
struct Signing<'a> {
    scheme: Scheme,
    message: Option<&'a [u8]>,
    digest: Option<Digest>,
}

impl<'a> KeyOperation<'a> {
    /// Signature.
    ///
    /// # Errors
    /// [`BackendError`] if the key cannot sign this input by this scheme.
    pub(super) fn sign(
        key: KeyMaterial<'a>,
        scheme: Scheme,
        input: SigningInput<'a>,
    ) -> Result<Self, BackendError> {
        let (public, key_type) = (public_key(key)?, key.key_type);
        if !public.schemes().contains(&scheme) {
            return Err(UnitError::SchemeNotSupported { scheme, key_type }.into());
        }
        let (message, digest) = match (input, scheme.hash()) {
            (SigningInput::Message(message), Some(hash)) => {
                (Some(message), Some(digest::digest(mechanism::digest_algorithm(hash), message)))
            }
            (SigningInput::Message(message), None) => (Some(message), None),
            (SigningInput::Digest(_), None) => return Err(UnitError::WholeMessageNeeded(scheme).into()),
            (SigningInput::Digest(digest), Some(hash)) => {
                let given = digest.len();
                let digest = Digest::import_less_safe(digest, mechanism::digest_algorithm(hash));
                let wrong = |_| UnitError::DigestLength { needed: hash.length(), given };
                (None, Some(digest.map_err(wrong)?))
            }
        };
        Self::new(key, public, Work::Sign(Signing { scheme, message, digest }))
    }

    /// Decryption.
    ///
    /// # Errors
    /// [`BackendError`] if the ciphertext cannot be of the key.
    pub(super) fn decrypt(key: KeyMaterial<'a>, ciphertext: &'a [u8]) -> Result<Self, BackendError> {
        let public = public_key(key)?;
        premaster::check(&public, ciphertext)?;
        Self::new(key, public, Work::Decrypt(ciphertext))
    }

    fn new(key: KeyMaterial<'a>, public: PublicKey, work: Work<'a>) -> Result<Self, BackendError> {
        let blobs = key.blobs().filter_map(|blob| Some((blob, Header::read(blob)?.wkid())));
        let (blobs, wkids): (Vec<_>, Vec<_>) = blobs.unzip();
        if wkids.is_empty() {
            return Err(BackendError::NoBlob);
        }
        Ok(Self { spki: key.spki, public, work, blobs, wkids })
    }
}

impl Operation<Grep11Driver> for KeyOperation<'_> {
    fn wkids(&self) -> &[Wkid] {
        &self.wkids
    }

    async fn ask(
        &self,
        driver: &Grep11Driver,
        connection: &Connection,
        trace: Trace,
    ) -> Result<Vec<u8>, Failure> {
        let of_unit = self.wkids.iter().zip(&self.blobs).find(|(wkid, _)| **wkid == connection.wkid);
        let (_, blob) = of_unit.ok_or(Failure::OtherMasterKey(Some(connection.wkid)))?;
        match &self.work {
            Work::Sign(signing) => signing.sign(driver, connection, blob, trace).await,
            Work::Decrypt(ciphertext) => connection.decrypt(blob, ciphertext, trace).await,
        }
    }

    /// Returns a signature in the form of TLS if it verifies. A decrypted text cannot be checked.
    fn checked(&self, answer: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let Work::Sign(signing) = self.work else { return Ok(answer) };
        let signed = match (signing.digest, signing.message) {
            (Some(digest), _) => Signed::Digest(digest),
            (None, message) => Signed::Message(message.unwrap_or_default()),
        };
        mechanism::signature(&self.public, answer)
            .filter(|signature| verifies(&self.public, self.spki, signing.scheme, &signed, signature))
            .ok_or(Failure::WrongSignature)
    }
}

impl Signing<'_> {
    /// Asks a unit to sign, with the input in a form that the unit accepts.
    async fn sign(
        &self,
        driver: &Grep11Driver,
        connection: &Connection,
        blob: &[u8],
        trace: Trace,
    ) -> Result<Vec<u8>, Failure> {
        let not_offered = || Failure::NotOffered(format!("it has no mechanism for {}", self.scheme));
        let form = driver.form(self.scheme).ok_or_else(not_offered)?;
        let signed = self.sign_as(form, connection, blob, trace).await;
        match signed {
            Err(Failure::NotOffered(_)) if form == InputForm::Digest && self.scheme.is_pss() => {
                driver.refused_digest_pss();
                match driver.form(self.scheme) {
                    Some(InputForm::Message) => {
                        self.sign_as(InputForm::Message, connection, blob, trace).await
                    }
                    _ => signed,
                }
            }
            signed => signed,
        }
    }

    async fn sign_as(
        &self,
        form: InputForm,
        connection: &Connection,
        blob: &[u8],
        trace: Trace,
    ) -> Result<Vec<u8>, Failure> {
        let not_offered =
            || Failure::NotOffered(format!("for {} it accepts whole messages only, no digests", self.scheme));
        let data = match (form, &self.digest, self.message) {
            (InputForm::Digest, Some(digest), _) => mechanism::data(self.scheme, digest.as_ref()),
            (InputForm::Message, _, Some(message)) => message.to_vec(),
            _ => return Err(not_offered()),
        };
        let number = mechanism::number(self.scheme, form).ok_or_else(not_offered)?;
        connection.sign(blob, mechanism::mechanism(self.scheme, number), data, trace).await
    }
}

fn public_key(key: KeyMaterial<'_>) -> Result<PublicKey, BackendError> {
    PublicKey::from_spki(key.spki).map_err(|_| BackendError::NoPublicKey)
}
