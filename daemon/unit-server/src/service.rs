//! The service `grep11.Crypto`: hands each call to the unit, and turns an error into the status of a call.

use core::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use keyward_grep11::{
    self as proto, DecryptSingleRequest, ERROR_TYPE_URL, Grep11Error, KeyBlob, RpcStatus, SignSingleRequest,
    ckr, crypto_server,
};
use keyward_unit::grep11::{Crypto, Error};
use prost::Message;
use tonic::{Code, Extensions, Request, Response, Status};

use super::admission::Caller;
use super::clients::Client;
use super::simulator::{Named, Simulation, Simulator};
use super::turns::Turns;

/// The service on a unit.
pub(crate) struct Service {
    crypto: Arc<Crypto>,
    simulator: Option<Simulator>,
    turns: Turns,
}

impl Service {
    /// # Errors
    /// There are no threads to be had.
    pub(crate) fn new(crypto: Crypto, simulation: &Simulation) -> io::Result<Self> {
        let (simulator, turns) = (Simulator::new(simulation), Turns::new()?);
        Ok(Self { crypto: Arc::new(crypto), simulator, turns })
    }

    /// Answers a call in its turn. `mechanisms` are those that it names.
    async fn call<Q: Message + 'static, R: Send + 'static>(
        &self,
        rpc: &'static str,
        mechanisms: &[Option<u64>],
        request: Request<Q>,
        answer: fn(&Crypto, Q) -> Result<R, Error>,
    ) -> Result<Response<R>, Status> {
        // They hold the memory that the request was counted for.
        let (metadata, extensions, request) = request.into_parts();
        let Some(Caller { client, .. }) = extensions.get() else { return Err(status(&given_up())) };
        let answered = self.answered(rpc, mechanisms, &extensions, client, request, answer).await;
        answered.map(Response::new).map_err(|error| {
            if let Some(times) = client.refusals.admit(rpc, error.code()) {
                // W3C Trace Context, 3.2: what the client calls this.
                let trace =
                    metadata.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("none");
                tracing::info!(rpc, trace, times, client = %client.name, "call refused: {error}");
            }
            status(&error)
        })
    }

    async fn answered<Q: Message + 'static, R: Send + 'static>(
        &self,
        rpc: &'static str,
        mechanisms: &[Option<u64>],
        extensions: &Extensions,
        client: &Client,
        request: Q,
        answer: fn(&Crypto, Q) -> Result<R, Error>,
    ) -> Result<R, Error> {
        if let Some(simulator) = &self.simulator {
            simulator.before(rpc, mechanisms, extensions).await?;
        }
        let long = is_long(rpc, &request);
        // A mistake in one call must not take the connection down, and with it all others.
        let fenced = move |crypto: &Crypto| {
            catch_unwind(AssertUnwindSafe(|| answer(crypto, request))).unwrap_or_else(|_| Err(given_up()))
        };
        let answered = if long {
            let crypto = Arc::clone(&self.crypto);
            // The turn ends with the work, even if nobody waits for that any more.
            let answered = self.turns.long(client, move || fenced(&crypto)).await?;
            answered.unwrap_or_else(|| Err(given_up()))
        } else {
            self.turns.short(client).await?.work(|| fenced(&self.crypto))
        };
        let mut answer = answered?;
        if let Some(simulator) = &self.simulator {
            simulator.after(rpc, &mut answer);
        }
        Ok(answer)
    }
}

/// Whether a call may take longer than to hand it to another thread is worth.
fn is_long<Q: Message + 'static>(rpc: &str, request: &Q) -> bool {
    let blob = match (request as &dyn Any).downcast_ref() {
        Some(SignSingleRequest { priv_key, priv_key_bytes, .. }) => blob(priv_key.as_ref(), priv_key_bytes),
        None => match (request as &dyn Any).downcast_ref() {
            Some(DecryptSingleRequest { key, key_bytes, .. }) => blob(key.as_ref(), key_bytes),
            None => &[],
        },
    };
    blob.len() > LONG_KEY || LONG.contains(&rpc) || request.encoded_len() > LONG_REQUEST
}

/// The key of a request, in either dialect.
fn blob<'a>(newer: Option<&'a KeyBlob>, older: &'a [u8]) -> &'a [u8] {
    newer.and_then(|key| key.key_blobs.first()).map_or(older, Vec::as_slice)
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

/// Calls that may take long whatever their length. Private keys of RSA take up to seconds to make, and milliseconds
/// to check and to use; a state does not tell which key it has inside.
const LONG: &[&str] = &[
    "Decrypt",
    "DecryptFinal",
    "DecryptUpdate",
    "GenerateKeyPair",
    "GenerateRandom",
    "ReencryptSingle",
    "Sign",
    "SignFinal",
    "UnwrapKey",
];
/// Blobs that are longer are those of RSA keys from 3,072 bits on, in bytes: the blob of RSA-2048 has 1,344, that of
/// RSA-3072 has 1,920. A shorter operation is not worth the way to another thread.
const LONG_KEY: usize = 1600;
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
        details: vec![proto::Any { type_url: ERROR_TYPE_URL.into(), value: detail.encode_to_vec() }],
    };
    Status::with_details(code, message, details.encode_to_vec().into())
}
