//! Digests, and random bytes.

use aws_lc_rs::rand;
use keyward_grep11::{
    DigestFinalRequest, DigestFinalResponse, DigestInitRequest, DigestInitResponse, DigestKeyRequest,
    DigestKeyResponse, DigestRequest, DigestResponse, DigestSingleRequest, DigestSingleResponse,
    DigestUpdateRequest, DigestUpdateResponse, GenerateRandomRequest, GenerateRandomResponse, Mechanism, ckf,
    ckr,
};

use super::crypto::Crypto;
use super::error::Error;
use super::hash::HashFunction;
use super::mechanism::{no_parameter, not_offered};
use super::request_key::key_argument;
use super::state::{Operation, State};
use crate::blob::Attributes;
use crate::object::Material;

impl Crypto {
    /// Returns random bytes.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` for fewer than 1 or more than 1,000,000 bytes.
    pub fn generate_random(&self, request: GenerateRandomRequest) -> Result<GenerateRandomResponse, Error> {
        let length = usize::try_from(request.len).ok().filter(|length| (1..=MAX_RANDOM).contains(length));
        let length = length.ok_or_else(|| {
            Error::new(
                ckr::CKR_ARGUMENTS_BAD,
                format!("{} random bytes were asked for: 1 to {MAX_RANDOM} are offered", request.len),
            )
        })?;
        let mut rnd = vec![0; length];
        rand::fill(&mut rnd)?;
        Ok(GenerateRandomResponse { rnd })
    }

    /// Begins a digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn digest_init(&self, request: DigestInitRequest) -> Result<DigestInitResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_DIGEST)?;
        function(&mechanism)?;
        let state = State::new(Operation::Digest, mechanism, Vec::new());
        Ok(DigestInitResponse { state: self.wrap_state(&state)? })
    }

    /// Digests data in one piece.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn digest(&self, request: DigestRequest) -> Result<DigestResponse, Error> {
        let state = self.state(&request.state, Operation::Digest)?;
        state.not_started()?;
        Ok(DigestResponse { digest: function(&state.mechanism()?)?.digest(&request.data) })
    }

    /// Adds data to a digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn digest_update(&self, request: DigestUpdateRequest) -> Result<DigestUpdateResponse, Error> {
        let state = self.state(&request.state, Operation::Digest)?;
        Ok(DigestUpdateResponse { state: self.digest_more(state, &request.data)? })
    }

    /// Adds the value of a secret key to a digest.
    ///
    /// # Errors
    /// `CKR_KEY_INDIGESTIBLE` for a private key, and for a secret key without
    /// `CKA_IBM_USE_AS_DATA`. The digest of a key can be as useful as the key: an HMAC with a long
    /// key uses only the digest of the key.
    pub fn digest_key(&self, request: DigestKeyRequest) -> Result<DigestKeyResponse, Error> {
        let state = self.state(&request.state, Operation::Digest)?;
        let object = self.unit.unwrapped(&key_argument(request.key, request.key_bytes)?)?;
        let Material::Secret(secret) = &object.material else {
            return Err(Error::new(ckr::CKR_KEY_INDIGESTIBLE, "only secret keys can be digested"));
        };
        if !object.attributes.has(Attributes::USE_AS_DATA) {
            let detail = "the key may not be used as data: its attribute CKA_IBM_USE_AS_DATA is false";
            return Err(Error::new(ckr::CKR_KEY_INDIGESTIBLE, detail));
        }
        self.permitted(object.attributes, Attributes::USE_AS_DATA, "CKA_IBM_USE_AS_DATA")?;
        Ok(DigestKeyResponse { state: self.digest_more(state, &secret.value)? })
    }

    /// Ends a digest.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn digest_final(&self, request: DigestFinalRequest) -> Result<DigestFinalResponse, Error> {
        let state = self.state(&request.state, Operation::Digest)?;
        Ok(DigestFinalResponse { digest: state.hashing(function(&state.mechanism()?)?)?.finish() })
    }

    /// Digests data in one call.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn digest_single(&self, request: DigestSingleRequest) -> Result<DigestSingleResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_DIGEST)?;
        Ok(DigestSingleResponse { digest: function(&mechanism)?.digest(&request.data) })
    }

    fn digest_more(&self, mut state: State, data: &[u8]) -> Result<Vec<u8>, Error> {
        let mut hashing = state.hashing(function(&state.mechanism()?)?)?;
        hashing.update(data);
        state.take(&hashing.save(), data);
        self.wrap_state(&state)
    }
}

fn function(mechanism: &Mechanism) -> Result<HashFunction, Error> {
    no_parameter(mechanism)?;
    HashFunction::from_number(mechanism.mechanism).ok_or_else(|| not_offered(mechanism.mechanism))
}

/// Maximum number of random bytes in one call.
const MAX_RANDOM: usize = 1_000_000;
