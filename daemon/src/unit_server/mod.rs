//! The software crypto unit alone, as a GREP11 server: `keyward unit serve`.
//!
//! [`connection`] is what calls come in on, [`limits`] says how many there may be, [`entrance`] is
//! what each call passes, [`admission`] with [`tokens`] says who may call, and as which of the
//! [`clients`], [`memory`] how much they may send, [`turns`] whose call is next, [`service`]
//! answers, [`simulator`] makes it as slow and unreliable as somebody wants to see it.

mod admission;
mod clients;
mod connection;
mod entrance;
mod limits;
mod memory;
mod service;
mod simulator;
mod tokens;
mod turns;

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_grep11::DESCRIPTORS;
use keyward_grep11::crypto_server::CryptoServer;
use keyward_unit::grep11::Crypto;
use keyward_unit::{MasterKey, Unit};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use zeroize::Zeroizing;

use crate::ground::causes::causes;
use crate::ground::exit;
use crate::ground::hardening;
use crate::ground::master_key::{self, MasterKeyError, Patterns};
use crate::ground::ownership::{self, OwnershipError};
use crate::ground::renewed::{Renewed, untried};
use crate::ground::text::quoted;
use crate::ground::tls_files::{self, TlsFileError};
use crate::observe::log::Log;
use crate::serve::{self, Asked, ServeError, Signals};
use admission::Admission;
use entrance::Entrance;
use memory::Bounded;
use service::Service;
use tokens::Tokens;

pub(crate) use simulator::{Chance, Simulation, mechanism};

/// What `keyward unit serve` is told on the command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) listen: SocketAddr,
    pub(crate) transport: Transport,
    /// The file of the master key; without one, a credential of systemd.exec(5).
    pub(crate) master_key: Option<PathBuf>,
    /// The file of the master key that is to come.
    pub(crate) next_master_key: Option<PathBuf>,
    pub(crate) state_dir: PathBuf,
    pub(crate) dev: bool,
    /// A file of bearer tokens, one a line.
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) reflection: bool,
    pub(crate) simulation: Simulation,
}

/// What the connections are.
#[derive(Debug)]
pub(crate) enum Transport {
    /// HTTP/2 without TLS, on loopback only.
    Plaintext,
    /// TLS, and with a file of client CAs mutual TLS. All are PEM files.
    Tls { certificate: PathBuf, key: PathBuf, client_ca: Option<PathBuf> },
}

/// Serves until SIGTERM or SIGINT; reads tokens and certificates again at SIGHUP, and certificates
/// also when they have changed.
///
/// # Errors
/// [`UnitServerError`] says what kept it from starting.
pub(crate) fn serve(options: &Options) -> Result<(), UnitServerError> {
    let _log = Log::start();
    hardening::harden().map_err(ServeError::Hardening)?;
    let _ = hardening::raise_descriptor_limit();
    let tls = tls(options)?;
    let tokens = options.tokens.as_deref().map(Tokens::read).transpose();
    let tokens = tokens.map_err(UnitServerError::Tokens)?.map(Arc::new);
    let unit = open_unit(options)?;
    let wkid = unit.wkid();
    warn(options);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new().map_err(ServeError::Runtime)?;
        let failed = |reason| UnitServerError::Listen(options.listen, reason);
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (connections, incoming) = mpsc::channel(1);
        let admission = Arc::new(Admission::new(tokens.clone()));
        if let Some(tls) = &tls {
            // Runs until the runtime ends.
            drop(tokio::spawn(Arc::clone(tls).watch(untried)));
        }
        tokio::spawn(connection::accept(listener, tls.clone(), Arc::clone(&admission), connections));

        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_CONCURRENT_CALLS)
            .http2_max_header_list_size(MAX_HEADERS);
        let unit = Arc::new(unit);
        // Runs until the runtime ends.
        drop(tokio::spawn(serve::sweep(Arc::clone(&unit))));
        let mut crypto = Crypto::new(unit);
        if options.simulation.padding_errors {
            crypto = crypto.with_padding_errors();
        }
        let service = Service::new(crypto, &options.simulation).map_err(ServeError::Runtime)?;
        let crypto = CryptoServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(usize::MAX);
        let crypto = Bounded::new(crypto, MAX_MEMORY);
        let (health, health_service) = tonic_health::server::health_reporter();
        let health_service = health_service.max_decoding_message_size(MAX_SMALL_MESSAGE);
        health.set_serving::<CryptoServer<Service>>().await;
        // Tools are divided on the version.
        let describe = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection = options.reflection.then(|| describe().build_v1()).transpose()?;
        let old_reflection = options.reflection.then(|| describe().build_v1alpha()).transpose()?;
        let stop = CancellationToken::new();
        let mut routes = Routes::builder();
        routes.add_service(health_service).add_service(crypto);
        if let Some(service) = reflection {
            routes.add_service(service.max_decoding_message_size(MAX_SMALL_MESSAGE));
        }
        if let Some(service) = old_reflection {
            routes.add_service(service.max_decoding_message_size(MAX_SMALL_MESSAGE));
        }
        let entrance = Entrance::new(routes.routes().prepare(), admission);
        let incoming = ReceiverStream::new(incoming);
        let stopped = stop.clone().cancelled_owned();
        let serving = server.serve_with_incoming_shutdown(entrance, incoming, stopped);
        let mut serving = tokio::spawn(serving);

        serve::notify(&[NotifyState::Ready]);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %wkid, listen = %address, "ready");
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Reload => reload(tokens.as_deref(), tls.as_deref()).await,
                    Asked::Upgrade => tracing::warn!("SIGUSR2 is for keyward serve; restart a unit"),
                    Asked::Stop => break,
                },
                ended = &mut serving => return Err(UnitServerError::ended(ended)),
            }
        }
        serve::notify(&[NotifyState::Stopping]);
        health.set_not_serving::<CryptoServer<Service>>().await;
        stop.cancel();
        match tokio::time::timeout(DRAIN, serving).await {
            Ok(Ok(Ok(()))) => tracing::info!("stopped"),
            Ok(ended) => return Err(UnitServerError::ended(ended)),
            Err(_) => tracing::warn!("stopped with calls unanswered after {DRAIN:?}"),
        }
        Ok(())
    });
    // Whatever still computes, such as a large RSA key, has nobody to answer.
    runtime.shutdown_background();
    served
}

