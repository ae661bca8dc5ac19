//! The service `grep11.Crypto`: hands each call to the unit, and turns an error into the status of a call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use keyward_grep11::{self as proto, Any, ERROR_TYPE_URL, Grep11Error, RpcStatus, ckr, crypto_server};
use keyward_unit::grep11::{Crypto, Error};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::{Code, Extensions, Request, Response, Status};

use super::simulator::{Named, Simulation, Simulator};
use crate::throttle::Throttle;

/// The service on a unit.
pub(crate) struct Service {
    crypto: Arc<Crypto>,
    simulator: Option<Simulator>,
    /// One place for each long call that may be at work at a time.
    long_calls: Semaphore,
    refusals: Throttle,
}

impl Service {
    pub(crate) fn new(crypto: Crypto, simulation: &Simulation) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            crypto: Arc::new(crypto),
            simulator: Simulator::new(simulation),
            long_calls: Semaphore::new(processors),
            refusals: Throttle::default(),
        }
    }

    /// Answers a call where it is, or on a thread apart if it takes long. `mechanisms` are those that it names.
    async fn call<Q: Message + 'static, R: Send + 'static>(
        &self,
        rpc: &'static str,
        mechanisms: &[Option<u64>],
        request: Request<Q>,
        answer: fn(&Crypto, Q) -> Result<R, Error>,
    ) -> Result<Response<R>, Status> {
        // They hold the memory that the request was counted for.
        let (metadata, extensions, request) = request.into_parts();
        let answered = self.answered(rpc, mechanisms, &extensions, request, answer).await;
        answered.map(Response::new).map_err(|error| {
            if let Some(times) = self.refusals.admit() {
                // W3C Trace Context, 3.2: what the client calls this.
                let trace =
                    metadata.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("none");
                tracing::info!(rpc, trace, times, "call refused: {error}");
            }
            status(&error)
        })
    }

    async fn answered<Q: Message + 'static, R: Send + 'static>(
        &self,
        rpc: &'static str,
        mechanisms: &[Option<u64>],
        extensions: &Extensions,
        request: Q,
        answer: fn(&Crypto, Q) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let length = request.encoded_len();
        if let Some(simulator) = &self.simulator {
            simulator.before(rpc, mechanisms, extensions).await?;
        }
        // A mistake in one call must not take the connection down, and with it all others.
        let fenced = move |crypto: &Crypto| {
            catch_unwind(AssertUnwindSafe(|| answer(crypto, request))).unwrap_or_else(|_| Err(given_up()))
        };
        let answered = if LONG.contains(&rpc) || length > LONG_REQUEST {
            let crypto = Arc::clone(&self.crypto);
            let place = self.long_calls.acquire().await;
            let answered = tokio::task::spawn_blocking(move || fenced(&crypto)).await;
            drop(place);
            answered.unwrap_or_else(|_| Err(given_up()))
        } else {
            fenced(&self.crypto)
        };
        let mut answer = answered?;
        if let Some(simulator) = &self.simulator {
            simulator.after(rpc, &mut answer);
        }
        Ok(answer)
    }
}

/// Hands each rpc to the method of [`Crypto`] of the same name. In brackets stand the fields of its request that
/// name mechanisms.
macro_rules! rpcs {
    ($($method:ident: $rpc:literal, $request:ident$([$($mechanism:ident),+])? -> $response:ident;)+) => {
        #[tonic::async_trait]
        impl crypto_server::Crypto for Service {
            $(
                async fn $method(
                    &self,
                    request: Request<proto::$request>,
                ) -> Result<Response<proto::$response>, Status> {
                    let mechanisms: &[_] = &[$($(request.get_ref().$mechanism.number()),+)?];
                    self.call($rpc, mechanisms, request, Crypto::$method).await
                }
            )+
        }

        /// The names of all rpcs.
        pub(crate) const RPCS: &[&str] = &[$($rpc),+];
    };
}

