//! The certificate that a listener of this host shows.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
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

/// Shakes hands with a listener, and returns its certificate.
///
/// # Errors
/// The reason why there was no handshake.
pub async fn certificate(at: SocketAddr, name: &str) -> Result<Certificate, String> {
    certificate_of(at, name, None).await
}

/// Shakes hands with a listener as such a client. Returns the certificate.
///
/// # Errors
/// The reason why there was no handshake.
pub async fn certificate_of(
    at: SocketAddr,
    name: &str,
    client: Option<Client>,
) -> Result<Certificate, String> {
    let limited = tokio::time::timeout(LIMIT, shake(at, name, client)).await;
    limited.unwrap_or_else(|_| Err(format!("no handshake within {} seconds", LIMIT.as_secs())))
}

async fn shake(at: SocketAddr, name: &str, client: Option<Client>) -> Result<Certificate, String> {
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
    let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
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

/// Longest time for a handshake.
const LIMIT: Duration = Duration::from_secs(5);
