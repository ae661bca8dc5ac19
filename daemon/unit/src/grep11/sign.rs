//! Signatures and MACs, and their verification.

use keyward_grep11::{
    SignFinalRequest, SignFinalResponse, SignInitRequest, SignInitResponse, SignRequest, SignResponse,
    SignSingleRequest, SignSingleResponse, SignUpdateRequest, SignUpdateResponse, VerifyFinalRequest,
    VerifyFinalResponse, VerifyInitRequest, VerifyInitResponse, VerifyRequest, VerifyResponse,
    VerifySingleRequest, VerifySingleResponse, VerifyUpdateRequest, VerifyUpdateResponse, ckf, ckr,
};

use super::crypto::Crypto;
use super::error::Error;
use super::public_material::PublicMaterial;
use super::request_key::{key_argument, wrong_type};
use super::sign_method::SignMethod;
use super::signer::Signer;
use super::state::{Operation, State};
use super::verifier::Verifier;
use crate::blob::Attributes;
use crate::key::Pair;
use crate::object::Material;

impl Crypto {
    /// Begins a signature or a MAC.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign_init(&self, request: SignInitRequest) -> Result<SignInitResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_SIGN)?;
        let key = key_argument(request.priv_key, request.priv_key_bytes)?;
        self.signer(SignMethod::from_mechanism(&mechanism)?, &key)?;
        let state = State::new(Operation::Sign, mechanism, key);
        Ok(SignInitResponse { state: self.wrap_state(&state)? })
    }

    /// Signs in one piece.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign(&self, request: SignRequest) -> Result<SignResponse, Error> {
        let state = self.state(&request.state, Operation::Sign)?;
        state.not_started()?;
        let method = SignMethod::from_mechanism(&state.mechanism()?)?;
        let signature = self.signer(method, &state.key)?.sign(&request.data)?;
        Ok(SignResponse { signature })
    }

    /// Adds data to be signed.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign_update(&self, request: SignUpdateRequest) -> Result<SignUpdateResponse, Error> {
        let mut state = self.state(&request.state, Operation::Sign)?;
        let method = SignMethod::from_mechanism(&state.mechanism()?)?;
        let signer = self.signer(method, &state.key)?;
        update(method, signer.secret(), &mut state, &request.data)?;
        Ok(SignUpdateResponse { state: self.wrap_state(&state)? })
    }

    /// Ends a signature.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign_final(&self, request: SignFinalRequest) -> Result<SignFinalResponse, Error> {
        let state = self.state(&request.state, Operation::Sign)?;
        let method = SignMethod::from_mechanism(&state.mechanism()?)?;
        let signer = self.signer(method, &state.key)?;
        let input = finish(method, signer.secret(), &state)?;
        Ok(SignFinalResponse { signature: signer.sign_prepared(&input)? })
    }

    /// Signs in one call.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign_single(&self, request: SignSingleRequest) -> Result<SignSingleResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_SIGN)?;
        let key = key_argument(request.priv_key, request.priv_key_bytes)?;
        let signature = self.signer(SignMethod::from_mechanism(&mechanism)?, &key)?.sign(&request.data)?;
        Ok(SignSingleResponse { signature })
    }

    /// Begins the verification of a signature or MAC.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn verify_init(&self, request: VerifyInitRequest) -> Result<VerifyInitResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_VERIFY)?;
        let key = key_argument(request.pub_key, request.pub_key_bytes)?;
        self.verifier(SignMethod::from_mechanism(&mechanism)?, &key)?;
        let state = State::new(Operation::Verify, mechanism, key);
        Ok(VerifyInitResponse { state: self.wrap_state(&state)? })
    }

    /// Verifies in one piece.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID` and `CKR_SIGNATURE_LEN_RANGE` for a wrong signature.
    pub fn verify(&self, request: VerifyRequest) -> Result<VerifyResponse, Error> {
        let state = self.state(&request.state, Operation::Verify)?;
        state.not_started()?;
        let method = SignMethod::from_mechanism(&state.mechanism()?)?;
        self.verifier(method, &state.key)?.verify(&request.data, &request.signature)?;
        Ok(VerifyResponse {})
    }

    /// Adds data to be verified.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn verify_update(&self, request: VerifyUpdateRequest) -> Result<VerifyUpdateResponse, Error> {
        let mut state = self.state(&request.state, Operation::Verify)?;
        let method = SignMethod::from_mechanism(&state.mechanism()?)?;
        let verifier = self.verifier(method, &state.key)?;
        update(method, verifier.secret(), &mut state, &request.data)?;
        Ok(VerifyUpdateResponse { state: self.wrap_state(&state)? })
    }

    /// Ends a verification.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID` and `CKR_SIGNATURE_LEN_RANGE` for a wrong signature.
    pub fn verify_final(&self, request: VerifyFinalRequest) -> Result<VerifyFinalResponse, Error> {
        let state = self.state(&request.state, Operation::Verify)?;
        let method = SignMethod::from_mechanism(&state.mechanism()?)?;
        let verifier = self.verifier(method, &state.key)?;
        let input = finish(method, verifier.secret(), &state)?;
        verifier.verify_prepared(&input, &request.signature)?;
        Ok(VerifyFinalResponse {})
    }

    /// Verifies in one call.
    ///
    /// # Errors
    /// `CKR_SIGNATURE_INVALID` and `CKR_SIGNATURE_LEN_RANGE` for a wrong signature.
    pub fn verify_single(&self, request: VerifySingleRequest) -> Result<VerifySingleResponse, Error> {
        let mechanism = self.offered(request.mech, ckf::CKF_VERIFY)?;
        let key = key_argument(request.pub_key, request.pub_key_bytes)?;
        self.verifier(SignMethod::from_mechanism(&mechanism)?, &key)?
            .verify(&request.data, &request.signature)?;
        Ok(VerifySingleResponse {})
    }

    /// A key that can sign with a method, and that its attributes allow to sign.
    fn signer(&self, method: SignMethod, blob: &[u8]) -> Result<Signer, Error> {
        let object = self.unit.unwrapped(blob)?;
        let fits = match (method, &object.material) {
            (SignMethod::RsaPkcs(_) | SignMethod::RsaPss { .. }, Material::Key(key)) => {
                matches!(key.pair(), Pair::Rsa(_))
            }
            (SignMethod::Ecdsa(_), Material::Key(key)) => matches!(key.pair(), Pair::Ec(..)),
            (SignMethod::Ed25519, Material::Key(key)) => matches!(key.pair(), Pair::Ed25519(_)),
            (SignMethod::MlDsa, Material::Key(key)) => matches!(key.pair(), Pair::MlDsa(..)),
            (SignMethod::Ecdsa(_), Material::Koblitz(_)) | (SignMethod::Hmac(_), Material::Secret(_)) => true,
            _ => false,
        };
        if !fits {
            return Err(wrong_type(method.private_key()));
        }
        self.permitted(object.attributes, Attributes::SIGN, "CKA_SIGN")?;
        Ok(Signer { method, object })
    }

    /// A key that can verify with a method, and that its attributes allow to verify.
    fn verifier(&self, method: SignMethod, key: &[u8]) -> Result<Verifier, Error> {
        if let SignMethod::Hmac(function) = method {
            let object = self.unit.unwrapped(key)?;
            if !matches!(object.material, Material::Secret(_)) {
                return Err(wrong_type(method.private_key()));
            }
            self.permitted(object.attributes, Attributes::VERIFY, "CKA_VERIFY")?;
            return Ok(Verifier::Secret(function, object));
        }
        let key = self.public_key(key)?;
        let fits = matches!(
            (method, &key.material),
            (SignMethod::RsaPkcs(_) | SignMethod::RsaPss { .. }, PublicMaterial::Rsa { .. })
                | (SignMethod::RsaPss { .. }, PublicMaterial::RsaPss { .. })
                | (SignMethod::Ecdsa(_), PublicMaterial::Ec(..) | PublicMaterial::Koblitz(_))
                | (SignMethod::Ed25519, PublicMaterial::Ed25519(_))
                | (SignMethod::MlDsa, PublicMaterial::MlDsa(..))
        );
        if !fits {
            return Err(wrong_type(method.public_key()));
        }
        if let Some(attributes) = key.attributes {
            self.permitted(attributes, Attributes::VERIFY, "CKA_VERIFY")?;
        }
        Ok(Verifier::Public(method, Box::new(key)))
    }
}

