//! Start, reload and stop of the server.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use keyward_grep11::DESCRIPTORS;
use keyward_grep11::crypto_server::CryptoServer;
use keyward_unit::Unit;
use keyward_unit::grep11::Crypto;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::admission::Admission;
use super::admission_service::AdmissionService;
use super::connection;
use super::error::UnitServerError;
use super::memory::MemoryLimit;
use super::options::{Options, Transport};
use super::service::Service;
use super::tls;
use super::tokens::Tokens;
use keyward_ground::in_use;
use keyward_ground::renewed::{Renewed, untried};

/// The unit as a GREP11 server: its listener, and who may connect.
pub struct UnitServer {
    options: Options,
    tls: Option<Arc<Renewed<TlsAcceptor>>>,
    tokens: Option<Arc<Tokens>>,
    listener: Mutex<Option<std::net::TcpListener>>,
    address: SocketAddr,
}

impl UnitServer {
    /// Reads the files of the options, and listens.
    ///
    /// # Errors
    /// [`UnitServerError`] says which file cannot be used, or why the address is not free.
    pub fn open(options: Options) -> Result<Self, UnitServerError> {
        let tls = tls::acceptor(&options)?;
        let tokens = options.tokens.as_deref().map(Tokens::read).transpose();
        let tokens = tokens.map_err(UnitServerError::Tokens)?.map(Arc::new);
        warn(&options);
        let failed = |reason| UnitServerError::Listen(options.listen, reason);
        let bind = || std::net::TcpListener::bind(options.listen);
        let listener = in_use::retried(bind, |error| error.kind() == io::ErrorKind::AddrInUse);
        let listener = listener.map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { tls, tokens, listener: Mutex::new(Some(listener)), address, options })
    }

    /// Address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a unit until `stop`, then answers the calls under way.
    ///
    /// # Errors
    /// [`UnitServerError`] is the reason why the server ended before.
    pub async fn serve(&self, unit: Arc<Unit>, stop: CancellationToken) -> Result<(), UnitServerError> {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = listener.ok_or_else(|| UnitServerError::Ended("it serves already".into()))?;
        let listener = TcpListener::from_std(listener).map_err(UnitServerError::Runtime)?;
        // These tasks run until the runtime ends.
        drop(self.tls.clone().map(|tls| tokio::spawn(tls.watch(untried))));
        let admission = Arc::new(Admission::new(self.tokens.clone()));
        let (connections, incoming) = mpsc::channel(1);
        tokio::spawn(connection::accept(listener, self.tls.clone(), Arc::clone(&admission), connections));

        let (health, health_service) = tonic_health::server::health_reporter();
        let mut routes = Routes::builder();
        routes.add_service(health_service.max_decoding_message_size(MAX_SMALL_MESSAGE));
        routes.add_service(MemoryLimit::new(crypto_service(&self.options, Arc::clone(&unit))?, MAX_MEMORY));
        if self.options.reflection {
            add_reflection(&mut routes)?;
        }
        let ending = CancellationToken::new();
        let serving = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_CONCURRENT_CALLS)
            .http2_max_header_list_size(MAX_HEADERS)
            .serve_with_incoming_shutdown(
                AdmissionService::new(routes.routes().prepare(), admission),
                ReceiverStream::new(incoming),
                ending.clone().cancelled_owned(),
            );
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            ended = &mut serving => return Err(UnitServerError::ended(ended)),
            () = follow(&health, &unit) => {}
            () = stop.cancelled() => {}
        }
        health.set_not_serving::<CryptoServer<Service>>().await;
        ending.cancel();
        match tokio::time::timeout(DRAIN_TIMEOUT, serving).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(ended) => Err(UnitServerError::ended(ended)),
            Err(_) => {
                tracing::warn!("stopped with unanswered calls after {DRAIN_TIMEOUT:?}");
                Ok(())
            }
        }
    }

    /// Reads tokens and certificates again, if there are any. All other options need a restart.
    /// Returns the problems of files that are not in force.
    pub async fn reload(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(tls) = &self.tls {
            tls.read_again(untried).await;
            problems.extend(tls.problem());
        }
        match self.tokens.as_ref().map(|tokens| tokens.read_again()) {
            Some(Ok(())) => tracing::info!("tokens read again"),
            Some(Err(error)) => {
                let problem = format!("the old tokens stay in force: {error}");
                tracing::error!("{problem}");
                problems.push(problem);
            }
            None => {}
        }
        problems
    }
}

/// Tells clients that ask for the health of the service whether the unit is sealed. Never returns.
async fn follow(health: &HealthReporter, unit: &Unit) {
    let mut was_sealed = None;
    loop {
        let is_sealed = unit.is_sealed();
        if was_sealed != Some(is_sealed) {
            match is_sealed {
                true => health.set_not_serving::<CryptoServer<Service>>().await,
                false => health.set_serving::<CryptoServer<Service>>().await,
            }
            was_sealed = Some(is_sealed);
        }
        tokio::time::sleep(HEALTH_INTERVAL).await;
    }
}

/// Service `grep11.Crypto` of a unit.
fn crypto_service(options: &Options, unit: Arc<Unit>) -> Result<CryptoServer<Service>, UnitServerError> {
    let crypto = Crypto::new(unit);
    let crypto = if options.simulation.padding_errors { crypto.with_padding_errors() } else { crypto };
    let service = Service::new(crypto, &options.simulation).map_err(UnitServerError::Runtime)?;
    Ok(CryptoServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(usize::MAX))
}

/// Adds both versions of the reflection service: some tools know only one of them.
fn add_reflection(routes: &mut RoutesBuilder) -> Result<(), UnitServerError> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    routes.add_service(builder().build_v1()?.max_decoding_message_size(MAX_SMALL_MESSAGE));
    routes.add_service(builder().build_v1alpha()?.max_decoding_message_size(MAX_SMALL_MESSAGE));
    Ok(())
}

fn warn(options: &Options) {
    let has_mutual_tls = matches!(&options.transport, Transport::Tls { client_ca: Some(_), .. });
    if options.tokens.is_none() && !has_mutual_tls {
        tracing::warn!(
            "every client that reaches {} may use each key whose blob it has: there is neither --client-ca nor --token-file",
            options.listen
        );
    }
    for line in options.simulation.describe() {
        tracing::warn!("SIMULATION: {line}");
    }
}

/// Time without a frame before a ping, the same as in IBM's server.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the answer to a ping, the same as in IBM's server.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum length of a request, in bytes: 64 MiB, the same as in IBM's server.
const MAX_MESSAGE: usize = 64 << 20;
/// Maximum length of a request for health or reflection, in bytes. Such a request names one of a
/// few services.
const MAX_SMALL_MESSAGE: usize = 1024;
/// Maximum length of the headers of a call, in bytes, as gRPC recommends.
const MAX_HEADERS: u32 = 8 << 10;
/// Maximum memory of all requests and responses together, in KiB (1 GiB).
const MAX_MEMORY: usize = 1 << 20;
/// Maximum number of calls under way on one connection.
const MAX_CONCURRENT_CALLS: u32 = 256;
/// Time between two looks at the unit, for the health of the service.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum time for the calls under way when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
