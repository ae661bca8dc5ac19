//! TCP and TLS connections to servers.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustix::net::RecvFlags;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use crate::config::{Endpoint, Tls};
use crate::ground::names;
use crate::ground::ownership::{self, OwnershipError};
use crate::ground::renewed::Renewed;
use crate::ground::text::quoted;
use crate::ground::tls_files::{self, TlsFileError};

/// TLS settings for one kind of server.
#[derive(Clone)]
pub(crate) struct TlsClient {
    connector: TlsConnector,
    /// Name in the certificate of the server; `None` for the name of the host.
    name: Option<ServerName<'static>>,
}

impl TlsClient {
    /// Reads the files of the settings. `protocol` is the protocol over TLS (ALPN, RFC 7301).
    ///
    /// # Errors
    /// [`TlsError`] says which file or setting cannot be used.
    pub(crate) fn new(settings: &Tls, protocol: &[u8]) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        match &settings.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| TlsError::Certificate(path.clone(), error))?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    return Err(TlsError::NoSystemRoots);
                }
            }
        }
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots);
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let bytes = read_secret(key)?;
                let secret = tls_files::private_key(key, &bytes)?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| TlsError::Certificate(certificate.clone(), error))?
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = settings.server_name.clone().map(ServerName::try_from).transpose()?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Settings that are renewed when their files change.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub(super) fn renewed(
        backend: &str,
        settings: &Tls,
        protocol: &'static [u8],
    ) -> Result<Renewed<Self>, TlsError> {
        let (certificate, key) = settings.identity.clone().unzip();
        let files = [&settings.ca, &certificate, &key].into_iter().flatten().cloned().collect();
        let settings = settings.clone();
        let name = format!("TLS files of backend {backend}");
        Renewed::new(name, files, move || Self::new(&settings, protocol))
    }

    /// Makes a TLS handshake over a connection to `host`. If the server refuses the client, now or
    /// later, `refusal` gets the reason.
    ///
    /// # Errors
    /// The error of rustls.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
        refusal: &TlsRefusal,
    ) -> io::Result<Secured> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        match self.connector.connect(name, stream).await {
            Ok(stream) => Ok(Secured { stream, refusal: Arc::clone(refusal) }),
            Err(error) => {
                note(refusal, &error);
                Err(error)
            }
        }
    }
}

/// Reason why the server refused the client, set when the server sends the alert.
pub(super) type TlsRefusal = Arc<OnceLock<String>>;

/// Connection with TLS. Keeps the last alert of the server, even if a write fails because the
/// server has closed the connection.
pub(super) struct Secured {
    stream: TlsStream<TcpStream>,
    refusal: TlsRefusal,
}

impl Secured {
    fn written<T>(&mut self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = written
            && let Some(error) = self.last_alert()
        {
            note(&self.refusal, &error);
        }
        written
    }

    /// Reads the bytes that were received last, and returns the alert in them.
    fn last_alert(&mut self) -> Option<io::Error> {
        let (stream, tls) = self.stream.get_mut();
        let mut last = [0; 1024];
        let (length, _) = rustix::net::recv(stream, &mut last[..], RecvFlags::DONTWAIT).ok()?;
        let mut rest = last.get(..length)?;
        while tls.read_tls(&mut rest).is_ok_and(|read| read > 0) {
            if let Err(alert) = tls.process_new_packets() {
                return Some(io::Error::other(alert));
            }
        }
        None
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read {
            note(&self.refusal, error);
        }
        read
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, data);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Keeps the reason why the server refuses the client, if the error is an alert with that reason.
fn note(refusal: &TlsRefusal, error: &io::Error) {
    use rustls::AlertDescription as Alert;

    let error = error.get_ref().and_then(|error| error.downcast_ref());
    let Some(rustls::Error::AlertReceived(alert)) = error else { return };
    let text = match alert {
        Alert::CertificateRequired => {
            "it asks for a certificate of the client, and none is configured; name certificate and key in the section of the backend".into()
        }
        Alert::AccessDenied
        | Alert::BadCertificate
        | Alert::CertificateExpired
        | Alert::CertificateRevoked
        | Alert::CertificateUnknown
        | Alert::DecryptError
        | Alert::UnknownCA
        | Alert::UnsupportedCertificate => format!(
            "it refused the certificate of the client ({alert:?}); its log says why; compare certificate in the section of the backend with what it trusts"
        ),
        _ => return,
    };
    let _ = refusal.set(text);
}

/// True if the client has refused the certificate of the server.
pub(super) fn is_of_the_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::InvalidCertificate(_)))
}

/// Connects. Returns the stream and the network round trip time: connecting takes one packet each
/// way.
pub(super) async fn connect(endpoint: &Endpoint) -> io::Result<(TcpStream, Duration)> {
    // One address after the other, so that the measured time is the time of one attempt.
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name of the host has no address");
    let host = endpoint.host.clone();
    // The system may ask the network.
    let addresses = tokio::task::spawn_blocking(move || names::addresses_of(&host)).await??;
    for address in addresses {
        let begin = Instant::now();
        match TcpStream::connect((address, endpoint.port)).await {
            Ok(stream) => {
                let round_trip = begin.elapsed();
                stream.set_nodelay(true)?;
                return Ok((stream, round_trip));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Reason why the TLS settings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error("cannot use the certificate in {}: {}", .0.display(), .1)]
    Certificate(PathBuf, #[source] rustls::Error),
    #[error(transparent)]
    File(#[from] TlsFileError),
    #[error("the system has no certificate authorities; install ca-certificates, or name a file with ca")]
    NoSystemRoots,
    #[error("refused a file: {0}")]
    Ownership(OwnershipError),
    #[error("refused the private key in {}: others can read it; run: chmod o= {}", .0.display(), quoted(.0))]
    ReadableByOthers(PathBuf),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("server-name is not the name of a host: {0}")]
    ServerName(#[from] InvalidDnsNameError),
    #[error("cannot set up TLS: {0}")]
    Setup(#[source] rustls::Error),
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    Ok(tls_files::certificates(path, &bytes)?)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    ownership::read_all(open(path)?).map_err(|reason| TlsError::Read(path.to_owned(), reason))
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |reason| TlsError::Read(path.to_owned(), reason);
    let file = open(path)?;
    match ownership::is_for_others(&file).map_err(failed)? {
        true => Err(TlsError::ReadableByOthers(path.to_owned())),
        false => ownership::read_all(file).map_err(failed),
    }
}

fn open(path: &Path) -> Result<File, TlsError> {
    ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => TlsError::Read(path.to_owned(), reason),
        Err(error) => TlsError::Ownership(error),
    })
}
