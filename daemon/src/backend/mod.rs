//! How the daemon reaches a crypto unit.

use core::num::NonZeroUsize;

use keyward_proto::{KeyType, Outcome, Scheme};
use keyward_unit::{ImportError, MasterKey, NewKey, Unit, UnitError, Wkid};
use thiserror::Error;

pub use keyward_unit::Input;

/// The crypto unit behind the daemon. Shared by reference between tasks.
pub struct Backend {
    unit: Unit,
}

impl Backend {
    /// The software crypto unit in this process, which keeps up to `cached_keys` unwrapped keys at hand.
    pub fn embedded(master_key: MasterKey, cached_keys: NonZeroUsize) -> Self {
        Self { unit: Unit::new(master_key, cached_keys) }
    }

    /// Its name, under which keys are stored.
    pub fn name(&self) -> &'static str {
        "embedded"
    }

    /// What kind of unit it is, for people.
    pub fn kind(&self) -> &'static str {
        "software crypto unit"
    }

    /// The name of the master key.
    pub fn wkid(&self) -> Wkid {
        self.unit.wkid()
    }

    /// Makes a new private key. Takes up to seconds for RSA.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub fn generate(&self, key_type: KeyType) -> Result<NewKey, BackendError> {
        Ok(self.unit.generate(key_type)?)
    }

    /// Takes in the private key of a file.
    ///
    /// # Errors
    /// [`ImportError`] says what the file is instead.
    pub fn import(&self, file: &[u8]) -> Result<NewKey, ImportError> {
        self.unit.import(file)
    }

    /// Signs with the key in a blob, on the caller's thread: a hop to another costs more than most signatures.
    ///
    /// # Errors
    /// [`BackendError`] says why not.
    pub fn sign(&self, blob: &[u8], scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, BackendError> {
        Ok(self.unit.sign(blob, scheme, input)?)
    }
}

/// Why a unit did not do what it was asked.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct BackendError(#[from] UnitError);

impl BackendError {
    /// What a peer is told.
    pub fn outcome(&self) -> Outcome {
        match self.0 {
            UnitError::BlobDamaged => Outcome::BlobDamaged,
            UnitError::DigestLength { .. } => Outcome::Malformed,
            UnitError::KeyTypeNotSupported(_)
            | UnitError::SchemeNotSupported { .. }
            | UnitError::WholeMessageNeeded(_) => Outcome::NotSupported,
            UnitError::OtherMasterKey { .. } => Outcome::OtherMasterKey,
            _ => Outcome::Internal,
        }
    }
}
