use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use keyward_client::InvalidAddress;
use keyward_proto::{InvalidLabel, InvalidReference, Label, Outcome};
use rustls::OtherError;
use thiserror::Error;

use crate::RequestError;

/// Why a key of the daemon could not be had, or did not sign.
///
/// A handshake that fails for want of a signature fails with [`rustls::Error::Other`], which has this inside:
///
/// ```
/// fn ours(error: &rustls::Error) -> Option<&keyward_rustls::Error> {
///     match error {
///         rustls::Error::Other(other) => other.0.downcast_ref(),
///         _ => None,
///     }
/// }
/// # let refused = keyward_rustls::Daemon::from_env()?.key_from_pem("").unwrap_err();
/// # assert!(ours(&refused.into()).is_some());
/// # Ok::<(), keyward_rustls::Error>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that cannot be where a daemon listens.
    #[error("cannot use the socket of the keyward daemon: {0}")]
    Address(#[from] InvalidAddress),
    /// The certificates and the key do not belong together, or there are no certificates.
    #[error("cannot use the certificates for key \"{label}\": {reason}")]
    Certificates {
        /// Label of the key.
        label: String,
        /// What rustls says of them.
        reason: rustls::Error,
    },
    /// A file cannot be read, or holds no reference.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// A text that cannot be the label of a key.
    #[error("{text:?} is {reason}")]
    Label {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: InvalidLabel,
    },
    /// A text that clients cannot ask for as the name of a server.
    #[error("{0:?} is no DNS name, nor *. in front of one")]
    Name(String),
    /// No version of the key has certificates in the daemon.
    #[error("key \"{0}\" has no certificates in the daemon; attach them: keyward cert attach {0} --in CHAIN")]
    NoCertificates(String),
    /// A text that should be a reference is none.
    #[error("cannot read key reference: {0}")]
    Reference(#[from] InvalidReference),
    /// The daemon refused: the key is disabled, no grant covers this program, a unit is not available, and so on.
    #[error("key \"{label}\" refused: {}", outcome.reason_for(label))]
    Refused {
        /// Label of the key.
        label: String,
        /// Why.
        outcome: Outcome,
    },
    /// There was no answer of the daemon: it is not running or cannot be reached, or took too long.
    #[error("cannot {attempt} key \"{label}\": {reason}")]
    Unavailable {
        /// What was attempted, as in `sign with`.
        attempt: &'static str,
        /// Label of the key.
        label: String,
        /// Why it did not come to that.
        reason: RequestError,
    },
    /// The daemon has a key of a type that this version of the crate does not know.
    #[error("cannot use key \"{0}\": its type is not known to this version of keyward-rustls")]
    UnknownType(String),
    /// The system gives no thread or no descriptor to follow changes with.
    #[error("cannot follow changes of keys: {0}")]
    Follow(io::Error),
}

impl Error {
    /// Whether the same request may go well in a moment, without anybody having decided anything.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Refused { outcome, .. } => {
                matches!(outcome, Outcome::DeadlineExceeded | Outcome::Internal | Outcome::Overloaded)
            }
            _ => false,
        }
    }

    /// What a request about a key came to nothing for.
    pub(crate) fn of_request(attempt: &'static str, label: &Label, reason: RequestError) -> Self {
        let label = label.to_string();
        match reason {
            RequestError::Refused(outcome) => Self::Refused { label, outcome },
            reason => Self::Unavailable { attempt, label, reason },
        }
    }
}

impl From<Error> for rustls::Error {
    fn from(error: Error) -> Self {
        Self::Other(OtherError(Arc::new(error)))
    }
}
