//! A reverse proxy in front of pebble. It adds renewal information (RFC 9773), which the pebble of
//! Debian 12 lacks, and answers in pebble's place when a test wants a fault.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, server};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{Pebble, free_port};

/// The proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct AcmeProxy {
    port: u16,
    root: std::path::PathBuf,
    faults: Arc<Mutex<Faults>>,
    _runtime: Runtime,
}

/// Faults that the proxy makes, and the orders that it has seen.
#[derive(Debug, Default)]
struct Faults {
    /// Begin and end of the window of each certificate, in seconds since 1970.
    window: Option<(u64, u64)>,
    /// Answers to the next orders: status, seconds of Retry-After, type of the error.
    orders: VecDeque<(u16, Option<u64>, &'static str)>,
    /// Chain in the place of each certificate.
    chain: Option<String>,
    /// True if no connection is answered.
    is_away: bool,
    /// Certificates that orders were to replace.
    replaced: Vec<String>,
    /// Number of orders.
    ordered: usize,
    /// Profile of each order that has one.
    profiles: Vec<String>,
    /// Type of the error that answers each revocation.
    revocation: Option<&'static str>,
    /// Type of the error that answers the next certificate request.
    finalize: Option<&'static str>,
    /// Name that each answer to an order has in the place of its first name.
    renamed: Option<&'static str>,
    /// True if no order becomes valid, and the number of answers in which one was.
    is_slow: bool,
    delayed: usize,
    /// Name that each authorisation has in the place of its own.
    authorised: Option<&'static str>,
}

impl AcmeProxy {
    /// Starts a proxy.
    pub fn start(pebble: &Pebble) -> Self {
        let (port, upstream) = (free_port(), pebble.port());
        let (certificate, key) = pebble.pki().leaf("proxy");
        let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a configuration")));
        let mut roots = RootCertStore::empty();
        roots.add(pebble.pki().ca_der()).expect("the root");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        let faults: Arc<Mutex<Faults>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", port))).expect("a port");
        let seen = Arc::clone(&faults);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, connector, faults) = (acceptor.clone(), connector.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    if lock(&faults).is_away {
                        return;
                    }
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let answer = service_fn(move |request| {
                        let (connector, faults) = (connector.clone(), Arc::clone(&faults));
                        async move {
                            Ok::<_, Infallible>(answer(&connector, &faults, port, upstream, request).await)
                        }
                    });
                    let _ = server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        Self { port, root: pebble.pki().ca(), faults, _runtime: runtime }
    }

    /// The section of the authority in keyward.toml.
    pub fn section(&self) -> String {
        format!("[ca.pebble]\ndirectory = \"https://localhost:{}/dir\"\nroot = {:?}\n", self.port, self.root)
    }

    /// Suggests this window for every certificate.
    pub fn suggest(&self, start: u64, end: u64) {
        lock(&self.faults).window = Some((start, end));
    }

    /// Answers the next order with an error: its status, seconds of Retry-After, and its type.
    pub fn refuse_order(&self, status: u16, retry_after: Option<u64>, kind: &'static str) {
        lock(&self.faults).orders.push_back((status, retry_after, kind));
    }

    /// Gives this chain in the place of each certificate.
    pub fn give(&self, chain: Option<String>) {
        lock(&self.faults).chain = chain;
    }

    /// Answers the next certificate request with an error of this type.
    pub fn refuse_request(&self, kind: &'static str) {
        lock(&self.faults).finalize = Some(kind);
    }

    /// Answers each revocation with an error of this type.
    pub fn refuse_revocations(&self, kind: Option<&'static str>) {
        lock(&self.faults).revocation = kind;
    }

    /// Puts another name in the place of the first name of each order.
    pub fn rename(&self, name: Option<&'static str>) {
        lock(&self.faults).renamed = name;
    }

    /// Puts another name in the place of the name of each authorisation.
    pub fn authorise(&self, name: Option<&'static str>) {
        lock(&self.faults).authorised = name;
    }

    /// Says of each order with a certificate that the authority still works on it.
    pub fn set_slow(&self, is_slow: bool) {
        lock(&self.faults).is_slow = is_slow;
    }

    /// Number of answers so far in which an order with a certificate was said to be without one.
    pub fn delayed(&self) -> usize {
        lock(&self.faults).delayed
    }

    /// Profiles of the orders so far.
    pub fn profiles(&self) -> Vec<String> {
        lock(&self.faults).profiles.clone()
    }

    /// Answers no connection.
    pub fn set_away(&self, is_away: bool) {
        lock(&self.faults).is_away = is_away;
    }

    /// Ids of the certificates that orders were to replace.
    pub fn replaced(&self) -> Vec<String> {
        lock(&self.faults).replaced.clone()
    }