/// Why the server did not start.
#[derive(Debug, Error)]
pub(crate) enum UnitServerError {
    #[error("the server ended: {0}")]
    Ended(String),
    #[error(
        "{0}; if keys were wrapped by it already, name the new one with --next-master-key as well, and have the keys rewrapped"
    )]
    Guessable(MasterKeyError),
    #[error(transparent)]
    File(#[from] TlsFileError),
    #[error("cannot listen on {}: {}", .0, .1)]
    Listen(SocketAddr, #[source] io::Error),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error("refused a file: {0}")]
    NotOurs(OwnershipError),
    #[error("refused the private key in {}: others can read it; run: chmod o= {}", .0.display(), quoted(.0))]
    Open(PathBuf),
    #[error(
        "refused --plaintext on {0}: keys and signatures would cross the network in the clear; listen on 127.0.0.1 or [::1], or use --tls-cert and --tls-key"
    )]
    PlaintextOutside(SocketAddr),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error(transparent)]
    Start(#[from] ServeError),
    #[error(
        "cannot use the certificate, its key or the client CA: {0}; each must be a PEM file, and the key that of the certificate"
    )]
    Tls(String),
    #[error("{0}")]
    Tokens(String),
}

impl UnitServerError {
    /// The server ended, and not because it was asked to.
    fn ended(ended: Result<Result<(), tonic::transport::Error>, JoinError>) -> Self {
        Self::Ended(match ended {
            Ok(Ok(())) => "it accepts no more connections".into(),
            Ok(Err(error)) => causes(&error),
            Err(error) => error.to_string(),
        })
    }

    /// The status that the process ends with, from sysexits(3).
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Listen(_, reason) => match reason.kind() {
                io::ErrorKind::PermissionDenied => exit::NO_PERMISSION,
                _ => exit::UNAVAILABLE,
            },
            Self::Guessable(_) | Self::MasterKey(_) | Self::NotOurs(_) => exit::CONFIG,
            Self::File(_) | Self::Open(_) | Self::Tls(_) | Self::Tokens(_) => exit::CONFIG,
            Self::PlaintextOutside(_) => exit::USAGE,
            Self::Read(..) => exit::NO_INPUT,
            Self::Ended(_) | Self::Reflection(_) => exit::SOFTWARE,
            Self::Start(error) => error.status(),
        }
    }
}

/// Reads tokens and certificates again, if there are any. Everything else takes effect with a
/// restart.
async fn reload(tokens: Option<&Tokens>, tls: Option<&Renewed<TlsAcceptor>>) {
    serve::notify_reloading();
    if let Some(tls) = tls {
        tls.read_again(untried).await;
    }
    match tokens.map(Tokens::read_again) {
        Some(Ok(())) => tracing::info!("tokens read again"),
        Some(Err(error)) => tracing::error!("the old tokens stay in force: {error}"),
        None if tls.is_some() => {}
        None => tracing::info!("nothing to read again: there is neither TLS nor a --token-file"),
    }
    serve::notify(&[NotifyState::Ready]);
}