rpcs! {
    generate_random: "GenerateRandom", GenerateRandomRequest -> GenerateRandomResponse;
    digest_init: "DigestInit", DigestInitRequest[mech] -> DigestInitResponse;
    digest: "Digest", DigestRequest -> DigestResponse;
    digest_update: "DigestUpdate", DigestUpdateRequest -> DigestUpdateResponse;
    digest_key: "DigestKey", DigestKeyRequest -> DigestKeyResponse;
    digest_final: "DigestFinal", DigestFinalRequest -> DigestFinalResponse;
    digest_single: "DigestSingle", DigestSingleRequest[mech] -> DigestSingleResponse;
    encrypt_init: "EncryptInit", EncryptInitRequest[mech] -> EncryptInitResponse;
    decrypt_init: "DecryptInit", DecryptInitRequest[mech] -> DecryptInitResponse;
    encrypt_update: "EncryptUpdate", EncryptUpdateRequest -> EncryptUpdateResponse;
    decrypt_update: "DecryptUpdate", DecryptUpdateRequest -> DecryptUpdateResponse;
    encrypt: "Encrypt", EncryptRequest -> EncryptResponse;
    decrypt: "Decrypt", DecryptRequest -> DecryptResponse;
    encrypt_final: "EncryptFinal", EncryptFinalRequest -> EncryptFinalResponse;
    decrypt_final: "DecryptFinal", DecryptFinalRequest -> DecryptFinalResponse;
    encrypt_single: "EncryptSingle", EncryptSingleRequest[mech] -> EncryptSingleResponse;
    decrypt_single: "DecryptSingle", DecryptSingleRequest[mech] -> DecryptSingleResponse;
    sign_init: "SignInit", SignInitRequest[mech] -> SignInitResponse;
    verify_init: "VerifyInit", VerifyInitRequest[mech] -> VerifyInitResponse;
    sign_update: "SignUpdate", SignUpdateRequest -> SignUpdateResponse;
    verify_update: "VerifyUpdate", VerifyUpdateRequest -> VerifyUpdateResponse;
    sign_final: "SignFinal", SignFinalRequest -> SignFinalResponse;
    verify_final: "VerifyFinal", VerifyFinalRequest -> VerifyFinalResponse;
    sign: "Sign", SignRequest -> SignResponse;
    verify: "Verify", VerifyRequest -> VerifyResponse;
    sign_single: "SignSingle", SignSingleRequest[mech] -> SignSingleResponse;
    verify_single: "VerifySingle", VerifySingleRequest[mech] -> VerifySingleResponse;
    reencrypt_single: "ReencryptSingle", ReencryptSingleRequest[dec_mech, enc_mech] -> ReencryptSingleResponse;
    generate_key: "GenerateKey", GenerateKeyRequest[mech] -> GenerateKeyResponse;
    generate_key_pair: "GenerateKeyPair", GenerateKeyPairRequest[mech] -> GenerateKeyPairResponse;
    wrap_key: "WrapKey", WrapKeyRequest[mech] -> WrapKeyResponse;
    unwrap_key: "UnwrapKey", UnwrapKeyRequest[mech] -> UnwrapKeyResponse;
    derive_key: "DeriveKey", DeriveKeyRequest[mech] -> DeriveKeyResponse;
    get_mechanism_list: "GetMechanismList", GetMechanismListRequest -> GetMechanismListResponse;
    get_mechanism_info: "GetMechanismInfo", GetMechanismInfoRequest[mech] -> GetMechanismInfoResponse;
    get_attribute_value: "GetAttributeValue", GetAttributeValueRequest -> GetAttributeValueResponse;
    set_attribute_value: "SetAttributeValue", SetAttributeValueRequest -> SetAttributeValueResponse;
    login: "Login", LoginRequest -> LoginResponse;
    logout: "Logout", LogoutRequest -> LogoutResponse;
    rewrap_key_blob: "RewrapKeyBlob", RewrapKeyBlobRequest -> RewrapKeyBlobResponse;
}

/// Calls that take long: RSA keys take up to seconds to make, and milliseconds to check.
const LONG: &[&str] = &["GenerateKeyPair", "UnwrapKey"];
/// Length of requests of which much is to be hashed, encrypted or decrypted, in bytes.
const LONG_REQUEST: usize = 128 * 1024;

fn given_up() -> Error {
    Error::new(ckr::CKR_GENERAL_ERROR, "the call was given up, which should never happen; please report it")
}

/// The status of a call that failed: the number in a detail, its name in the message.
pub(crate) fn status(error: &Error) -> Status {
    let code = match error.code() {
        ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED => Code::Unauthenticated,
        ckr::CKR_DEVICE_ERROR => Code::Unavailable,
        ckr::CKR_HOST_MEMORY => Code::ResourceExhausted,
        ckr::CKR_FUNCTION_NOT_SUPPORTED | ckr::CKR_MECHANISM_INVALID => Code::Unimplemented,
        ckr::CKR_FUNCTION_FAILED | ckr::CKR_GENERAL_ERROR => Code::Internal,
        ckr::CKR_KEY_FUNCTION_NOT_PERMITTED | ckr::CKR_KEY_UNEXTRACTABLE => Code::PermissionDenied,
        _ => Code::InvalidArgument,
    };
    let retry = matches!(error.code(), ckr::CKR_DEVICE_ERROR | ckr::CKR_HOST_MEMORY);
    let detail = Grep11Error { code: error.code(), detail: error.detail().into(), retry };
    let message = error.to_string();
    let details = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![Any { type_url: ERROR_TYPE_URL.into(), value: detail.encode_to_vec() }],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}
