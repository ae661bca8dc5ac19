//! The answers of the daemon, each with a type of its own.

use core::fmt;

use keyward_proto::message::{self, response};
use keyward_proto::{KeyState, KeyType, Label, Use};
use zeroize::Zeroizing;

/// A type of answer that a [`Call`](crate::Call) can wait for. Only types of this crate are
/// answers.
pub trait Answer: sealed::FromBody {}

impl<T: sealed::FromBody> Answer for T {}

/// Keeps the messages of the wire out of the public interface.
pub(crate) mod sealed {
    use super::response;

    pub trait FromBody: Sized {
        /// Takes the answer out of a response; `None` if the response holds another one.
        fn from_body(body: response::Body) -> Option<Self>;
    }
}

/// A signature, as TLS carries it: ECDSA in DER, RSA as long as the modulus, Ed25519 and ML-DSA as
/// their standards define it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signature(Vec<u8>);

impl Signature {
    /// Gives the bytes without a copy.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl AsRef<[u8]> for Signature {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Signature> for Vec<u8> {
    fn from(signature: Signature) -> Self {
        signature.0
    }
}

impl sealed::FromBody for Signature {
    fn from_body(body: response::Body) -> Option<Self> {
        match body {
            response::Body::Signature(answer) => Some(Self(answer.signature)),
            _ => None,
        }
    }
}

/// The premaster secret of an RSA key exchange (RFC 5246, 7.4.7.1), wiped when it is dropped.
pub struct Premaster(Zeroizing<Vec<u8>>);

impl Premaster {
    /// Length of every premaster secret, in bytes.
    pub const LENGTH: usize = 48;
}

impl AsRef<[u8]> for Premaster {
    /// The secret: always [`Premaster::LENGTH`] bytes.
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Premaster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Premaster")
    }
}

impl sealed::FromBody for Premaster {
    fn from_body(body: response::Body) -> Option<Self> {
        let response::Body::Plaintext(answer) = body else { return None };
        let premaster = Zeroizing::new(answer.plaintext);
        (premaster.len() == Self::LENGTH).then_some(Self(premaster))
    }
}

/// Description of one version of a key.
///
/// A daemon newer than this crate may know more states, types and uses.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Description {
    /// Version that is described, from 1.
    pub version: u32,
    /// Every version of the key, ascending.
    pub versions: Vec<u32>,
    /// Type of the key; `None` if this crate does not know it.
    pub key_type: Option<KeyType>,
    /// State of the key; `None` if this crate does not know it.
    pub state: Option<KeyState>,
    /// Uses of the key that this crate knows.
    pub uses: Vec<Use>,
    /// Public key of the version: a SubjectPublicKeyInfo in DER (RFC 5280, 4.1).
    pub public_key: Vec<u8>,
    /// Certificates of the version in DER (RFC 5280, 4.1), in the order of TLS: first the
    /// certificate of the key, then each issuer. Empty if none are attached.
    pub certificates: Vec<Vec<u8>>,
}

impl sealed::FromBody for Description {
    fn from_body(body: response::Body) -> Option<Self> {
        let response::Body::Description(answer) = body else { return None };
        let message::Description { version, versions, public_key, certificates, .. } = answer;
        Some(Self {
            version,
            versions,
            key_type: answer.r#type.parse().ok(),
            state: answer.state.parse().ok(),
            uses: answer.uses.iter().filter_map(|name| name.parse().ok()).collect(),
            public_key,
            certificates,
        })
    }
}

/// Changes of keys since a revision.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Changes {
    /// Revision to pass as `after` to the next [`Client::start_watch`](crate::Client::start_watch).
    pub revision: u64,
    /// Keys that were made, changed or deleted; each once, and only keys that a grant lets this
    /// process use.
    pub labels: Vec<Label>,
    /// True if any key may have changed: in the first answer, and after a restart of the daemon, a
    /// change of grants, or more changes than the daemon remembers.
    pub everything: bool,
}

impl sealed::FromBody for Changes {
    fn from_body(body: response::Body) -> Option<Self> {
        let response::Body::Changes(answer) = body else { return None };
        let labels: Vec<Label> = answer.labels.iter().filter_map(|label| label.parse().ok()).collect();
        // A newer daemon may have labels that this client does not know.
        let everything = answer.everything || labels.len() < answer.labels.len();
        Some(Self { revision: answer.revision, labels, everything })
    }
}

/// Identity of the daemon, and of this process as the daemon sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// Version of the daemon, as in `0.1.0`.
    pub version: String,
    /// User id of this process, as the kernel tells it to the daemon.
    pub peer_uid: u32,
}

impl sealed::FromBody for Status {
    fn from_body(body: response::Body) -> Option<Self> {
        let response::Body::Status(answer) = body else { return None };
        Some(Self { version: answer.version, peer_uid: answer.peer_uid })
    }
}
