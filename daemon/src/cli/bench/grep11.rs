//! Measurement of a crypto unit over GREP11.

use core::num::NonZeroUsize;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use aws_lc_rs::digest;
use clap::{ArgGroup, Args};
use keyward_grep11::attribute_value::OneAttr;
use keyward_grep11::crypto_client::CryptoClient;
use keyward_grep11::{AttributeValue, GenerateKeyPairRequest, KeyBlob, Mechanism, SignSingleRequest, cka};
use keyward_proto::KeyType;
use keyward_unit::{MasterKey, SigningInput, Unit};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use super::interrupt::{Interrupt, interrupted};
use super::measurement::{Latencies, Load, Measured, certificate_verify, no_latencies, record, scheme, vary};
use crate::backend::grep11::{InputForm, generation, mechanism};
use crate::cli::failure::Failure;
use crate::ground::causes::causes;
use crate::ground::exit;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("transport").args(["plaintext", "tls_ca"]))]
pub(super) struct Grep11Options {
    /// Measure a GREP11 server instead of the daemon
    #[arg(
        long = "grep11",
        id = "grep11",
        value_name = "HOST:PORT",
        requires = "transport",
        help_heading = "GREP11"
    )]
    pub(super) address: Option<String>,
    /// Number of concurrent calls on each connection
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1024),
        requires = "grep11",
        help_heading = "GREP11"
    )]
    calls: u16,
    /// Connect without TLS
    #[arg(long, requires = "grep11", help_heading = "GREP11")]
    plaintext: bool,
    /// CA of the server's certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "grep11", help_heading = "GREP11")]
    tls_ca: Option<PathBuf>,
    /// Certificate chain for the server, in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"], help_heading = "GREP11")]
    tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "GREP11")]
    tls_key: Option<PathBuf>,
    /// File with the bearer token for the server
    #[arg(long, value_name = "FILE", requires = "grep11", help_heading = "GREP11")]
    token_file: Option<PathBuf>,
}

/// A GREP11 server, and the settings of its connections.
pub(super) struct RemoteUnit {
    endpoint: Endpoint,
    address: String,
    token: Option<MetadataValue<Ascii>>,
    /// Number of concurrent calls on each connection.
    calls: usize,
}

impl RemoteUnit {
    pub(super) fn new(address: &str, options: &Grep11Options) -> Result<Self, Failure> {
        let protocol = if options.plaintext { "http" } else { "https" };
        let unusable = |error: tonic::transport::Error| {
            Failure::new(exit::USAGE, causes(&error)).while_trying(format_args!("cannot use {address}"))
        };
        let mut endpoint = Endpoint::from_shared(format!("{protocol}://{address}"))
            .map_err(unusable)?
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .tcp_nodelay(true);
        if let Some(ca) = &options.tls_ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
            if let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            endpoint = endpoint.tls_config(tls).map_err(unusable)?;
        }
        let token = options.token_file.as_deref().map(token).transpose()?;
        Ok(Self { endpoint, address: address.to_owned(), token, calls: options.calls.into() })
    }

    pub(super) fn measure(
        &self,
        key_type: KeyType,
        load: Load,
        interrupt: &mut Interrupt,
    ) -> Result<Measured, Failure> {
        let bare = bare(key_type)?;
        let signer = Arc::new(runtime()?.block_on(self.signer(key_type))?);
        let stop = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let mut latencies = no_latencies()?;
        let was_interrupted = thread::scope(|scope| {
            let connections: Vec<_> =
                (0..load.connections).map(|_| scope.spawn(|| self.sign(&signer, &stop))).collect();
            let is_over = || connections.iter().any(thread::ScopedJoinHandle::is_finished);
            let was_interrupted = interrupt.within(load.duration, is_over);
            stop.store(true, Ordering::Relaxed);
            for connection in connections {
                let signed = connection
                    .join()
                    .map_err(|_| Failure::new(exit::SOFTWARE, "a thread of the benchmark died"))?;
                let _ = latencies.add(signed?);
            }
            Ok::<_, Failure>(was_interrupted)
        })?;
        if was_interrupted {
            return Err(interrupted());
        }
        let measured = Measured::new(key_type, load, load.connections * self.calls, start, &latencies);
        Ok(Measured { bare_us: Some(bare), ..measured })
    }

    /// Signs over one connection until `stop` is set.
    fn sign(&self, signer: &Arc<Signer>, stop: &Arc<AtomicBool>) -> Result<Latencies, Failure> {
        runtime()?.block_on(async {
            let client = self.connect().await?;
            let mut calls = JoinSet::new();
            for _ in 0..self.calls {
                calls.spawn(Arc::clone(signer).sign(client.clone(), Arc::clone(stop)));
            }
            let mut latencies = no_latencies()?;
            while let Some(signed) = calls.join_next().await {
                let signed =
                    signed.map_err(|_| Failure::new(exit::SOFTWARE, "a task of the benchmark died"))?;
                let signed = signed.map_err(|failure| {
                    failure.while_trying(format_args!("cannot sign at {}", self.address))
                })?;
                let _ = latencies.add(signed);
            }
            Ok(latencies)
        })
    }

    async fn connect(&self) -> Result<CryptoClient<Channel>, Failure> {
        let channel = self.endpoint.connect().await.map_err(|error| {
            Failure::new(exit::UNAVAILABLE, causes(&error))
                .while_trying(format_args!("cannot connect to {}", self.address))
        })?;
        Ok(CryptoClient::new(channel))
    }

    /// Lets the server make a key. Only this process has its blob: the server stores no key.
    async fn signer(&self, key_type: KeyType) -> Result<Signer, Failure> {
        let (mechanism, number, value) = generation(key_type);
        let value = AttributeValue { one_attr: Some(value) };
        let sign = AttributeValue { one_attr: Some(OneAttr::AttributeTf(true)) };
        let request = GenerateKeyPairRequest {
            mech: Some(Mechanism { mechanism, parameter: None }),
            pub_key_template: [(number, value)].into(),
            priv_key_template: [(cka::CKA_SIGN, sign)].into(),
            ..GenerateKeyPairRequest::default()
        };
        let mut request = Request::new(request);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        let pair = self.connect().await?.generate_key_pair(request).await.map_err(|error| {
            refused(&error).while_trying(format_args!("cannot generate a {key_type} key at {}", self.address))
        })?;
        let pair = pair.into_inner();
        let key = match pair.priv_key.and_then(|key| key.key_blobs.into_iter().next()) {
            Some(blob) => blob,
            None => pair.priv_key_bytes,
        };
        Ok(Signer { key_type, key, token: self.token.clone() })
    }
}

