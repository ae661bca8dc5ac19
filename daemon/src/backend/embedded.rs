//! The software crypto unit in this process.
//!
//! The thread of a request makes a cheap signature itself: a switch to another thread costs more.
//! Work that takes milliseconds goes to [`LongWork`].

use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use keyward_proto::{KeyType, Scheme};
use keyward_unit::administration::Custodian;
use keyward_unit::{Header, NewKey, Unit, UnitError, Wkid};
use zeroize::Zeroizing;

use super::in_turn::in_turn;
use super::operations::Operations;
use super::{Abilities, BackendError, Context, KeyMaterial, SigningInput, UnitHealth, UnitState, Unusable};
use crate::ground::long_work::LongWork;
use crate::ground::opening::Opening;

/// The unit, and the threads for work that takes milliseconds.
pub(crate) struct Embedded {
    unit: Arc<Unit>,
    custodian: Arc<Custodian>,
    opening: ArcSwap<Opening>,
    /// Advice for the unit before its first master key.
    first_step: String,
    /// Reason why the unit has no master key, or not the one of the key store, besides that its
    /// owners have not brought their parts.
    problem: ArcSwapOption<Unusable>,
    /// Master key that the key store needs, if it is known.
    needed: ArcSwapOption<Wkid>,
    long_work: LongWork,
}

