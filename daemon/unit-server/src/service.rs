//! Service `grep11.Crypto`: passes each call to the unit, and turns an error into a status.

use core::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use keyward_grep11::{self as proto, DecryptSingleRequest, KeyBlob, SignSingleRequest, ckr, crypto_server};
use keyward_unit::grep11::{Crypto, Error};
use prost::Message;
use tonic::{Extensions, Request, Response, Status};

use super::admission::Caller;
use super::clients::Client;
use super::rpcs::for_each_rpc;
use super::simulator::{MechanismField, Simulation, Simulator};
use super::status::status;
use super::turns::Turns;

/// Service of one unit.
pub(crate) struct Service {
    crypto: Arc<Crypto>,
    simulator: Option<Simulator>,
    turns: Turns,
}

impl Service {
    /// Service of a unit, with a simulation.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub(crate) fn new(crypto: Crypto, simulation: &Simulation) -> io::Result<Self> {
        let (simulator, turns) = (Simulator::new(simulation), Turns::new()?);
        Ok(Self { crypto: Arc::new(crypto), simulator, turns })
    }

    /// Answers a call, and logs a refusal. `mechanisms` are the mechanisms that the request names.
    async fn call<Q: Message + 'static, R: Send + 'static>(
        &self,
        rpc: &'static str,
        mechanisms: &[Option<u64>],
        request: Request<Q>,
        answer: fn(&Crypto, Q) -> Result<R, Error>,
    ) -> Result<Response<R>, Status> {
        // The extensions hold the memory permit of the request until the call ends.
        let (metadata, extensions, request) = request.into_parts();
        let Some(Caller { client, .. }) = extensions.get() else { return Err(status(&internal_error())) };
        let answered = self.answered(rpc, mechanisms, &extensions, client, request, answer).await;
        answered.map(Response::new).map_err(|error| {
            if let Some(times) = client.refusals.admit(rpc, error.code()) {
                // Name of the request at the client: W3C Trace Context, 3.2.
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
        // Panic boundary: a bug in one call must not end the connection and its other calls.
        let guarded = move |crypto: &Crypto| {
            catch_unwind(AssertUnwindSafe(|| answer(crypto, request)))
                .unwrap_or_else(|_| Err(internal_error()))
        };
        let answered = if long {
            let crypto = Arc::clone(&self.crypto);
            let answered = self.turns.long(client, move || guarded(&crypto)).await?;
            answered.unwrap_or_else(|| Err(internal_error()))
        } else {
            self.turns.short(client).await?.work(|| guarded(&self.crypto))
        };
        let mut answer = answered?;
        if let Some(simulator) = &self.simulator {
            simulator.after(rpc, &mut answer);
        }
        Ok(answer)
    }
}

/// True if a call may take so long that it should run on another thread.
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

/// Blob of the key in a request, in the newer or the older field.
fn blob<'a>(newer: Option<&'a KeyBlob>, older: &'a [u8]) -> &'a [u8] {
    newer.and_then(|key| key.key_blobs.first()).map_or(older, Vec::as_slice)
}

/// Implements each rpc by the method of [`Crypto`] of the same name.
macro_rules! implement {
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
    };
}

for_each_rpc!(implement);

/// Rpcs that may take long for any length of the request. An RSA private key takes up to seconds to
/// generate, and milliseconds to check and to use. The state of an operation in several parts does
/// not show the type of its key.
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
/// Length of a blob, in bytes, above which its key is an RSA key of 3,072 bits or more. The blob of
/// RSA-2048 has 1,344 bytes, the blob of RSA-3072 has 1,920. For shorter keys, the change to
/// another thread would cost more than it saves.
const LONG_KEY: usize = 1600;
/// Length of a request, in bytes, above which hashing, encryption and decryption take long.
const LONG_REQUEST: usize = 128 * 1024;

fn internal_error() -> Error {
    Error::new(ckr::CKR_GENERAL_ERROR, "the call failed because of a bug in this server; please report it")
}