/// What connections are accepted with: TLS by files that are read again, or nothing.
fn tls(options: &Options) -> Result<Option<Arc<Renewed<TlsAcceptor>>>, UnitServerError> {
    let (certificate, key, client_ca) = match &options.transport {
        Transport::Plaintext if options.listen.ip().is_loopback() => return Ok(None),
        Transport::Plaintext => return Err(UnitServerError::PlaintextOutside(options.listen)),
        Transport::Tls { certificate, key, client_ca } => {
            (certificate.clone(), key.clone(), client_ca.clone())
        }
    };
    let files = [Some(&certificate), Some(&key), client_ca.as_ref()].into_iter().flatten().cloned();
    let files = files.collect();
    let read = move || acceptor(&certificate, &key, client_ca.as_deref());
    Renewed::new("certificate, key and client CA".into(), files, read).map(Arc::new).map(Some)
}

fn acceptor(
    certificate: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<TlsAcceptor, UnitServerError> {
    let failed = |error: &dyn core::error::Error| UnitServerError::Tls(causes(error));
    let builder = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(
                roots.into(),
                aws_lc_rs::default_provider().into(),
            );
            builder.with_client_cert_verifier(verifier.build().map_err(|error| failed(&error))?)
        }
    };
    let secret = tls_files::private_key(key, &read_secret(key)?)?;
    let mut config =
        builder.with_single_cert(certificates(certificate)?, secret).map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificates in a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, UnitServerError> {
    Ok(tls_files::certificates(path, &read(path)?)?)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, UnitServerError> {
    ownership::read_all(open(path)?).map_err(|reason| UnitServerError::Read(path.to_owned(), reason))
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, UnitServerError> {
    let failed = |reason| UnitServerError::Read(path.to_owned(), reason);
    let file = open(path)?;
    match ownership::is_for_others(&file).map_err(failed)? {
        true => Err(UnitServerError::Open(path.to_owned())),
        false => ownership::read_all(file).map_err(failed),
    }
}

fn open(path: &Path) -> Result<File, UnitServerError> {
    ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => UnitServerError::Read(path.to_owned(), reason),
        Err(error) => UnitServerError::NotOurs(error),
    })
}

fn open_unit(options: &Options) -> Result<Unit, UnitServerError> {
    let master_key = match options.dev {
        true => {
            serve::make_state_dir(&options.state_dir)?;
            // A directory with keys has had its master key.
            let fresh = !options.state_dir.join(crate::keys::Store::FILE).exists();
            master_key::load_dev(&options.state_dir, fresh)?
        }
        // Nobody knows whose blobs it has wrapped. With another one beside it they can be
        // rewrapped.
        false => {
            let patterns = match options.next_master_key {
                Some(_) => Patterns::Accepted,
                None => Patterns::Refused,
            };
            master_key::load_for_unit(options.master_key.as_deref(), patterns).map_err(of_pattern)?
        }
    };
    if let Some(warning) = master_key::warning(&master_key) {
        tracing::error!("{warning}");
    }
    let unit = Unit::new(master_key, CACHED_KEYS);
    Ok(match &options.next_master_key {
        Some(path) => unit.with_next_master_key(next_master_key(path)?),
        None => unit,
    })
}

fn next_master_key(path: &Path) -> Result<MasterKey, MasterKeyError> {
    master_key::load_for_unit(Some(path), Patterns::Refused)
}

/// The way out for blobs that were wrapped by such a key already.
fn of_pattern(error: MasterKeyError) -> UnitServerError {
    match error {
        MasterKeyError::Weak(_) => UnitServerError::Guessable(error),
        error => error.into(),
    }
}

fn warn(options: &Options) {
    if options.dev {
        tracing::warn!(
            "DEVELOPMENT MODE (--dev): the master key lies in {}; not for production",
            options.state_dir.display()
        );
    }
    let mutual = matches!(&options.transport, Transport::Tls { client_ca: Some(_), .. });
    if options.tokens.is_none() && !mutual {
        tracing::warn!(
            "whoever reaches {} may use every key whose blob they have: there is neither --client-ca nor --token-file",
            options.listen
        );
    }
    for line in options.simulation.described() {
        tracing::warn!("SIMULATION: {line}");
    }
}

/// As IBM's server has it: a ping after 30 seconds without a word, and 5 seconds to answer it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest request, in bytes, as IBM's server has it (64 MiB).
const MAX_MESSAGE: usize = 64 << 20;
/// Longest request of the services for health and reflection, which name one of a few services, in
/// bytes.
const MAX_SMALL_MESSAGE: usize = 1024;
/// Longest headers of a call, in bytes, as gRPC recommends.
const MAX_HEADERS: u32 = 8 << 10;
/// What the requests and answers of all connections may take at a time, in KiB (1 GiB).
const MAX_MEMORY: usize = 1 << 20;
/// On one connection.
const MAX_CONCURRENT_CALLS: u32 = 256;
/// How long calls may take to end when the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// Unwrapped keys that are kept at hand.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
