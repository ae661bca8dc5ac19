use core::fmt;
use core::num::NonZeroUsize;
use core::time::Duration;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use keyward_proto::{KeyType, Scheme};
use zeroize::Zeroizing;

use crate::blob::{self, Attributes};
use crate::cache::Cache;
use crate::error::UnitError;
use crate::header::Header;
use crate::import::{self, ImportError};
use crate::key::{Key, SigningInput};
use crate::master_key::{MasterKey, WrappingKeys};
use crate::object::{Material, Object};
use crate::profile::{Profile, ProfileInForce};
use crate::wkid::Wkid;

/// The software crypto unit. Threads share it by reference; each thread makes its own signatures.
///
/// A unit without a master key is *sealed*: it makes no keys, and does nothing with blobs.
pub struct Unit {
    master_keys: RwLock<MasterKeys>,
    cache: Mutex<Cache>,
    profile: ProfileInForce,
}

/// The master keys that a unit has now.
#[derive(Default)]
struct MasterKeys {
    /// `None` if the unit is sealed.
    current: Option<Arc<WrappingKeys>>,
    next: Option<NextMasterKey>,
}

/// The next master key, while keys go from the current one to it.
struct NextMasterKey {
    keys: Arc<WrappingKeys>,
    /// True if the unit takes blobs of this master key already; false if it only makes them.
    unwraps: bool,
}

impl Unit {
    /// Creates a unit with a master key and a cache of up to `cached_keys` unwrapped private keys.
    pub fn new(master_key: MasterKey, cached_keys: NonZeroUsize) -> Self {
        let unit = Self::sealed(cached_keys);
        unit.unseal(&master_key);
        unit
    }

    /// Creates a unit without a master key, with the control points of [`Profile::Tls`].
    pub fn sealed(cached_keys: NonZeroUsize) -> Self {
        let cache = Mutex::new(Cache::new(cached_keys));
        Self { master_keys: RwLock::default(), cache, profile: ProfileInForce::new(Profile::Tls) }
    }

    /// The control points for clients of GREP11.
    pub fn profile(&self) -> Profile {
        self.profile.get()
    }

    /// Sets the control points. Calls under way end with those before.
    pub fn set_profile(&self, profile: Profile) {
        self.profile.set(profile);
    }

    /// Simulates a unit of another maker, whose next master key is committed: GREP11's
    /// `RewrapKeyBlob` wraps by it, and the unit takes no blob of it before it is the current one.
    pub fn simulate_next_master_key(&self, next: &MasterKey) {
        let keys = Arc::new(WrappingKeys::derive(next));
        self.write().next = Some(NextMasterKey { keys, unwraps: false });
    }

    /// Gives a sealed unit its master key, or a unit another one.
    pub fn unseal(&self, master_key: &MasterKey) {
        let keys = Arc::new(WrappingKeys::derive(master_key));
        self.replace(|master_keys| master_keys.current = Some(keys));
    }

    /// Takes all master keys and private keys out of the memory of the unit.
    pub fn seal(&self) {
        self.replace(|master_keys| *master_keys = MasterKeys::default());
    }

    /// Makes the next master key the current one. The unit takes no blobs of the one before any
    /// more. Nothing happens if there is no next master key.
    pub fn activate(&self) {
        self.replace(|master_keys| {
            if let Some(next) = master_keys.next.take() {
                master_keys.current = Some(next.keys);
            }
        });
    }

    /// Forgets the next master key.
    pub fn forget_next(&self) {
        self.replace(|master_keys| master_keys.next = None);
    }

    /// Changes the master keys, and forgets the private keys that were unwrapped by those before.
    fn replace(&self, change: impl FnOnce(&mut MasterKeys)) {
        let mut master_keys = self.write();
        change(&mut master_keys);
        // Who unwraps a key holds the lock for reading until the key is in the cache. So no key
        // comes into the cache later that a former master key has unwrapped.
        let forgotten = self.with_cache(Cache::clear);
        drop(master_keys);
        drop(forgotten);
    }

    /// True if the unit has no master key.
    pub fn is_sealed(&self) -> bool {
        self.wkid().is_none()
    }

    /// The name of the master key. `None` if the unit is sealed.
    pub fn wkid(&self) -> Option<Wkid> {
        self.read().current.as_ref().map(|keys| keys.wkid)
    }

    /// Adds the next master key. The unit takes blobs of both master keys from now on. Returns
    /// false if the unit has another next master key already.
    pub fn accept(&self, next: &MasterKey) -> bool {
        let keys = Arc::new(WrappingKeys::derive(next));
        let wkid = keys.wkid;
        let mut master_keys = self.write();
        master_keys.next.get_or_insert(NextMasterKey { keys, unwraps: true }).keys.wkid == wkid
    }

