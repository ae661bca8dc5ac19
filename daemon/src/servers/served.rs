//! The certificate that a listener of this host shows.

use core::fmt;
use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::keys::certificates::Certificate;

/// A client that accepts a part of what there is, so that a server shows the certificate for that
/// part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Client {
    /// Kind of keys: a server with a key of each kind shows the one that fits.
    pub family: Family,
    /// True for TLS 1.3 alone, false for TLS 1.2 alone.
    pub tls13: bool,
}

/// Kind of keys.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// ECDSA and EdDSA.
    Curves,
    /// RSA.
    Rsa,
}

/// A socket of this host at which a server answers.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Where the socket is.
    pub address: Address,
    /// True if the server wants to hear first whose connection this is, in a header of the PROXY
    /// protocol (haproxy.org/download/2.9/doc/proxy-protocol.txt).
    pub is_proxied: bool,
}

/// The address of a socket.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Address {
    /// Address and port of TCP.
    Tcp(SocketAddr),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(at: SocketAddr) -> Self {
        Self::Tcp(at)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(at) => write!(f, "{at}"),
            Address::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Shakes hands with a listener, and returns its certificate.
///
/// # Errors
/// The reason why there was no handshake.
pub async fn certificate(at: SocketAddr, name: &str) -> Result<Certificate, String> {
    certificate_of(&Place { address: at.into(), is_proxied: false }, name, None).await
}

/// Shakes hands with a listener, as such a client if one is given. Returns the certificate.
///
/// # Errors
/// The reason why there was no handshake.
pub async fn certificate_of(at: &Place, name: &str, client: Option<Client>) -> Result<Certificate, String> {
    let limited = tokio::time::timeout(LIMIT, shake(at, name, client)).await;
    limited.unwrap_or_else(|_| Err(format!("no handshake within {} seconds", LIMIT.as_secs())))
}

async fn shake(at: &Place, name: &str, client: Option<Client>) -> Result<Certificate, String> {
    let failed = |error: io::Error| error.to_string();
    match &at.address {
        Address::Tcp(address) => {
            shake_over(TcpStream::connect(address).await.map_err(failed)?, at, name, client).await
        }
        Address::Unix(path) => {
            shake_over(UnixStream::connect(path).await.map_err(failed)?, at, name, client).await
        }
    }
}

async fn shake_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    at: &Place,
    name: &str,
    client: Option<Client>,
) -> Result<Certificate, String> {
    if at.is_proxied {
        stream.write_all(PROXY_HEADER).await.map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let versions: &[_] = match client.map(|client| client.tls13) {
        None => rustls::ALL_VERSIONS,
        Some(true) => &[&rustls::version::TLS13],
        Some(false) => &[&rustls::version::TLS12],
    };
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let config = config.map_err(|error| error.to_string())?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Any {
        algorithms,
        family: client.map(|client| client.family),
    }));
    let config = config.with_no_client_auth();
    // A star stands for any name.
    let name = name.replacen('*', "www", 1);
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = stream.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let leaf = chain.first().ok_or("it shows no certificate")?;
    Certificate::from_der(leaf).map_err(|error| format!("its certificate cannot be read: {error}"))
}

/// Accepts every certificate whose key signs the handshake: which one it is, is the question.
#[derive(Debug)]
struct Any {
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
    family: Option<Family>,
}

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let is_rsa = |scheme: &SignatureScheme| format!("{scheme:?}").starts_with("RSA");
        let mut schemes = self.algorithms.supported_schemes();
        schemes.retain(|scheme| self.family.is_none_or(|family| (family == Family::Rsa) == is_rsa(scheme)));
        schemes
    }
}

/// A header of the PROXY protocol, version 1: the connection comes from this host.
const PROXY_HEADER: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 443 443\r\n";
/// Longest time for a handshake.
const LIMIT: Duration = Duration::from_secs(5);
