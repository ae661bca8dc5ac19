//! Start-up, reload and stop of the server.

use core::time::Duration;
use std::sync::Arc;

use keyward_grep11::DESCRIPTORS;
use keyward_grep11::crypto_server::CryptoServer;
use keyward_unit::Unit;
use keyward_unit::grep11::Crypto;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;

use super::admission::Admission;
use super::admission_service::AdmissionService;
use super::connection;
use super::error::UnitServerError;
use super::memory::MemoryLimit;
use super::options::{Options, Transport};
use super::service::Service;
use super::tls;
use super::tokens::Tokens;
use super::unit;
use keyward_ground::hardening;
use keyward_ground::log::Log;
use keyward_ground::renewed::{Renewed, untried};
use keyward_ground::service_manager::{notify, notify_reloading};
use keyward_ground::signals::{Instruction, Signals};
use keyward_ground::sweep::sweep;

/// Serves until SIGTERM or SIGINT. SIGHUP reads tokens and certificates again. Changed certificates
/// are also read without a signal.
///
/// # Errors
/// [`UnitServerError`] is the reason why the server did not start, or ended.
pub fn serve(options: &Options) -> Result<(), UnitServerError> {
    let _log = Log::start();
    hardening::harden().map_err(UnitServerError::Hardening)?;
    let _ = hardening::raise_descriptor_limit();
    let tls = tls::acceptor(options)?;
    let tokens = options.tokens.as_deref().map(Tokens::read).transpose();
    let tokens = tokens.map_err(UnitServerError::Tokens)?.map(Arc::new);
    let unit = unit::open(options)?;
    warn(options);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(UnitServerError::Runtime)?;
    let served = runtime.block_on(serve_unit(options, tls, tokens, unit));
    // Without a wait: the result of work that still runs, such as an RSA key, has no receiver.
    runtime.shutdown_background();
    served
}

async fn serve_unit(
    options: &Options,
    tls: Option<Arc<Renewed<TlsAcceptor>>>,
    tokens: Option<Arc<Tokens>>,
    unit: Unit,
) -> Result<(), UnitServerError> {
    let mut signals = Signals::new().map_err(UnitServerError::Runtime)?;
    let failed = |reason| UnitServerError::Listen(options.listen, reason);
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let wkid = unit.wkid().map(|wkid| wkid.to_string()).unwrap_or_default();
    let unit = Arc::new(unit);
    // These tasks run until the runtime ends.
    drop(tls.clone().map(|tls| tokio::spawn(tls.watch(untried))));
    drop(tokio::spawn(sweep(Arc::clone(&unit))));
    let admission = Arc::new(Admission::new(tokens.clone()));
    let (connections, incoming) = mpsc::channel(1);
    tokio::spawn(connection::accept(listener, tls.clone(), Arc::clone(&admission), connections));

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<CryptoServer<Service>>().await;
    let mut routes = Routes::builder();
    routes.add_service(health_service.max_decoding_message_size(MAX_SMALL_MESSAGE));
    routes.add_service(MemoryLimit::new(crypto_service(options, unit)?, MAX_MEMORY));
    if options.reflection {
        add_reflection(&mut routes)?;
    }
    let stop = CancellationToken::new();
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_CONCURRENT_CALLS)
        .http2_max_header_list_size(MAX_HEADERS)
        .serve_with_incoming_shutdown(
            AdmissionService::new(routes.routes().prepare(), admission),
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    let mut serving = tokio::spawn(serving);

    notify(&[NotifyState::Ready]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %wkid, listen = %address, "ready");
    loop {
        tokio::select! {
            instruction = signals.next() => match instruction {
                Instruction::Reload => reload(tokens.as_deref(), tls.as_deref()).await,
                Instruction::Upgrade => tracing::warn!("ignored SIGUSR2: only keyward serve supports it; restart the unit instead"),
                Instruction::Stop => break,
            },
            ended = &mut serving => return Err(UnitServerError::ended(ended)),
        }
    }
    notify(&[NotifyState::Stopping]);
    health.set_not_serving::<CryptoServer<Service>>().await;
    stop.cancel();
    match tokio::time::timeout(DRAIN_TIMEOUT, serving).await {
        Ok(Ok(Ok(()))) => tracing::info!("stopped"),
        Ok(ended) => return Err(UnitServerError::ended(ended)),
        Err(_) => tracing::warn!("stopped with unanswered calls after {DRAIN_TIMEOUT:?}"),
    }
    Ok(())
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

/// Reads tokens and certificates again, if there are any. All other options need a restart.
async fn reload(tokens: Option<&Tokens>, tls: Option<&Renewed<TlsAcceptor>>) {
    notify_reloading();
    if let Some(tls) = tls {
        tls.read_again(untried).await;
    }
    match tokens.map(Tokens::read_again) {
        Some(Ok(())) => tracing::info!("tokens read again"),
        Some(Err(error)) => tracing::error!("the old tokens stay in force: {error}"),
        None if tls.is_some() => {}
        None => tracing::info!("nothing to reload: there is neither TLS nor a --token-file"),
    }
    notify(&[NotifyState::Ready]);
}

fn warn(options: &Options) {
    if options.dev {
        tracing::warn!(
            "DEVELOPMENT MODE (--dev): the master key is in {}; not for production",
            options.state_dir.display()
        );
    }
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
/// Maximum time for the calls under way when the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
