use core::fmt;
use std::sync::Arc;

use keyward_client::Input;
use keyward_proto::{KeyType, Reference, Scheme};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::sign::{CertifiedKey, Signer, SigningKey, SingleCertAndKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::{Error, Keyward, wait};

/// A version of a key that the daemon holds; a [`SigningKey`] of rustls. Cheap to clone.
///
/// Only [`Signer::sign`] does I/O.
///
/// # Blocks
/// [`Signer::sign`] asks the daemon and waits for the answer, up to the time limit of its
/// [`Keyward`]. The connection is kept for the next signature. If the daemon was restarted
/// meanwhile, the request is sent once more over a new connection.
#[derive(Clone)]
pub struct Key(Arc<Inner>);

struct Inner {
    keyward: Keyward,
    reference: Reference,
    pace: wait::Pace,
}

impl Key {
    pub(crate) fn new(keyward: Keyward, reference: Reference) -> Self {
        Self(Arc::new(Inner { keyward, reference, pace: wait::Pace::default() }))
    }

    /// The label of the key.
    pub fn label(&self) -> &str {
        self.0.reference.label().as_str()
    }

    /// The version of the key, from 1.
    pub fn version(&self) -> u32 {
        self.0.reference.version()
    }

    /// Joins the key and its certificates: for `with_cert_resolver` of a server and
    /// `with_client_cert_resolver` of a client. The first certificate is the certificate of the
    /// key; each further certificate is the issuer of the certificate before.
    ///
    /// # Errors
    /// [`Error::Certificates`] if there are no certificates, or the first certificate has another
    /// public key.
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
            Err(source) => Err(Error::Certificates { label, source }),
        }
    }

    /// The schemes that the key signs with in handshakes of rustls, the preferred scheme first.
    fn schemes(&self) -> &'static [Scheme] {
        let schemes = self.0.reference.public_key().schemes();
        match self.key_type() {
            // A curve signs with other hashes in TLS 1.2 only (RFC 8446, 4.2.3), and rustls does
            // not tell the version.
            KeyType::P256 | KeyType::P384 | KeyType::P521 => schemes.get(..1).unwrap_or_default(),
            _ => schemes,
        }
    }

    fn key_type(&self) -> KeyType {
        self.0.reference.public_key().key_type()
    }
}

impl SigningKey for Key {
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
            // No algorithm of TLS 1.2, so rustls uses the key in TLS 1.3 only.
            _ => SignatureAlgorithm::Unknown(0),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("label", &self.label())
            .field("version", &self.version())
            .field("type", &self.key_type())
            .finish_non_exhaustive()
    }
}

/// A key with the scheme of one handshake.
#[derive(Debug)]
struct KeySigner {
    key: Key,
    scheme: Scheme,
}

impl Signer for KeySigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let Inner { keyward, reference, pace } = &*self.key.0;
        let input = Input::Message(message);
        let start = || keyward.client.start_sign(reference, self.scheme, input);
        let signature = wait::answer(pace, start)
            .map_err(|error| Error::of_request("sign with", reference.label(), error))?;
        Ok(signature.into_bytes())
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme.code().into()
    }
}
