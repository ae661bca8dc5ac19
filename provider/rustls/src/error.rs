use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use keyward_client::InvalidAddress;
use keyward_proto::{InvalidLabel, InvalidReference, Label, Outcome};
use rustls::OtherError;
use thiserror::Error;

use crate::RequestError;

/// Reason why the daemon gave no key, or a key did not sign.
///
/// A handshake without a signature fails with [`rustls::Error::Other`], which holds this error:
///
/// ```
/// fn ours(error: &rustls::Error) -> Option<&keyward_rustls::Error> {
///     match error {
///         rustls::Error::Other(other) => other.0.downcast_ref(),
///         _ => None,
///     }
/// }
/// # let refused = keyward_rustls::Keyward::from_env()?.key_from_pem("").unwrap_err();
/// # assert!(ours(&refused.into()).is_some());
/// # Ok::<(), keyward_rustls::Error>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not the address of a socket.
    #[error("cannot use the socket of the keyward daemon: {0}")]
    Address(#[from] InvalidAddress),
    /// Certificates and key do not belong together, or there are no certificates.
    #[error("cannot use the certificates for key \"{label}\": {source}")]
    Certificates {
        /// Label of the key.
        label: String,
        /// Error of rustls.
        source: rustls::Error,
    },
    /// The file cannot be read, or is not a reference.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system; [`io::ErrorKind::InvalidData`] if the file is not a reference.
        source: io::Error,
    },
    /// The system gives no thread or no descriptor for following changes.
    #[error("cannot follow changes of keys: {0}")]
    Follow(#[source] io::Error),
    /// The text is not the label of a key.
    #[error("{text:?} is {source}")]
    Label {
        /// The text.
        text: String,
        /// Rule that the text breaks.
        source: InvalidLabel,
    },
    /// Clients cannot ask for this text as the name of a server.
    #[error("{0:?} is no DNS name, nor *. in front of one")]
    Name(String),
    /// No version of the key has certificates in the daemon.
    #[error("key \"{0}\" has no certificates in the daemon; attach them: keyward cert attach {0} --in CHAIN")]
    NoCertificates(String),
    /// The text is not a reference.
    #[error("cannot read key reference: {0}")]
    Reference(#[from] InvalidReference),
    /// The daemon refused: the key is disabled, no grant covers this program, the crypto unit is
    /// not available, and so on.
    #[error("key \"{label}\" refused: {}", outcome.reason_for(label))]
    Refused {
        /// Label of the key.
        label: String,
        /// Reason of the daemon.
        outcome: Outcome,
    },
    /// No answer came: the daemon is not running, cannot be reached, or took too long.
    #[error("cannot {attempt} key \"{label}\": {source}")]
    Unavailable {
        /// Attempt that failed, as in `sign with`.
        attempt: &'static str,
        /// Label of the key.
        label: String,
        /// Error of the request.
        source: RequestError,
    },
    /// The type of the key is unknown to this version of the crate.
    #[error("cannot use key \"{0}\": its type is not known to this version of keyward-rustls")]
    UnknownType(String),
}

impl Error {
    /// True if the same request may succeed in a moment, without any administrator doing anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { outcome, .. } => {
                use Outcome::{DeadlineExceeded, Internal, NotRecorded, Overloaded};
                matches!(outcome, DeadlineExceeded | Internal | NotRecorded | Overloaded)
            }
            _ => false,
        }
    }

    /// Turns a client error about a key into ours.
    pub(crate) fn of_request(attempt: &'static str, label: &Label, error: RequestError) -> Self {
        let label = label.to_string();
        match error {
            RequestError::Refused(outcome) => Self::Refused { label, outcome },
            source => Self::Unavailable { attempt, label, source },
        }
    }
}

impl From<Error> for rustls::Error {
    fn from(error: Error) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}