    /// The name of the master key that [`Self::accept`] added.
    pub fn other_wkid(&self) -> Option<Wkid> {
        self.read().accepted().map(|keys| keys.wkid)
    }

    /// Wraps a key anew, by one of the two master keys whose blobs the unit takes.
    ///
    /// # Errors
    /// [`UnitError::OtherMasterKey`] if `to` or the blob names a third master key,
    /// [`UnitError::BlobDamaged`] if `blob` is not a blob.
    pub fn rewrap(&self, blob: &[u8], to: Wkid) -> Result<Vec<u8>, UnitError> {
        let (attributes, plain) = self.unwrap(blob)?;
        blob::wrap(self.read().named(to)?, attributes, &plain)
    }

    /// Wraps the key of a key store anew.
    ///
    /// # Errors
    /// The errors of [`Self::rewrap`], for an output of [`Self::wrap_store_key`].
    pub fn rewrap_store_key(&self, wrapped: &[u8], to: Wkid) -> Result<Vec<u8>, UnitError> {
        let key = self.unwrap_store_key(wrapped)?;
        blob::wrap_store_key(self.read().named(to)?, &key)
    }

    /// The public key of the private key in a blob, as SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    ///
    /// # Errors
    /// [`UnitError`] if the blob is not one of this unit, or its key does not sign.
    pub fn public_key(&self, blob: &[u8]) -> Result<Vec<u8>, UnitError> {
        // Not through the cache: a key that must not be used has a blob all the same.
        let (_, plain) = self.unwrap(blob)?;
        match Material::from_plain(&plain).map_err(|_| UnitError::BlobDamaged)? {
            Material::Key(key) => Ok(key.spki().to_vec()),
            _ => Err(UnitError::KeyCannotSign),
        }
    }

    /// Generates a private key.
    ///
    /// # Errors
    /// [`UnitError::KeyTypeNotSupported`] for a type that is not in [`KeyType::GENERATED`].
    pub fn generate(&self, key_type: KeyType) -> Result<NewKey, UnitError> {
        self.hand_out(Key::generate(key_type)?, Attributes::GENERATED)
    }

    /// Imports the private key of a file. The file holds exactly one private key, and anything
    /// before and after it. For an encrypted key use [`KeyFile`](crate::KeyFile).
    ///
    /// # Errors
    /// [`ImportError`] says what the file holds instead, and what to do.
    pub fn import(&self, file: &[u8]) -> Result<NewKey, ImportError> {
        Ok(self.hand_out(import::read(file)?, Attributes::IMPORTED)?)
    }

    /// Signs with the private key in a blob that this unit, or a unit with the same master key,
    /// returned.
    ///
    /// A message is hashed with the hash of `scheme`; a digest is taken as it is. For ECDSA the key
    /// determines the curve, and the signature is in DER (RFC 3279, 2.2.3). Other signatures are
    /// the plain bytes.
    ///
    /// # Errors
    /// [`UnitError`] says which part of the request does not fit.
    pub fn sign(&self, blob: &[u8], scheme: Scheme, input: SigningInput<'_>) -> Result<Vec<u8>, UnitError> {
        let object = self.unwrapped(blob)?;
        match &object.material {
            Material::Key(key) if object.attributes.has(Attributes::SIGN) => key.sign(scheme, input),
            _ => Err(UnitError::KeyCannotSign),
        }
    }