/// A key, and the credentials for the server.
struct Signer {
    key_type: KeyType,
    key: Vec<u8>,
    token: Option<MetadataValue<Ascii>>,
}

impl Signer {
    fn request(&self, message: &[u8]) -> Request<SignSingleRequest> {
        let scheme = scheme(self.key_type);
        let (form, data) = match scheme.hash() {
            Some(hash) => {
                let digest = digest::digest(mechanism::digest_algorithm(hash), message);
                (InputForm::Digest, mechanism::data(scheme, digest.as_ref()))
            }
            None => (InputForm::Message, message.to_vec()),
        };
        let mechanism = mechanism::number(scheme, form).map(|number| mechanism::mechanism(scheme, number));
        let mut request = Request::new(SignSingleRequest {
            priv_key: Some(KeyBlob { key_blobs: vec![self.key.clone()], ..KeyBlob::default() }),
            mech: mechanism,
            data,
            ..SignSingleRequest::default()
        });
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// Signs, one call after the other, until `stop` is set.
    async fn sign(
        self: Arc<Self>,
        mut client: CryptoClient<Channel>,
        stop: Arc<AtomicBool>,
    ) -> Result<Latencies, Failure> {
        let mut latencies = no_latencies()?;
        let mut message = certificate_verify();
        // For the first signature, the unit unwraps the key.
        client.sign_single(self.request(&message)).await.map_err(|error| refused(&error))?;
        while !stop.load(Ordering::Relaxed) {
            vary(&mut message);
            let begin = Instant::now();
            client.sign_single(self.request(&message)).await.map_err(|error| refused(&error))?;
            record(&mut latencies, begin);
        }
        Ok(latencies)
    }
}

fn runtime() -> Result<Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(exit::OS, format_args!("cannot start the benchmark: {error}")))
}

/// Time of one signature by the software crypto unit in this process, in microseconds.
fn bare(key_type: KeyType) -> Result<f64, Failure> {
    let failed = |error: keyward_unit::UnitError| Failure::new(exit::SOFTWARE, error);
    let unit = Unit::new(MasterKey::generate().map_err(failed)?, NonZeroUsize::MIN);
    let key = unit.generate(key_type).map_err(failed)?;
    let mut message = certificate_verify();
    let (begin, mut signatures) = (Instant::now(), 0_u32);
    while begin.elapsed() < BARE {
        vary(&mut message);
        unit.sign(&key.blob, scheme(key_type), SigningInput::Message(&message)).map_err(failed)?;
        signatures += 1;
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / f64::from(signatures))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|reason| Failure::reading(path, &reason))
}

/// The first token of a file in the format of `keyward unit serve --token-file`.
fn token(path: &Path) -> Result<MetadataValue<Ascii>, Failure> {
    let text = fs::read_to_string(path).map_err(|reason| Failure::reading(path, &reason))?;
    let token = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let token = token.and_then(|token| format!("Bearer {token}").parse().ok());
    token.ok_or_else(|| Failure::new(exit::CONFIG, format_args!("there is no token in {}", path.display())))
}

fn refused(status: &Status) -> Failure {
    // A message of a GREP11 server begins with the name of its error code, and needs no status
    // code.
    match status.message() {
        message if message.starts_with("CKR_") => Failure::new(exit::UNAVAILABLE, message),
        message => Failure::new(exit::UNAVAILABLE, format_args!("{}: {message}", status.code())),
    }
}

const CONNECT: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(30);
/// Duration of the measurement in this process.
const BARE: Duration = Duration::from_millis(300);
