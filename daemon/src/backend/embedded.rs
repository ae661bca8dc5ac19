//! The software crypto unit in this process.
//!
//! The thread of a request makes a cheap signature itself: a switch to another thread costs more.
//! Work that takes milliseconds goes to [`LongWork`].

use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::{KeyType, Scheme};
use keyward_unit::{Header, NewKey, Unit, UnitError, Wkid};
use zeroize::Zeroizing;

use super::in_turn::in_turn;
use super::operations::Operations;
use super::{Abilities, BackendError, Context, KeyMaterial, SigningInput, UnitHealth, UnitState, Unusable};
use crate::ground::long_work::LongWork;

/// The unit, and the threads for work that takes milliseconds.
pub(super) struct Embedded {
    unit: Result<Arc<Unit>, Unusable>,
    long_work: LongWork,
}

impl Operations for Embedded {
    fn unit_kind(&self) -> &'static str {
        "software crypto unit"
    }

    fn usable(&self) -> Result<(), &Unusable> {
        self.unit.as_ref().map(|_| ())
    }

    fn master_key_of(&self, blob: &[u8]) -> Option<Wkid> {
        Header::read(blob).map(|header| header.wkid())
    }

    fn is_ready(&self, _: &[Wkid]) -> bool {
        self.unit.is_ok()
    }

    fn units(&self) -> Vec<UnitHealth> {
        let unusable = self.unit.as_ref().err();
        vec![UnitHealth {
            address: "in this process".into(),
            state: if unusable.is_none() { UnitState::Up } else { UnitState::Down },
            wkid: self.unit.as_ref().map_or_else(Unusable::has, |unit| Some(unit.wkid())),
            next_wkid: self.unit.as_ref().ok().and_then(|unit| unit.other_wkid()),
            mechanisms: Vec::new(),
            problem: unusable.map(Unusable::to_string),
            load: None,
        }]
    }

    async fn generate(
        &self,
        key_type: KeyType,
        _: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        self.make(wkid, move |unit| unit.generate(key_type)).await
    }

    async fn import(
        &self,
        file: impl AsRef<[u8]> + Send + 'static,
        _: Abilities,
        wkid: Option<Wkid>,
    ) -> Result<NewKey, BackendError> {
        self.make(wkid, move |unit| unit.import(file.as_ref())).await
    }

    async fn adopt(&self, _: Vec<u8>, _: &[u8], _: Abilities) -> Result<NewKey, BackendError> {
        Err(BackendError::NoAdoption)
    }

    async fn rewrap(&self, blob: &[u8], to: Option<Wkid>) -> Result<Vec<u8>, BackendError> {
        let unit = self.unit()?;
        Ok(unit.rewrap(blob, to.unwrap_or_else(|| unit.wkid()))?)
    }

    async fn prove_next(&self, key: KeyMaterial<'_>, _: Abilities) -> Result<(), BackendError> {
        let Some(blob) = key.next_blob else { return Ok(()) };
        match self.unit()?.public_key(blob)? == key.spki {
            true => Ok(()),
            false => Err(UnitError::BlobDamaged.into()),
        }
    }

    async fn sign(
        &self,
        key: KeyMaterial<'_>,
        scheme: Scheme,
        input: SigningInput<'_>,
        context: &mut Context,
    ) -> Result<Vec<u8>, BackendError> {
        let Some(cost) = cost_of_signature(key.key_type) else {
            let begin = Instant::now();
            let signature = self.unit()?.sign(key.blob, scheme, input);
            context.times.unit = begin.elapsed();
            return Ok(signature?);
        };
        let (blob, message, is_digest) = match input {
            SigningInput::Message(message) => (key.blob.to_vec(), message.to_vec(), false),
            SigningInput::Digest(digest) => (key.blob.to_vec(), digest.to_vec(), true),
        };
        // Boxed: the futures of most requests then need no space for waiting.
        let signed = Box::pin(self.in_turn(cost, context, move |unit| {
            let input =
                if is_digest { SigningInput::Digest(&message) } else { SigningInput::Message(&message) };
            unit.sign(&blob, scheme, input)
        }));
        signed.await
    }

    async fn decrypt_premaster(
        &self,
        key: KeyMaterial<'_>,
        ciphertext: &[u8],
        client_version: u16,
        substitute: Zeroizing<Vec<u8>>,
        context: &mut Context,
    ) -> Result<Zeroizing<Vec<u8>>, BackendError> {
        // About three times as long as a signature by the same key: 2 ms with RSA 2048 and 12 ms
        // with RSA 4096, measured on one machine.
        let cost = 3 * cost_of_signature(key.key_type).unwrap_or(SHORTEST);
        let (blob, ciphertext) = (key.blob.to_vec(), ciphertext.to_vec());
        let decrypt =
            move |unit: &Unit| unit.decrypt_premaster(&blob, &ciphertext, client_version, substitute);
        self.in_turn(cost, context, decrypt).await
    }
}

