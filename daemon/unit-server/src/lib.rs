//! The software crypto unit alone, as a GREP11 server: `keyward unit serve`.
//!
//! [`connection`] is what calls come in on, [`limits`] says how many there may be, [`entrance`] is
//! what each call passes, [`admission`] with [`tokens`] says who may call, and as which of the
//! [`clients`], [`memory`] how much they may send, [`turns`] whose call is next, [`service`]
//! answers, [`simulator`] makes it as slow and unreliable as somebody wants to see it.

#![forbid(unsafe_code)]

mod admission;
mod clients;
mod connection;
mod entrance;
mod error;
mod limits;
mod memory;
mod service;
mod simulator;
mod tls;
mod tokens;
mod turns;

use core::net::SocketAddr;
use core::num::NonZeroUsize;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyward_grep11::DESCRIPTORS;
use keyward_grep11::crypto_server::CryptoServer;
use keyward_unit::grep11::Crypto;
use keyward_unit::{MasterKey, Unit};
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use admission::Admission;
use entrance::Entrance;
use keyward_ground::hardening;
use keyward_ground::log::Log;
use keyward_ground::master_key::{self, MasterKeyError, Patterns};
use keyward_ground::renewed::{Renewed, untried};
use keyward_ground::service_manager::{notify, notify_reloading};
use keyward_ground::signals::{Instruction, Signals};
use keyward_ground::state_dir::{self, KEY_STORE};
use keyward_ground::sweep::sweep;
use memory::Bounded;
use service::Service;
use tokens::Tokens;

pub use error::UnitServerError;
pub use simulator::{Chance, Simulation, mechanism};

/// Options of `keyward unit serve`.
#[derive(Debug)]
pub struct Options {
    /// The address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// TLS, or none.
    pub transport: Transport,
    /// The file of the master key; without one, a credential of systemd.exec(5).
    pub master_key: Option<PathBuf>,
    /// The file of the next master key.
    pub next_master_key: Option<PathBuf>,
    /// Directory of the master key that `dev` makes.
    pub state_dir: PathBuf,
    /// Make a master key for trying things out.
    pub dev: bool,
    /// A file of bearer tokens, one a line.
    pub tokens: Option<PathBuf>,
    /// Describe the service to clients that ask.
    pub reflection: bool,
    /// The faults of a unit far away.
    pub simulation: Simulation,
}

/// Transport of the connections.
#[derive(Debug)]
pub enum Transport {
    /// HTTP/2 without TLS, on loopback only.
    Plaintext,
    /// TLS, and with a file of client CAs mutual TLS. All are PEM files.
    Tls {
        /// The certificate and the ones that certify it.
        certificate: PathBuf,
        /// The private key of the certificate.
        key: PathBuf,
        /// The authorities whose certificates clients must have.
        client_ca: Option<PathBuf>,
    },
}

/// Serves until SIGTERM or SIGINT; reads tokens and certificates again at SIGHUP, and certificates
/// also when they have changed.
///
/// # Errors
/// [`UnitServerError`] says what kept it from starting.
pub fn serve(options: &Options) -> Result<(), UnitServerError> {
    let _log = Log::start();
    hardening::harden().map_err(UnitServerError::Hardening)?;
    let _ = hardening::raise_descriptor_limit();
    let tls = tls::acceptor(options)?;
    let tokens = options.tokens.as_deref().map(Tokens::read).transpose();
    let tokens = tokens.map_err(UnitServerError::Tokens)?.map(Arc::new);
    let unit = open_unit(options)?;
    let wkid = unit.wkid();
    warn(options);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(UnitServerError::Runtime)?;
    let served = runtime.block_on(async {
        let mut signals = Signals::new().map_err(UnitServerError::Runtime)?;
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
        drop(tokio::spawn(sweep(Arc::clone(&unit))));
        let mut crypto = Crypto::new(unit);
        if options.simulation.padding_errors {
            crypto = crypto.with_padding_errors();
        }
        let service = Service::new(crypto, &options.simulation).map_err(UnitServerError::Runtime)?;
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

        notify(&[NotifyState::Ready]);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %wkid, listen = %address, "ready");
        loop {
            tokio::select! {
                instruction = signals.next() => match instruction {
                    Instruction::Reload => reload(tokens.as_deref(), tls.as_deref()).await,
                    Instruction::Upgrade => tracing::warn!("SIGUSR2 is for keyward serve; restart a unit"),
                    Instruction::Stop => break,
                },
                ended = &mut serving => return Err(UnitServerError::ended(ended)),
            }
        }
        notify(&[NotifyState::Stopping]);
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

/// Reads tokens and certificates again, if there are any. Everything else takes effect with a
/// restart.
async fn reload(tokens: Option<&Tokens>, tls: Option<&Renewed<TlsAcceptor>>) {
    notify_reloading();
    if let Some(tls) = tls {
        tls.read_again(untried).await;
    }
    match tokens.map(Tokens::read_again) {
        Some(Ok(())) => tracing::info!("tokens read again"),
        Some(Err(error)) => tracing::error!("the old tokens stay in force: {error}"),
        None if tls.is_some() => {}
        None => tracing::info!("nothing to read again: there is neither TLS nor a --token-file"),
    }
    notify(&[NotifyState::Ready]);
}

fn open_unit(options: &Options) -> Result<Unit, UnitServerError> {
    let master_key = match options.dev {
        true => {
            state_dir::make(&options.state_dir)?;
            // A directory with keys has had its master key.
            let fresh = !options.state_dir.join(KEY_STORE).exists();
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
