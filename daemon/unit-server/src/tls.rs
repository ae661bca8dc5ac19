//! TLS of the connections. Certificate, private key and client CA are read again when the files
//! change.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use keyward_ground::causes::causes;
use keyward_ground::ownership;
use keyward_ground::renewed::Renewed;
use keyward_ground::tls_files;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use super::error::UnitServerError;
use super::options::{Options, Transport};

/// TLS acceptor, which follows its files; `None` for plaintext.
///
/// # Errors
/// [`UnitServerError`] for plaintext outside loopback, or files that cannot be used.
pub(crate) fn acceptor(options: &Options) -> Result<Option<Arc<Renewed<TlsAcceptor>>>, UnitServerError> {
    let (certificate, key, client_ca) = match &options.transport {
        Transport::Plaintext if options.listen.ip().is_loopback() => return Ok(None),
        Transport::Plaintext => return Err(UnitServerError::PlaintextOutside(options.listen)),
        Transport::Tls { certificate, key, client_ca } => {
            (certificate.clone(), key.clone(), client_ca.clone())
        }
    };
    let files = [Some(&certificate), Some(&key), client_ca.as_ref()].into_iter().flatten().cloned();
    let files = files.collect();
    let read = move || build(&certificate, &key, client_ca.as_deref());
    Renewed::new("certificate, key and client CA".into(), files, read).map(Arc::new).map(Some)
}

fn build(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<TlsAcceptor, UnitServerError> {
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

/// Reads the certificates in a PEM file.
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
