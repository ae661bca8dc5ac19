//! A signing service with the keys of administrators, over TLS or without.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use axum::extract::{Path as Segment, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A service whose requests need the header `Authorization: TOKEN`. It has the key `gina`. Other
/// names stand for faults; see [`faults`].
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    /// Ends the server when it is dropped.
    _runtime: tokio::runtime::Runtime,
}

pub(crate) const TOKEN: &str = "the token of gina";

impl Service {
    /// Starts a service without TLS.
    pub(crate) fn plain() -> Self {
        Self::start(|tcp| tcp)
    }

    /// Starts a service with a certificate for 127.0.0.1, of the authority whose certificate gets
    /// the name `ca.pem` in a directory.
    pub(crate) fn with_tls(directory: &Path) -> Self {
        let script = "set -e
            new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
            openssl req -x509 $new -subj /CN=ca -days 2 -keyout ca.key -out ca.pem
            openssl req $new -subj /CN=signer -keyout tls.key -out tls.csr
            echo subjectAltName=IP:127.0.0.1 >tls.ext
            openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -days 2 -extfile tls.ext -out tls.pem";
        let output = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let chain = vec![CertificateDer::from_pem_file(directory.join("tls.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(directory.join("tls.key")).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider().into();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::start(|tcp| TlsListener { tcp, acceptor: Arc::new(config).into() })
    }

    fn start<L: Listener<Addr = SocketAddr>>(listener: impl FnOnce(TcpListener) -> L) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let tcp = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = tcp.local_addr().unwrap();
        let [pair, other] =
            [(); 2].map(|()| EcdsaKeyPair::generate(&ECDSA_P521_SHA512_ASN1_SIGNING).unwrap());
        let router = Router::new()
            .route("/tke/keys/{name}", get(public_key))
            .route("/tke/sign/{name}", post(sign))
            .with_state(Arc::new(Keys { pair, other }));
        let listener = listener(tcp);
        runtime.spawn(async { axum::serve(listener, router).await });
        Self { address, _runtime: runtime }
    }
}

struct Keys {
    pair: EcdsaKeyPair,
    other: EcdsaKeyPair,
}

async fn public_key(
    State(keys): State<Arc<Keys>>,
    Segment(name): Segment<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(fault) = faults(&name, "keys", &headers) {
        return fault;
    }
    let point = keys.pair.public_key().as_ref();
    assert_eq!((point.len(), point[0]), (133, 4));
    let (x, y) = point[1..].split_at(66);
    Json(json!({ "publickey": STANDARD.encode(two_integers(x, y)) })).into_response()
}

async fn sign(
    State(keys): State<Arc<Keys>>,
    Segment(name): Segment<String>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response {
    if let Some(fault) = faults(&name, "sign", &headers) {
        return fault;
    }
    assert_eq!(request["hash_algorithm"], "sha2-512");
    let input = STANDARD.decode(request["input"].as_str().unwrap()).unwrap();
    let pair = if name == "of-another-key" { &keys.other } else { &keys.pair };
    // Hashes the input by SHA-512, and signs the hash.
    let signature = pair.sign(&SystemRandom::new(), &input).unwrap();
    Json(json!({ "signature": STANDARD.encode(signature.as_ref()) })).into_response()
}

/// The answer to a request that is not authorized, or that is for a key with a fault.
fn faults(name: &str, act: &str, headers: &HeaderMap) -> Option<Response> {
    if headers.get("authorization").is_none_or(|token| token != TOKEN) {
        let told = format!("{:?} is not allowed", headers.get("authorization"));
        return Some((StatusCode::UNAUTHORIZED, told).into_response());
    }
    match (name, act) {
        ("gina" | "of-another-key", _) | ("not-json" | "not-base64" | "long", "keys") => None,
        ("not-json", _) => Some("<html>welcome</html>".into_response()),
        ("not-base64", _) => Some(Json(json!({ "signature": "signed!" })).into_response()),
        ("long", _) => Some("x".repeat(20_000).into_response()),
        ("no-key", _) => Some(Json(json!({ "publickey": "MAYCAQECAQI=" })).into_response()),
        ("elsewhere", act) => Some(Redirect::temporary(&format!("/tke/{act}/gina")).into_response()),
        _ => Some(StatusCode::NOT_FOUND.into_response()),
    }
}

/// A SEQUENCE of two positive INTEGERs in DER, in the shortest form.
fn two_integers(x: &[u8], y: &[u8]) -> Vec<u8> {
    let integer = |number: &[u8]| {
        let start = number.iter().position(|byte| *byte != 0).unwrap();
        let sign = if number[start] >= 0x80 { &[0][..] } else { &[] };
        let length = sign.len() + number.len() - start;
        [&[2, u8::try_from(length).unwrap()], sign, &number[start..]].concat()
    };
    let body = [integer(x), integer(y)].concat();
    [&[0x30, 0x81, u8::try_from(body.len()).unwrap()][..], &body].concat()
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that does not trust the certificate ends the handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
