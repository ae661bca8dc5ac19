//! The roots to which the chain of a plan must lead: an agent in the wrong hands could bring a
//! certificate of an authority of its own.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::RenewalError;
use crate::config::Plan;
use crate::keys::certificates::{Certificate, Chain};

/// Checks that clients take a certificate for each of its names, and that its chain leads to the
/// roots of the plan: those of its file, or those of the system if the authority is public. Any
/// root is right for a private authority without a file.
///
/// # Errors
/// [`RenewalError`] says what is wrong with the certificate, why the chain does not lead there, or
/// why the roots cannot be read.
pub(super) fn check(plan: &Plan, is_public: bool, chain: &Chain) -> Result<(), RenewalError> {
    let refused = |reason: &dyn core::fmt::Display| RenewalError::OtherRoot(reason.to_string());
    let none = || refused(&"there is no certificate");
    let mut ders = chain.certificates.iter().map(|one| CertificateDer::from(one.der().to_vec()));
    let leaf = ders.next().ok_or_else(none)?;
    let rest: Vec<_> = ders.collect();
    // The names are compared elsewhere: with the plan, or with a former order.
    let name = check_names(chain.certificates.first().ok_or_else(none)?, &leaf)?;
    let roots = match &plan.chain_root {
        Some(path) => of_file(path)?,
        None if is_public => of_system()?,
        None => return Ok(()),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let verifier = verifier.map_err(|error| refused(&error))?;
    let verified = verifier.verify_server_cert(&leaf, &rest, &name, &[], UnixTime::now());
    verified.map(drop).map_err(|error| refused(&error))
}

/// Checks that clients take a certificate for each of its names. Returns one of them.
fn check_names(
    certificate: &Certificate,
    leaf: &CertificateDer<'_>,
) -> Result<ServerName<'static>, RenewalError> {
    let refused = |name: &str, reason: &dyn core::fmt::Display| RenewalError::NotForName {
        name: name.to_owned(),
        reason: reason.to_string(),
    };
    let parsed = ParsedCertificate::try_from(leaf).map_err(|error| refused("any name", &error))?;
    let mut found = None;
    for (_, text) in certificate.identifiers() {
        // A star stands for any name.
        let name =
            ServerName::try_from(text.replacen('*', "www", 1)).map_err(|error| refused(text, &error))?;
        verify_server_name(&parsed, &name).map_err(|error| refused(text, &error))?;
        found = Some(name);
    }
    found.ok_or_else(|| refused("any name", &"it has none"))
}

fn of_file(path: &Path) -> Result<RootCertStore, RenewalError> {
    let failed = |reason: &dyn core::fmt::Display| RenewalError::Root {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, RenewalError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(RenewalError::NoSystemRoots),
        false => Ok(roots),
    }
}