    /// Retires blobs that must not be used any more: removes their private keys from the cache and
    /// wipes them.
    ///
    /// A signature in progress keeps its key until the end. A later request that read the blob
    /// earlier is refused with [`UnitError::Retired`].
    pub fn retire<'b>(&self, blobs: impl IntoIterator<Item = &'b [u8]>) {
        for blob in blobs {
            let forgotten = self.with_cache(|cache| cache.retire(blob));
            drop(forgotten);
        }
    }

    /// Undoes [`Self::retire`]: these blobs may be used again.
    pub fn reinstate<'b>(&self, blobs: impl IntoIterator<Item = &'b [u8]>) {
        self.with_cache(|cache| blobs.into_iter().for_each(|blob| cache.reinstate(blob)));
    }

    /// Removes the private keys that nobody used for 15 minutes, and wipes them. Call it once every
    /// [`Self::SWEEP`].
    pub fn sweep(&self) {
        let forgotten = self.with_cache(Cache::sweep);
        drop(forgotten);
    }

    /// Time between two calls of [`Self::sweep`].
    pub const SWEEP: Duration = Duration::from_secs(60);

    /// Wraps the key of a key store. The output is not a blob of a key, and no client of a unit can
    /// unwrap it.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the crypto library fails.
    pub fn wrap_store_key(&self, key: &[u8]) -> Result<Vec<u8>, UnitError> {
        blob::wrap_store_key(&*self.keys()?, key)
    }

    /// Unwraps an output of [`Self::wrap_store_key`].
    ///
    /// # Errors
    /// [`UnitError::OtherMasterKey`] if another master key wrapped it, [`UnitError::BlobDamaged`]
    /// for any other input.
    pub fn unwrap_store_key(&self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, UnitError> {
        blob::unwrap_store_key(self.read().of(wrapped)?, wrapped)
    }

    fn hand_out(&self, key: Key, attributes: Attributes) -> Result<NewKey, UnitError> {
        let (spki, key_type) = (key.spki().to_vec(), key.key_type());
        let blob = self.wrap(&Object { attributes, material: Material::Key(key) })?;
        Ok(NewKey { blob, spki, key_type })
    }

    /// Makes the blob of a new key.
    pub(crate) fn wrap(&self, object: &Object) -> Result<Vec<u8>, UnitError> {
        object.material.prove()?;
        let plain = object.material.to_plain().map_err(|_| UnitError::Crypto("encode the key"))?;
        blob::wrap(&*self.keys()?, object.attributes, &plain)
    }

    /// The key of a blob, from the cache if possible.
    ///
    /// A blob enters the cache only after its MAC was verified, and only a blob with equal bytes
    /// finds it there. So a key from the cache needs no second check.
    pub(crate) fn unwrapped(&self, blob: &[u8]) -> Result<Arc<Object>, UnitError> {
        match self.with_cache(|cache| cache.get(blob).ok_or_else(|| cache.is_retired(blob))) {
            Ok(object) => return Ok(object),
            Err(true) => return Err(UnitError::Retired),
            Err(false) => {}
        }
        // Held until the key is in the cache: see `replace`.
        let master_keys = self.read();
        let (attributes, plain) = blob::unwrap(master_keys.of(blob)?, blob)?;
        // `wrap` made everything that has a valid MAC, so only a lack of memory makes this fail.
        let material = Material::from_plain(&plain).map_err(|_| UnitError::BlobDamaged)?;
        let object = Arc::new(Object { attributes, material });
        let put_out = self.with_cache(|cache| cache.put(blob, &object));
        drop(master_keys);
        // Wiping a key takes time. The locks are free already, so nobody waits.
        drop(put_out);
        Ok(object)
    }

    /// Unwraps a blob, without the cache.
    pub(crate) fn unwrap(&self, blob: &[u8]) -> Result<(Attributes, Zeroizing<Vec<u8>>), UnitError> {
        blob::unwrap(self.read().of(blob)?, blob)
    }

    /// The wrapping keys of the master key.
    ///
    /// # Errors
    /// [`UnitError::Sealed`] if there is none.
    pub(crate) fn keys(&self) -> Result<Arc<WrappingKeys>, UnitError> {
        self.read().current.clone().ok_or(UnitError::Sealed)
    }

    /// The wrapping keys of the next master key, if there is one.
    pub(crate) fn next_keys(&self) -> Option<Arc<WrappingKeys>> {
        self.read().next.as_ref().map(|next| Arc::clone(&next.keys))
    }

    fn read(&self) -> RwLockReadGuard<'_, MasterKeys> {
        self.master_keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, MasterKeys> {
        self.master_keys.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the lock for a look-up or an insertion, never for a signature.
    fn with_cache<T>(&self, f: impl FnOnce(&mut Cache) -> T) -> T {
        f(&mut self.cache.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MasterKeys {
    fn current(&self) -> Result<&WrappingKeys, UnitError> {
        self.current.as_deref().ok_or(UnitError::Sealed)
    }

    /// The keys that unwrap a blob; those of the current master key for an unknown one.
    fn of(&self, blob: &[u8]) -> Result<&WrappingKeys, UnitError> {
        let wkid = Header::read(blob).map(|header| header.wkid());
        match wkid.map(|wkid| self.named(wkid)) {
            Some(Ok(keys)) => Ok(keys),
            _ => self.current(),
        }
    }

    fn named(&self, wkid: Wkid) -> Result<&WrappingKeys, UnitError> {
        let current = self.current()?;
        let mut known = [Some(current), self.accepted()].into_iter().flatten();
        known
            .find(|keys| keys.wkid == wkid)
            .ok_or(UnitError::OtherMasterKey { blob: wkid, unit: current.wkid })
    }

    fn accepted(&self) -> Option<&WrappingKeys> {
        self.next.as_ref().filter(|next| next.unwraps).map(|next| &*next.keys)
    }
}

/// A key that the unit generated or imported.
#[derive(Clone, Eq, PartialEq)]
pub struct NewKey {
    /// The private key, wrapped by the master key.
    pub blob: Vec<u8>,
    /// The public key as SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub spki: Vec<u8>,
    /// The type of the key.
    pub key_type: KeyType,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("key_type", &self.key_type).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
