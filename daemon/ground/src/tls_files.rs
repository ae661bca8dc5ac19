//! Certificate and private key files with which the daemon itself authenticates. The rules for
//! reading them are the rules for imported keys.

use std::path::{Path, PathBuf};

use der::{Reader, SliceReader};
use keyward_proto::pem;
use keyward_unit::{ImportError, KeyFile};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use thiserror::Error;

use crate::text::quoted;

/// Reads the certificates in the text of a file. Returns at least one certificate.
///
/// # Errors
/// [`TlsFileError`] if a certificate is damaged, or the file has none.
pub fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let is_certificate =
        |label: &[u8]| matches!(label, b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE");
    let blocks = pem::blocks(text).filter(|block| is_certificate(block.label()));
    let certificates: Option<Vec<_>> = blocks
        .map(|block| {
            let body = block.decode()?;
            // In a TRUSTED CERTIFICATE, its trust settings follow the certificate.
            let der = SliceReader::new(&body).ok()?.tlv_bytes().ok()?;
            Some(CertificateDer::from(der.to_vec()))
        })
        .collect();
    let certificates = certificates.ok_or_else(|| TlsFileError::Damaged(path.to_owned()))?;
    match certificates.is_empty() {
        true => Err(TlsFileError::NoCertificate(path.to_owned())),
        false => Ok(certificates),
    }
}

/// Reads the private key in the contents of a file. The file must hold exactly one key.
///
/// # Errors
/// [`TlsFileError`] if there is no key, more than one key, or an encrypted key.
pub fn private_key(path: &Path, file: &[u8]) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let key = KeyFile::read(file, None).and_then(|read| match read.key_count() {
        1 => read.pkcs8(0),
        count => Err(ImportError::Several(count)),
    });
    match key {
        Ok(pkcs8) => Ok(PrivatePkcs8KeyDer::from(pkcs8.to_vec()).into()),
        Err(ImportError::Encrypted | ImportError::OpenSshEncrypted) => {
            Err(TlsFileError::Encrypted(path.to_owned()))
        }
        Err(reason) => Err(TlsFileError::Key(path.to_owned(), reason)),
    }
}

/// Error: a certificate or private key file cannot be used.
#[derive(Debug, Error)]
pub enum TlsFileError {
    /// The PEM of a certificate is damaged.
    #[error("cannot use {}: the PEM of a certificate in it is damaged", .0.display())]
    Damaged(PathBuf),
    /// The private key is encrypted.
    #[error(
        "cannot use the private key in {}: it is encrypted, and nobody can enter a passphrase; write it without a passphrase, readable for its owner only, and name that file: (umask 077; openssl pkey -in {path} -out {path}.plain)",
        .0.display(),
        path = quoted(.0)
    )]
    Encrypted(PathBuf),
    /// The private key cannot be read.
    #[error("cannot use the private key in {}: {}", .0.display(), .1)]
    Key(PathBuf, #[source] ImportError),
    /// The file has no certificate.
    #[error("cannot use {}: there is no PEM certificate in it", .0.display())]
    NoCertificate(PathBuf),
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn files_are_read_and_the_command_in_an_error_works() {
        let directory = tempfile::tempdir().unwrap();
        let sh = |command: &str| {
            let mut sh = Command::new("sh");
            let output = sh.args(["-c", command]).current_dir(&directory).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let path = |name: &str| directory.path().join(name);
        sh(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=a -keyout key -out certificate",
        );
        sh("openssl pkcs8 -topk8 -in key -passout pass:x -out encrypted");
        let read = |name: &str| private_key(&path(name), &fs::read(path(name)).unwrap());
        let plain = read("key").unwrap();
        let message = read("encrypted").unwrap_err().to_string();
        let (_, command) = message.split_once("name that file: ").unwrap();
        sh(&command.replace("-in", "-passin pass:x -in"));
        assert_eq!(read("encrypted.plain").unwrap(), plain);
        let message = read("certificate").unwrap_err().to_string();
        assert!(
            message.ends_with("certificate: the file holds a certificate, not a private key"),
            "{message}"
        );

        let certificate = fs::read_to_string(path("certificate")).unwrap();
        let read = |text: &str| certificates(&path("certificate"), text.as_bytes());
        let one = read(&certificate).unwrap();
        sh("openssl x509 -in certificate -trustout -addtrust serverAuth -out trusted");
        let trusted = fs::read_to_string(path("trusted")).unwrap();
        assert!(trusted.contains("BEGIN TRUSTED CERTIFICATE"));
        for text in [format!("\u{feff}{certificate}"), certificate.replace('\n', "\n  "), trusted] {
            assert_eq!(read(&text).unwrap(), one);
        }
        assert!(matches!(read("hello"), Err(TlsFileError::NoCertificate(_))));
        assert!(matches!(read(&certificate[..200]), Err(TlsFileError::Damaged(_))));
    }
}
