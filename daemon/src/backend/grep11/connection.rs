//! One connection to a unit, which belongs to the thread that opened it.

use core::future::Future;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::crypto_client::CryptoClient;
use keyward_grep11::{AttributeValue, GenerateKeyRequest, GetMechanismListRequest, Mechanism, cka, ckm};
use keyward_unit::{Header, Wkid};
use tonic::codegen::http;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

use super::http2::{self, Sender};
use super::token::{Token, Tokens};
use crate::backend::Trace;
use crate::backend::network::{self, TlsClient};
use crate::backend::pool::failure::Failure;
use crate::config::{Dialect, Endpoint};
use crate::ground::causes::causes;
use crate::ground::renewed::Renewed;

/// What all connections of a backend have in common.
pub(in crate::backend) struct Line {
    pub(in crate::backend) tls: Option<Arc<Renewed<TlsClient>>>,
    pub(in crate::backend) tokens: Arc<Tokens>,
    pub(in crate::backend) dialect: Dialect,
    pub(in crate::backend) keepalive: Duration,
}

/// A connection whose other end has proved to be a unit.
pub(in crate::backend) struct Connection {
    line: Arc<Line>,
    client: CryptoClient<Sender>,
    sender: Sender,
    /// The master key of the unit.
    pub(in crate::backend) wkid: Wkid,
    /// How long connecting took: a packet there, and one back.
    pub(in crate::backend) round_trip: Duration,
    /// Whether its loss has been told.
    mourned: AtomicBool,
}

impl Connection {
    /// Connects, and asks for a fresh blob, which names the master key of the unit: GREP11 has no other way to ask.
    ///
    /// # Errors
    /// [`Failure`] says how far it came.
    pub(in crate::backend) async fn open(endpoint: &Endpoint, line: &Arc<Line>) -> Result<Self, Failure> {
        Self::open_with(endpoint, line, line.tls.as_ref().map(|tls| tls.get())).await
    }

