//! The certificate that a listener of this host shows.

use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;

use keyward::keys::certificates::Certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Shakes hands with a listener, and returns its certificate.
///
/// # Errors
/// The reason why there was no handshake.
pub(crate) async fn certificate(at: SocketAddr, name: &str) -> Result<Certificate, String> {
    let limited = tokio::time::timeout(LIMIT, shake(at, name)).await;
    limited.unwrap_or_else(|_| Err(format!("no handshake within {} seconds", LIMIT.as_secs())))
}

async fn shake(at: SocketAddr, name: &str) -> Result<Certificate, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Any(algorithms)));
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
struct Any(rustls::crypto::WebPkiSupportedAlgorithms);

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
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Longest time for a handshake.
const LIMIT: Duration = Duration::from_secs(5);
