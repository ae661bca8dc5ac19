use core::fmt;
use std::sync::Arc;

use keyward_client::Input;
use keyward_proto::{KeyType, Reference, Scheme};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey as RustlsSigningKey, SingleCertAndKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::{Daemon, Error, wait};

/// A version of a key that is with the daemon, as rustls knows private keys. Cheap to clone.
///
/// Nothing here does I/O but [`Signer::sign`], which asks the daemon once and waits for the answer: within the time that
/// the [`Daemon`] allows, over a connection that is kept for the next signature, and once more over a new one if the daemon
/// was restarted meanwhile.
#[derive(Clone)]
pub struct SigningKey(Arc<Inner>);

struct Inner {
    daemon: Daemon,
    reference: Reference,
    /// What signatures took last.
    pace: wait::Pace,
}

impl SigningKey {
    pub(crate) fn new(daemon: Daemon, reference: Reference) -> Self {
        Self(Arc::new(Inner { daemon, reference, pace: wait::Pace::default() }))
    }

    /// The label of the key.
    pub fn label(&self) -> &str {
        self.0.reference.label().as_str()
    }

    /// The version of the key, from 1.
    pub fn version(&self) -> u32 {
        self.0.reference.version()
    }

    /// This key with its certificates, as servers and clients take it: for `with_cert_resolver` and
    /// `with_client_cert_resolver`. The first certificate is that of the key, and each is certified by the one behind it.
    ///
    /// # Errors
    /// [`Error::Certificates`] if there is none, or the first one has another public key.
    pub fn with_certificates(
        self,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Arc<SingleCertAndKey>, Error> {
        Ok(Arc::new(SingleCertAndKey::from(self.certified(certificates)?)))
    }

    pub(crate) fn certified(self, certificates: Vec<CertificateDer<'static>>) -> Result<CertifiedKey, Error> {
        let label = self.label().to_owned();
        let certified = CertifiedKey::new(certificates, Arc::new(self));
        match certified.keys_match() {
            Ok(()) => Ok(certified),
            Err(reason) => Err(Error::Certificates { label, reason }),
        }
    }

    /// The schemes that it signs with in handshakes of rustls, the preferred one first.
    fn schemes(&self) -> &'static [Scheme] {
        let schemes = self.0.reference.public_key().schemes();
        match self.key_type() {
            // With others the curves sign only in TLS 1.2 (RFC 8446, 4.2.3), and rustls does not tell which version it is.
            KeyType::P256 | KeyType::P384 | KeyType::P521 => schemes.get(..1).unwrap_or_default(),
            _ => schemes,
        }
    }

    fn key_type(&self) -> KeyType {
        self.0.reference.public_key().key_type()
    }
}

impl RustlsSigningKey for SigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = |scheme: &&Scheme| offered.contains(&SignatureScheme::from(scheme.code()));
        let scheme = *self.schemes().iter().find(offered)?;
        Some(Box::new(KeySigner { key: self.clone(), scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.reference.spki().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.key_type() {
            KeyType::P256 | KeyType::P384 | KeyType::P521 => SignatureAlgorithm::ECDSA,
            KeyType::Ed25519 => SignatureAlgorithm::ED25519,
            KeyType::Rsa(_) => SignatureAlgorithm::RSA,
            // None of TLS 1.2: rustls takes such keys for TLS 1.3 alone.
            _ => SignatureAlgorithm::Unknown(0),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("label", &self.label())
            .field("version", &self.version())
            .field("type", &self.key_type())
            .finish_non_exhaustive()
    }
}

/// The key with the scheme of one handshake.
#[derive(Debug)]
struct KeySigner {
    key: SigningKey,
    scheme: Scheme,
}

impl Signer for KeySigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let Inner { daemon, reference, pace } = &*self.key.0;
        let input = Input::Message(message);
        let start = || daemon.client.start_sign(reference, self.scheme, input);
        let signature = wait::answer(pace, start)
            .map_err(|reason| Error::of_request("sign with", reference.label(), reason))?;
        Ok(signature.into_bytes())
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme.code().into()
    }
}