/// Adds a part to the hash or MAC of a state.
fn update(method: SignMethod, secret: Option<&[u8]>, state: &mut State, data: &[u8]) -> Result<(), Error> {
    let midstate = match (method, secret) {
        (SignMethod::Hmac(function), Some(secret)) => {
            let mut hmac = state.hmac(function, secret)?;
            hmac.update(data);
            hmac.save()
        }
        _ => {
            let mut hashing = state.hashing(method.hash().ok_or_else(in_one_piece)?)?;
            hashing.update(data);
            hashing.save()
        }
    };
    state.take(&midstate, data);
    Ok(())
}

/// The input of the key after the last part: a digest, or the MAC itself.
fn finish(method: SignMethod, secret: Option<&[u8]>, state: &State) -> Result<Vec<u8>, Error> {
    match (method, secret) {
        (SignMethod::Hmac(function), Some(secret)) => Ok(state.hmac(function, secret)?.finish(secret)),
        _ => Ok(state.hashing(method.hash().ok_or_else(in_one_piece)?)?.finish()),
    }
}

fn in_one_piece() -> Error {
    Error::new(
        ckr::CKR_FUNCTION_NOT_SUPPORTED,
        "the mechanism takes its data in one piece: use Single, or Init and the call without Update",
    )
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroUsize;

    use keyward_grep11::attribute_value::OneAttr;
    use keyward_grep11::{AttributeValue, GenerateKeyPairRequest, Mechanism, cka, ckm};
    use keyward_proto::Scheme as TlsScheme;

    use super::*;
    use crate::test_openssl::verifies;
    use crate::{MasterKey, Unit};

    #[test]
    fn another_library_verifies_ml_dsa() {
        let unit = Unit::new(MasterKey::generate().unwrap(), NonZeroUsize::MIN);
        let crypto = Crypto::new(unit);
        let mechanism = |number| Some(Mechanism { mechanism: number, parameter: None });
        for (parameters, scheme) in (1..).zip([TlsScheme::MlDsa44, TlsScheme::MlDsa65, TlsScheme::MlDsa87]) {
            let set = AttributeValue { one_attr: Some(OneAttr::AttributeI(parameters)) };
            let pair = crypto
                .generate_key_pair(GenerateKeyPairRequest {
                    mech: mechanism(ckm::CKM_IBM_ML_DSA_KEY_PAIR_GEN),
                    pub_key_template: [(cka::CKA_IBM_PARAMETER_SET, set)].into(),
                    ..GenerateKeyPairRequest::default()
                })
                .unwrap();
            let signed = crypto
                .sign_single(SignSingleRequest {
                    mech: mechanism(ckm::CKM_IBM_ML_DSA),
                    data: b"message".to_vec(),
                    priv_key: pair.priv_key,
                    ..SignSingleRequest::default()
                })
                .unwrap();
            let key = crypto.public_key(&pair.pub_key_bytes).unwrap();
            assert!(verifies(&key.spki, scheme, b"message", &signed.signature), "set {parameters}");
            assert!(!verifies(&key.spki, scheme, b"another", &signed.signature), "set {parameters}");
        }
    }
}