    /// Number of orders so far, also of those that were refused.
    pub fn ordered(&self) -> usize {
        lock(&self.faults).ordered
    }
}

async fn answer(
    connector: &TlsConnector,
    faults: &Mutex<Faults>,
    port: u16,
    upstream: u16,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if parts.method == Method::GET && path.starts_with("/ari/") {
        return window(faults);
    }
    if path == "/order-plz" {
        let mut faults = lock(faults);
        faults.ordered += 1;
        let order = payload(&body);
        let text = |field: &str| order.as_ref().and_then(|order| Some(order[field].as_str()?.to_owned()));
        faults.replaced.extend(text("replaces"));
        faults.profiles.extend(text("profile"));
        if let Some((status, retry_after, kind)) = faults.orders.pop_front() {
            return refusal(status, retry_after, kind);
        }
    }
    if path.starts_with("/finalize-order/")
        && let Some(kind) = lock(faults).finalize.take()
    {
        return refusal(400, None, kind);
    }
    if path == "/revoke-cert"
        && let Some(kind) = lock(faults).revocation
    {
        return refusal(500, None, kind);
    }
    let mut forwarded = Request::from_parts(parts, Full::new(body));
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        forwarded.headers_mut().remove(name);
    }
    let Ok((head, body)) = forward(connector, upstream, forwarded).await else {
        return refusal(502, None, "serverInternal");
    };
    let (chain, renamed, authorised) = {
        let faults = lock(faults);
        (faults.chain.clone(), faults.renamed, faults.authorised)
    };
    let body = match path.as_str() {
        "/dir" => {
            let mut directory: Value = serde_json::from_slice(&body).unwrap_or_default();
            directory["renewalInfo"] = format!("https://localhost:{port}/ari").into();
            directory["meta"]["profiles"] = json!({ "classic": "as ever", "shortlived": "for days" });
            directory.to_string().into()
        }
        "/order-plz" => match renamed {
            Some(name) => {
                let mut order: Value = serde_json::from_slice(&body).unwrap_or_default();
                order["identifiers"][0]["value"] = name.into();
                order.to_string().into()
            }
            None => body,
        },
        path if path.starts_with("/my-order/") && lock(faults).is_slow => {
            let mut order: Value = serde_json::from_slice(&body).unwrap_or_default();
            if order["status"] == "valid" {
                lock(faults).delayed += 1;
                (order["status"], order["certificate"]) = ("processing".into(), Value::Null);
            }
            order.to_string().into()
        }
        path if path.starts_with("/authZ/") => match authorised {
            Some(name) => {
                let mut authorisation: Value = serde_json::from_slice(&body).unwrap_or_default();
                authorisation["identifier"]["value"] = name.into();
                authorisation.to_string().into()
            }
            None => body,
        },
        path if path.starts_with("/certZ/") => chain.map_or(body, Bytes::from),
        _ => body,
    };
    let mut answer = Response::from_parts(head, Full::new(body));
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        answer.headers_mut().remove(name);
    }
    answer
}

async fn forward(
    connector: &TlsConnector,
    upstream: u16,
    request: Request<Full<Bytes>>,
) -> io::Result<(hyper::http::response::Parts, Bytes)> {
    let stream = TcpStream::connect(("127.0.0.1", upstream)).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let stream = connector.connect(name, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    Ok((head, body.collect().await.map_err(io::Error::other)?.to_bytes()))
}

fn window(faults: &Mutex<Faults>) -> Response<Full<Bytes>> {
    let Some((start, end)) = lock(faults).window else { return refusal(404, None, "malformed") };
    let time = |seconds: u64| {
        let output = std::process::Command::new("date")
            .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"])
            .output();
        String::from_utf8(output.expect("date").stdout).expect("a date").trim().to_owned()
    };
    let body = json!({
        "suggestedWindow": { "start": time(start), "end": time(end) },
        "explanationURL": "https://ca.example/why",
    });
    let answer = Response::builder().header(RETRY_AFTER, "60").body(Full::new(body.to_string().into()));
    answer.expect("an answer")
}

fn refusal(status: u16, retry_after: Option<u64>, kind: &str) -> Response<Full<Bytes>> {
    let body = json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": format!("the test wants {kind}"), "status": status });
    let mut answer = Response::builder().status(status);
    if let Some(seconds) = retry_after {
        answer = answer.header(RETRY_AFTER, seconds.to_string());
    }
    answer.body(Full::new(body.to_string().into())).expect("an answer")
}

/// The payload of a message, which everybody can read.
fn payload(message: &[u8]) -> Option<Value> {
    let message: Value = serde_json::from_slice(message).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(message["payload"].as_str()?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn lock(faults: &Mutex<Faults>) -> MutexGuard<'_, Faults> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}