    /// The same, with files of TLS that may not be in force.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub(in crate::backend) async fn open_with(
        endpoint: &Endpoint,
        line: &Arc<Line>,
        tls: Option<Arc<TlsClient>>,
    ) -> Result<Self, Failure> {
        let (stream, round_trip) =
            network::connect(endpoint).await.map_err(|error| unreachable("connect", &error))?;
        let refusal = network::Refusal::default();
        let sender = match &tls {
            None => http2::speak(stream, line.keepalive).await,
            Some(tls) => {
                let stream = tls.connect(&endpoint.host, stream, &refusal).await;
                let stream = stream.map_err(|error| match refusal.get() {
                    Some(refusal) => Failure::Certificate(refusal.clone()),
                    None if network::is_of_the_certificate(&error) => {
                        Failure::Certificate(unreachable("agree on TLS", &error).to_string())
                    }
                    None => unreachable("agree on TLS", &error),
                })?;
                http2::speak(stream, line.keepalive).await
            }
        };
        let sender = sender
            .map_err(|error| Failure::severe(format_args!("it speaks no HTTP/2: {}", causes(&error))))?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let origin = http::Uri::builder().scheme(scheme).authority(endpoint.to_string()).path_and_query("/");
        let origin = origin.build().map_err(Failure::severe)?;
        let client = CryptoClient::with_origin(sender.clone(), origin);
        let mut connection = Self {
            line: Arc::clone(line),
            client,
            sender,
            wkid: Wkid::from_bytes([0; 16]),
            round_trip,
            mourned: AtomicBool::new(false),
        };
        // In TLS 1.3 a unit that does not take the client says so when that believes to be
        // connected.
        connection.wkid =
            connection.ask_for_wkid().await.map_err(|failure| match (failure, refusal.get()) {
                (Failure::Unit { .. }, Some(refusal)) => Failure::Certificate(refusal.clone()),
                (failure, _) => failure,
            })?;
        Ok(connection)
    }

    /// Calls a unit; with another token if it refuses the one that there is.
    ///
    /// # Errors
    /// [`Failure`] says why there is no answer.
    pub(super) async fn call<Q: Clone, A, F>(
        &self,
        message: Q,
        trace: Option<&Trace>,
        rpc: impl Fn(CryptoClient<Sender>, Request<Q>) -> F,
    ) -> Result<A, Failure>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let traceparent = trace.and_then(|trace| trace.parent().parse::<MetadataValue<Ascii>>().ok());
        let request = |message: Q, token: &Option<Arc<Token>>| {
            let mut request = Request::new(message);
            let metadata = request.metadata_mut();
            if let Some(token) = token {
                metadata.insert("authorization", token.header.clone());
            }
            if let Some(traceparent) = &traceparent {
                metadata.insert("traceparent", traceparent.clone());
            }
            request
        };
        let token = self.line.tokens.current();
        // Only where a token may turn out to be old is the message needed twice.
        let (token, again) = match token {
            Ok(None) => (None, None),
            Ok(token) => (token, Some(message.clone())),
            Err(_) => {
                self.line.tokens.replace(None).await.map_err(|error| Failure::Token(error.to_string()))?;
                let token = self.line.tokens.current();
                (token.map_err(|error| Failure::Token(error.to_string()))?, None)
            }
        };
        let failed = match rpc(self.client.clone(), request(message, &token)).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => Failure::of(&status),
        };
        match (failed, again) {
            (Failure::Token(reason), Some(message)) => {
                let replaced = self.line.tokens.replace(token.as_ref()).await;
                replaced.map_err(|error| Failure::Token(format!("{reason}; {error}")))?;
                let token = self.line.tokens.current();
                let token = token.map_err(|error| Failure::Token(error.to_string()))?;
                let answer = rpc(self.client.clone(), request(message, &token)).await;
                answer.map(tonic::Response::into_inner).map_err(|status| Failure::of(&status))
            }
            (failed, _) => Err(failed),
        }
    }

    /// The mechanisms that the unit offers.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub(in crate::backend) async fn mechanisms(&self) -> Result<Vec<u64>, Failure> {
        let list = |mut client: CryptoClient<Sender>, request| async move {
            client.get_mechanism_list(request).await
        };
        let mut mechanisms = self.call(GetMechanismListRequest {}, None, list).await?.mechs;
        mechanisms.sort_unstable();
        Ok(mechanisms)
    }

    pub(in crate::backend) fn dialect(&self) -> Dialect {
        self.line.dialect
    }

    /// Whether it is of no use any more.
    pub(in crate::backend) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until it is of no use any more.
    pub(in crate::backend) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Whether it is closed and this is the first to be told of it.
    pub(in crate::backend) fn mourn(&self) -> bool {
        self.is_closed() && !self.mourned.swap(true, Ordering::Relaxed)
    }

    async fn ask_for_wkid(&self) -> Result<Wkid, Failure> {
        let length = AttributeValue { one_attr: Some(OneAttr::AttributeI(32)) };
        let request = GenerateKeyRequest {
            mech: Some(Mechanism { mechanism: ckm::CKM_AES_KEY_GEN, parameter: None }),
            template: [(cka::CKA_VALUE_LEN, length)].into(),
            ..GenerateKeyRequest::default()
        };
        let generate =
            |mut client: CryptoClient<Sender>, request| async move { client.generate_key(request).await };
        let made = self.call(request, None, generate).await.map_err(|failure| match failure {
            // Whatever it has against a key of AES, it is of no use.
            Failure::Refused { reason, .. } | Failure::NotOffered(reason) => Failure::severe(reason),
            other => other,
        })?;
        let blob = super::key::blob_of(made.key, made.key_bytes);
        let header = Header::read(&blob);
        header.map(|header| header.wkid()).ok_or_else(|| {
            Failure::severe(
                "what it makes are no blobs of Enterprise PKCS #11, so its master key is not known",
            )
        })
    }
}

fn unreachable(attempt: &str, error: &io::Error) -> Failure {
    Failure::severe(format_args!("cannot {attempt}: {}", causes(error)))
}
