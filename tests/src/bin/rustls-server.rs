//! A server on rustls for the tests: `rustls-server WORKERS (ADDRESS CERTIFICATES KEY
//! CLIENT_CA)...`.
//!
//! KEY is a reference to a key of the daemon, or a private key. CLIENT_CA is the authority of the
//! clients' certificates, or `-`. The server has one page over HTTP/1.1. It prints the reason of a
//! failed handshake on standard error.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Response, server};
use hyper_util::rt::TokioIo;
use keyward_rustls::Keyward;
use keyward_rustls::handshake::Acceptor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let workers = words.next().context("the number of workers is missing")?.parse()?;
    let sites: Vec<_> = words.collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    runtime.block_on(async {
        for site in sites.chunks(4) {
            let [address, certificates, key, client_ca] = site else { bail!("a site has four words") };
            let site = Site::new(certificates, Path::new(key), client_ca)?;
            tokio::spawn(serve(listen(address.parse()?)?, site));
        }
        std::future::pending().await
    })
}

/// Acceptor of a site. For a plain key, the usual acceptor of tokio-rustls.
#[derive(Clone)]
enum Site {
    Keyward(Acceptor),
    Plain(TlsAcceptor),
}

impl Site {
    fn new(certificates: &str, key: &Path, client_ca: &str) -> Result<Self> {
        let certificates = CertificateDer::pem_file_iter(certificates)?.collect::<Result<Vec<_>, _>>()?;
        if std::fs::read_to_string(key)?.contains("KEYWARD KEY") {
            let resolver = Keyward::from_env()?.key_from_pem_file(key)?.with_certificates(certificates)?;
            return Ok(Self::Keyward(Acceptor::new(configuration(resolver, client_ca)?)));
        }
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let plain = CertifiedKey::from_der(certificates, PrivateKeyDer::from_pem_file(key)?, &provider)?;
        Ok(Self::Plain(configuration(Arc::new(SingleCertAndKey::from(plain)), client_ca)?.into()))
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        match self {
            Self::Keyward(acceptor) => acceptor.accept(stream).await,
            Self::Plain(acceptor) => acceptor.accept(stream).await,
        }
    }
}

/// Makes only full handshakes, without resumption.
fn configuration(resolver: Arc<dyn ResolvesServerCert>, client_ca: &str) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        "-" => builder.with_no_client_auth(),
        client_ca => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(client_ca)?)?;
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build()?)
        }
    };
    let mut configuration = builder.with_cert_resolver(resolver);
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.send_tls13_tickets = 0;
    Ok(configuration.into())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(1024)?)
}

async fn serve(listener: TcpListener, site: Site) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, site.clone()))),
            Err(error) => eprintln!("cannot accept a connection: {error}"),
        }
    }
}

async fn converse(stream: TcpStream, site: Site) {
    let _ = stream.set_nodelay(true);
    let stream = match site.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return eprintln!("cannot shake hands: {error}"),
    };
    let page =
        service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"served\n")))));
    // A client that closes the connection without a message is not an error.
    let _ = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), page).await;
}