impl Operations for Embedded {
    fn unit_kind(&self) -> &'static str {
        "software crypto unit"
    }

    fn usable(&self) -> Result<(), Unusable> {
        self.usable_unit().map(|_| ())
    }

    fn master_key_of(&self, blob: &[u8]) -> Option<Wkid> {
        Header::read(blob).map(|header| header.wkid())
    }

    fn is_ready(&self, _: &[Wkid]) -> bool {
        self.usable_unit().is_ok()
    }

    fn units(&self) -> Vec<UnitHealth> {
        let unusable = self.usable_unit().err();
        vec![UnitHealth {
            address: "in this process".into(),
            state: if unusable.is_none() { UnitState::Up } else { UnitState::Down },
            wkid: self.unit.wkid().or_else(|| unusable.as_ref().and_then(Unusable::has)),
            next_wkid: self.unit.other_wkid(),
            mechanisms: Vec::new(),
            problem: unusable.map(|unusable| unusable.to_string()),
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
        let unit = self.usable_unit()?;
        let to = to.or_else(|| unit.wkid()).ok_or(UnitError::Sealed)?;
        Ok(unit.rewrap(blob, to)?)
    }

    async fn prove_next(&self, key: KeyMaterial<'_>, _: Abilities) -> Result<(), BackendError> {
        let Some(blob) = key.next_blob else { return Ok(()) };
        match self.usable_unit()?.public_key(blob)? == key.spki {
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
            let signature = self.unit.sign(key.blob, scheme, input);
            context.times.unit = begin.elapsed();
            return signature.map_err(|error| self.explained(error));
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
    /// A unit. The custodian gives the unit its master key. `first_step` is the advice before the
    /// first master key.
    ///
    /// # Errors
    /// The system has no more threads.
    pub(crate) fn new(unit: Arc<Unit>, custodian: Arc<Custodian>, first_step: String) -> io::Result<Self> {
        let long_work = LongWork::start()?;
        let (problem, needed) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        let opening = ArcSwap::from_pointee(Opening::Owners);
        Ok(Self { unit, custodian, opening, first_step, problem, needed, long_work })
    }

    /// The unit, which may be sealed.
    pub(crate) fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    /// The custodian of the master key.
    pub(crate) fn custodian(&self) -> &Arc<Custodian> {
        &self.custodian
    }

    /// The way in which the unit gets its master key after a start.
    pub(crate) fn opening(&self) -> Opening {
        **self.opening.load()
    }

    /// Sets the way in which the unit gets its master key after a start.
    pub(crate) fn set_opening(&self, opening: Opening) {
        self.opening.store(Arc::new(opening));
    }

    /// True if owners give the unit its master key, which they can do while the daemon runs.
    pub(crate) fn is_of_owners(&self) -> bool {
        let custody = self.custodian.custody();
        custody.state.current().contents().is_none_or(|key| key.origin.needed() > 0)
    }

    /// True if the unit has owners, whose signatures its administration needs.
    pub(crate) fn is_owned(&self) -> bool {
        !self.custodian.custody().state.is_unowned()
    }

    /// Sets the master key that the key store needs, for messages.
    pub(crate) fn set_needed(&self, needed: Option<Wkid>) {
        self.needed.store(needed.map(Arc::new));
    }

    /// Master key that the key store needs; `None` before the first key.
    pub(crate) fn needed(&self) -> Option<Wkid> {
        self.needed.load().as_deref().copied()
    }

    /// True if the state that the unit was started with is not the one of its owners.
    pub(crate) fn is_lost(&self) -> bool {
        self.problem.load().as_deref().is_some_and(|problem| matches!(problem, Unusable::Lost { .. }))
    }

    /// Sets the reason why the unit cannot be used with the key store, if there is one.
    pub(crate) fn set_problem(&self, problem: Option<Unusable>) {
        self.problem.store(problem.map(Arc::new));
    }

    /// The unit.
    ///
    /// # Errors
    /// [`Unusable`] if the unit does not have the master key of the key store.
    pub(crate) fn usable_unit(&self) -> Result<&Arc<Unit>, Unusable> {
        if let Some(problem) = &*self.problem.load() {
            return Err((**problem).clone());
        }
        match self.unit.is_sealed() {
            true => Err(self.sealed()),
            false => Ok(&self.unit),
        }
    }

    /// Reason why the unit has no master key.
    fn sealed(&self) -> Unusable {
        if let Some(problem) = &*self.problem.load() {
            return (**problem).clone();
        }
        match self.custodian.custody().state.current().contents() {
            None => match self.needed() {
                Some(needed) => Unusable::Emptied { needed },
                None => Unusable::Empty { first_step: self.first_step.clone() },
            },
            Some(contents) => Unusable::Sealed { needed: Some(contents.wkid) },
        }
    }

    /// The error of a unit, with the reason why the unit is sealed.
    fn explained(&self, error: UnitError) -> BackendError {
        match error {
            UnitError::Sealed => self.sealed().into(),
            error => error.into(),
        }
    }

    /// Generates keys of a type for which that takes less time than a thread takes to begin.
    pub(super) async fn generate_all(
        &self,
        key_type: KeyType,
        wkid: Option<Wkid>,
        count: usize,
    ) -> Vec<Result<NewKey, BackendError>> {
        let none = || self.usable_unit().map_or_else(|unusable| unusable.into(), |_| BackendError::GivenUp);
        let Ok(unit) = self.usable_unit().map(Arc::clone) else {
            return (0..count).map(|_| Err(none())).collect();
        };
        let made = move || (0..count).map(|_| wrapped(&unit, unit.generate(key_type)?, wkid)).collect();
        let made = tokio::task::spawn_blocking(made).await;
        made.unwrap_or_else(|_| (0..count).map(|_| Err(BackendError::GivenUp)).collect())
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
        let unit = Arc::clone(self.usable_unit()?);
        let make = move || wrapped(&unit, f(&unit)?, wkid);
        tokio::task::spawn_blocking(make).await.map_err(|_| BackendError::GivenUp)?
    }

    /// Does long work of the unit on another thread when it is the turn of the user.
    async fn in_turn<T: Send + 'static>(
        &self,
        cost: Duration,
        context: &mut Context,
        f: impl FnOnce(&Unit) -> Result<T, UnitError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let unit = Arc::clone(self.usable_unit()?);
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

/// A new key of a unit, wrapped by the master key `wkid`, or by any if `None`.
fn wrapped(unit: &Unit, made: NewKey, wkid: Option<Wkid>) -> Result<NewKey, BackendError> {
    Ok(match wkid.filter(|wkid| Some(*wkid) != unit.wkid()) {
        Some(wkid) => NewKey { blob: unit.rewrap(&made.blob, wkid)?, ..made },
        None => made,
    })
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_unit::MasterKey;
    use keyward_unit::administration::KeepingSecret;

    use super::*;
    use crate::ground::unit_state::Nowhere;

    impl Embedded {
        /// Secret that keeps the master keys of [`Self::with_master_key`].
        pub(crate) const SECRET: &str = "9b1e0c7f4a5d2836e1f09c8b7a6d5e4f3021bcdfa8976e5d4c3b2a1908f7e6d5";

        /// A unit that nobody owns, with this master key.
        pub(crate) fn with_master_key(key: MasterKey) -> Self {
            let unit = Arc::new(Unit::sealed(NonZeroUsize::MIN));
            let custodian = Custodian::open(Arc::clone(&unit), None, Box::new(Nowhere)).unwrap();
            custodian.unseal_by_file(key).unwrap();
            custodian.keep_by(&[KeepingSecret::random(Self::SECRET.as_bytes()).unwrap()]).unwrap();
            Self::new(unit, Arc::new(custodian), String::new()).unwrap()
        }
    }

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
