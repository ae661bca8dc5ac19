//! The state of an operation in several parts. The client keeps the state and sends it with each
//! part.
//!
//! A state has the layout of a blob, under keys of its own. Any unit with the same master key can
//! continue the operation.

use keyward_grep11::{self as proto, ckf, ckr};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::crypto::Crypto;
use super::error::Error;
use super::hash::{HashFunction, Hashing, Hmac};
use crate::blob;
use crate::error::UnitError;

/// The content of a state.
///
/// The key is in the state as the blob that the client sent. So the state reveals no more than the
/// blob, and every part checks again what the key may do.
#[derive(Clone, Eq, Message, PartialEq)]
pub(crate) struct State {
    /// The number of an [`Operation`].
    #[prost(uint32, tag = "1")]
    operation: u32,
    #[prost(message, optional, tag = "2")]
    mechanism: Option<proto::Mechanism>,
    /// The blob or the public key; empty for a digest.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) key: Vec<u8>,
    /// True after the first part.
    #[prost(bool, tag = "4")]
    pub(crate) started: bool,
    /// The hash of the parts so far, as [`Hashing::save`] writes it.
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) midstate: Vec<u8>,
    /// The block that is chained to the next one.
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) chain: Vec<u8>,
    /// The input that does not fill a block yet.
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) rest: Vec<u8>,
}

/// The kind of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    Digest = 1,
    Encrypt = 2,
    Decrypt = 3,
    Sign = 4,
    Verify = 5,
}

impl Operation {
    /// The use that the mechanism must have: a flag of [`ckf`].
    fn flag(self) -> u64 {
        match self {
            Self::Digest => ckf::CKF_DIGEST,
            Self::Encrypt => ckf::CKF_ENCRYPT,
            Self::Decrypt => ckf::CKF_DECRYPT,
            Self::Sign => ckf::CKF_SIGN,
            Self::Verify => ckf::CKF_VERIFY,
        }
    }
}

impl State {
    pub(crate) fn new(operation: Operation, mechanism: proto::Mechanism, key: Vec<u8>) -> Self {
        let mut state = Self::default();
        state.operation = operation as u32;
        state.mechanism = Some(mechanism);
        state.key = key;
        state
    }

    /// The mechanism of the operation.
    pub(crate) fn mechanism(&self) -> Result<proto::Mechanism, Error> {
        self.mechanism.clone().ok_or_else(damaged)
    }

    /// Records a part: stores the new hash, and wipes the one before. An empty part changes
    /// nothing.
    pub(crate) fn take(&mut self, midstate: &[u8], part: &[u8]) {
        if !part.is_empty() {
            self.midstate.zeroize();
            self.midstate.extend_from_slice(midstate);
            self.started = true;
        }
    }

    /// The hash of the parts so far.
    pub(crate) fn hashing(&self, function: HashFunction) -> Result<Hashing, Error> {
        match self.started {
            false => Ok(Hashing::new(function)),
            true => Hashing::restore(function, &self.midstate).ok_or_else(damaged),
        }
    }

    /// The HMAC of the parts so far.
    pub(crate) fn hmac(&self, function: HashFunction, secret: &[u8]) -> Result<Hmac, Error> {
        match self.started {
            false => Ok(Hmac::new(function, secret)),
            true => Hmac::restore(function, &self.midstate).ok_or_else(damaged),
        }
    }

    /// Checks that the operation has no part yet, for a call that takes all data in one piece.
    ///
    /// # Errors
    /// `CKR_OPERATION_ACTIVE` after the first part.
    pub(crate) fn not_started(&self) -> Result<(), Error> {
        match self.started {
            false => Ok(()),
            true => Err(Error::new(
                ckr::CKR_OPERATION_ACTIVE,
                "the operation has taken parts already: it can only be continued by Update or ended by Final",
            )),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.midstate.zeroize();
        self.rest.zeroize();
    }
}

impl Crypto {
    pub(crate) fn wrap_state(&self, state: &State) -> Result<Vec<u8>, Error> {
        let plain = Zeroizing::new(state.encode_to_vec());
        Ok(blob::wrap_state(&*self.unit.keys()?, &plain)?)
    }

    /// Unwraps a state, which must be of `operation`.
    ///
    /// # Errors
    /// `CKR_OPERATION_NOT_INITIALIZED` without a state or for one of another operation,
    /// `CKR_IBM_WKID_MISMATCH`, `CKR_SAVED_STATE_INVALID` for an altered state, and
    /// `CKR_MECHANISM_INVALID` if the mechanism is no longer on offer.
    pub(crate) fn state(&self, state: &[u8], operation: Operation) -> Result<State, Error> {
        if state.is_empty() {
            return Err(Error::new(ckr::CKR_OPERATION_NOT_INITIALIZED, "the request has no state"));
        }
        let plain = blob::unwrap_state(&*self.unit.keys()?, state).map_err(|error| match error {
            UnitError::BlobDamaged => damaged(),
            other => other.into(),
        })?;
        let state = State::decode(plain.as_slice()).map_err(|_| damaged())?;
        if state.operation != operation as u32 {
            return Err(Error::new(
                ckr::CKR_OPERATION_NOT_INITIALIZED,
                "the state is that of another operation",
            ));
        }
        // The control points may be others than at the beginning of the operation.
        self.offered(Some(state.mechanism()?), operation.flag())?;
        Ok(state)
    }
}

pub(crate) fn damaged() -> Error {
    Error::new(ckr::CKR_SAVED_STATE_INVALID, "the state was altered, or is not a state")
}
