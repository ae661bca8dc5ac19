//! Keys as OpenSSL sees them: a reference to a private key in the daemon, with the public key.

use std::sync::Arc;

use keyward_client::{Client, Error as ClientError, Input, Premaster};
use keyward_proto::{Outcome, PublicKey, Reference, Scheme};

use crate::error::{Error, Reason};
use crate::job;
use crate::kind::Kind;

/// A key object, owned by OpenSSL. Immutable after it is filled, so any number of threads may sign
/// with it.
#[derive(Clone, Default)]
pub(crate) enum Key {
    /// A new key, before import.
    #[default]
    Empty,
    /// An imported key to compare with other keys; it cannot sign.
    Public(PublicKey),
    /// A key in the daemon.
    Daemon(Arc<DaemonKey>),
}

/// A reference to a key in the daemon, and the client to reach the daemon.
pub(crate) struct DaemonKey {
    pub(crate) reference: Reference,
    pub(crate) client: Client,
}

impl Key {
    pub(crate) fn public(&self) -> Option<&PublicKey> {
        match self {
            Self::Empty => None,
            Self::Public(public_key) => Some(public_key),
            Self::Daemon(key) => Some(key.reference.public_key()),
        }
    }

    pub(crate) fn daemon_key(&self) -> Option<&Arc<DaemonKey>> {
        match self {
            Self::Daemon(key) => Some(key),
            Self::Empty | Self::Public(_) => None,
        }
    }
}

impl DaemonKey {
    /// Signs: the only request of a handshake.
    pub(crate) fn sign(&self, scheme: Scheme, input: Input<'_>) -> Result<Vec<u8>, Error> {
        let label = self.reference.label();
        let call = self.client.start_sign(&self.reference, scheme, input);
        let signature = call.map_err(job::Error::Client).and_then(job::finish);
        let signature =
            signature.map_err(|error| self.failed("sign", error, |outcome| Kind::refused(outcome, input)))?;
        let signature = signature.into_bytes();
        // The host gave us a buffer of the longest length; more would be a fault of the daemon.
        if signature.len() > self.reference.public_key().max_signature() {
            let text = format_args!(
                "cannot sign with key \"{label}\": the daemon answered with too long a signature"
            );
            return Err(Error::new(Reason::Internal, text));
        }
        Ok(signature)
    }

    /// Decrypts a premaster secret: the only request of a handshake with RSA key exchange.
    pub(crate) fn decrypt_premaster(
        &self,
        ciphertext: &[u8],
        client_version: u16,
    ) -> Result<Premaster, Error> {
        let call = self.client.start_decrypt(&self.reference, ciphertext, client_version);
        let premaster = call.map_err(job::Error::Client).and_then(job::finish);
        let use_lacks = |outcome| matches!(outcome, Outcome::UseRefused | Outcome::UseNotGranted);
        let kind = |outcome| use_lacks(outcome).then_some(Kind::KeyExchange);
        premaster.map_err(|error| self.failed("decrypt", error, kind))
    }

    #[track_caller]
    fn failed(&self, what: &str, error: job::Error, kind: impl FnOnce(Outcome) -> Option<Kind>) -> Error {
        let label = self.reference.label();
        match error {
            job::Error::Client(ClientError::Refused(outcome)) => {
                let reason = outcome.reason_for(label.as_str());
                match kind(outcome) {
                    Some(kind) => Error::new(
                        Reason::RefusedKind(outcome, kind),
                        format_args!("key \"{label}\" refused: {reason}; {}", kind.words()),
                    ),
                    None => Error::new(
                        Reason::Refused(outcome),
                        format_args!("key \"{label}\" refused: {reason}"),
                    ),
                }
            }
            job::Error::Client(error) => {
                Error::new(Reason::Unavailable, format_args!("cannot {what} with key \"{label}\": {error}"))
            }
            job::Error::Shared => {
                let why = "the program has run another job with the wait context of this one";
                Error::new(Reason::Internal, format_args!("cannot {what} with key \"{label}\": {why}"))
            }
        }
    }
}