impl Embedded {
    /// # Errors
    /// The system has no more threads.
    pub(super) fn new(unit: Result<Unit, Unusable>) -> io::Result<Self> {
        Ok(Self { unit: unit.map(Arc::new), long_work: LongWork::start()? })
    }

    /// The unit.
    ///
    /// # Errors
    /// [`Unusable`] if the unit does not have the master key of the key store.
    pub(super) fn unit(&self) -> Result<&Arc<Unit>, Unusable> {
        self.unit.as_ref().map_err(Unusable::clone)
    }

    /// Makes or imports a key on a thread that may block, and wraps the key by the master key
    /// `wkid`.
    async fn make<E: Send + 'static>(
        &self,
        wkid: Option<Wkid>,
        f: impl FnOnce(&Unit) -> Result<NewKey, E> + Send + 'static,
    ) -> Result<NewKey, BackendError>
    where
        BackendError: From<E>,
    {
        let unit = Arc::clone(self.unit()?);
        let make = move || {
            let made = f(&unit)?;
            Ok(match wkid.filter(|wkid| *wkid != unit.wkid()) {
                Some(wkid) => NewKey { blob: unit.rewrap(&made.blob, wkid)?, ..made },
                None => made,
            })
        };
        tokio::task::spawn_blocking(make).await.map_err(|_| BackendError::GivenUp)?
    }

    /// Does long work of the unit on another thread when it is the turn of the user.
    async fn in_turn<T: Send + 'static>(
        &self,
        cost: Duration,
        context: &mut Context,
        f: impl FnOnce(&Unit) -> Result<T, UnitError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let unit = Arc::clone(self.unit()?);
        in_turn(&self.long_work, cost, context, move || f(&unit)).await
    }
}

/// Expected time of a signature that takes too long for the thread of the request: RSA from 3072
/// bits on; `None` for a cheap signature. The time grows with the third power of the length of the
/// modulus.
fn cost_of_signature(key_type: KeyType) -> Option<Duration> {
    let (KeyType::Rsa(bits) | KeyType::RsaPss(bits)) = key_type else { return None };
    let times = (u32::from(bits) / 1024).pow(3);
    (bits >= 3072).then(|| SHORTEST / 8 * times)
}

/// Time of a private-key operation with RSA 2048 on a processor without AVX-512.
const SHORTEST: Duration = Duration::from_micros(800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rsa_from_3072_bits_is_expensive() {
        for cheap in
            [KeyType::P256, KeyType::P521, KeyType::Ed25519, KeyType::Rsa(2048), KeyType::RsaPss(2048)]
        {
            assert_eq!(cost_of_signature(cheap), None, "{cheap}");
        }
        let cost = |bits| cost_of_signature(KeyType::Rsa(bits)).unwrap();
        assert!(cost(4096) == 8 * SHORTEST && cost(3072) < cost(4096));
        assert!(cost_of_signature(KeyType::RsaPss(3072)).is_some());
    }
}
