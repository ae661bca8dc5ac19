//! Why a backend did not do what it was asked.

use keyward_grep11::ckr;
use keyward_proto::{KeyType, Outcome, Scheme};
use thiserror::Error;

/// A backend that cannot be used as configured.
#[derive(Debug, Error)]
#[error("cannot use backend {0}: {1}")]
pub struct SetupError(pub(super) String, pub(super) String);

/// Why no unit did what was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum Grep11Error {
    /// The key is none of RSA, or its attributes do not allow it to decrypt.
    #[error("the key cannot decrypt: it is not an RSA key, or its attributes do not allow it")]
    CannotDecrypt,
    /// The attributes of the key do not allow it to sign.
    #[error("the key cannot sign: its attributes do not allow it")]
    CannotSign,
    /// Anyone can see that it is no ciphertext of the key.
    #[error("the ciphertext is not one of this key: it must be as long as the modulus, and below it")]
    CiphertextLength,
    /// The caller's digest is of another length than the hash gives.
    #[error("cannot sign a digest of {given} bytes: the scheme needs one of {needed}")]
    DigestLength {
        /// In bytes.
        needed: usize,
        /// In bytes.
        given: usize,
    },
    /// No unit is in order.
    #[error("no unit of backend {backend} is in order: {units}")]
    Down {
        /// The backend.
        backend: String,
        /// What is wrong with each.
        units: String,
    },
    /// The deadline passed.
    #[error("no unit of backend {backend} gave an answer in time")]
    Late {
        /// The backend.
        backend: String,
    },
    /// It is not a blob.
    #[error("this is no key blob of Enterprise PKCS #11; it must be the bytes that a unit gave, as they are")]
    NoBlob,
    /// No unit has the master key of the other keys.
    #[error(
        "the keys of backend {backend} are wrapped by master key {key}, and no unit that is in order has that: {units}; if it was changed, run: keyward key rewrap --backend {backend} --finish"
    )]
    NoHome {
        /// The backend.
        backend: String,
        /// By which the other keys are wrapped.
        key: String,
        /// What each unit has.
        units: String,
    },
    /// It is not a public key.
    #[error(
        "this is no public key of a type that TLS signs with; give its SubjectPublicKeyInfo, or the public key that the unit gave"
    )]
    NoPublicKey,
    /// No unit has the mechanism.
    #[error("the units of backend {backend} cannot do this: {reason}")]
    NotOffered {
        /// The backend.
        backend: String,
        /// What a unit said.
        reason: String,
    },
    /// There is no master key to come.
    #[error(
        "a unit of backend {backend} rewrapped a key by the same master key; is a new one committed there?"
    )]
    NotRewrapped {
        /// The backend.
        backend: String,
    },
    /// The key is wrapped by another master key.
    #[error("the key is wrapped by master key {key}, and no unit that is in order has that: {units}")]
    OtherMasterKey {
        /// By which the key is wrapped.
        key: String,
        /// What each unit has.
        units: String,
    },
    /// More than the units can do.
    #[error("the units of backend {backend} have more to do than they can")]
    Overloaded {
        /// The backend.
        backend: String,
    },
    /// A unit said no, and so would the others.
    #[error("a unit of backend {backend} refused: {reason}")]
    Refused {
        /// The backend.
        backend: String,
        /// The number of PKCS #11.
        code: u64,
        /// What the unit said.
        reason: String,
    },
    /// The key is of another type than the scheme.
    #[error("a key of type {key_type} cannot sign with {scheme}")]
    SchemeNotSupported {
        /// The scheme.
        scheme: Scheme,
        /// The type of the key.
        key_type: KeyType,
    },
    /// A unit did not find what was encrypted with the public key.
    #[error(
        "what a unit of backend {backend} decrypts with the blob is not what was encrypted by the public key: that is of another key, or the unit errs"
    )]
    WrongPlaintext {
        /// The backend.
        backend: String,
    },
    /// Every unit that was asked has answered with something that is no signature by the public key.
    #[error(
        "what units of backend {backend} sign with the blob does not verify by the public key: that is of another key, or the units err"
    )]
    WrongSignature {
        /// The backend.
        backend: String,
        /// Whether different units agree, so that it must be the key.
        agreed: bool,
    },
    /// The scheme takes no digest.
    #[error("{0} signs whole messages, not digests")]
    WholeMessageNeeded(Scheme),
}

impl Grep11Error {
    /// What a peer is told.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::CiphertextLength | Self::DigestLength { .. } => Outcome::Malformed,
            Self::Down { .. } => Outcome::UnitUnavailable,
            Self::Late { .. } => Outcome::DeadlineExceeded,
            Self::NoHome { .. } | Self::OtherMasterKey { .. } => Outcome::OtherMasterKey,
            Self::Overloaded { .. } => Outcome::Overloaded,
            Self::CannotDecrypt
            | Self::CannotSign
            | Self::NotOffered { .. }
            | Self::SchemeNotSupported { .. }
            | Self::WholeMessageNeeded(_) => Outcome::NotSupported,
            Self::NoBlob => Outcome::BlobDamaged,
            Self::Refused { code, .. } => match *code {
                ckr::CKR_IBM_BLOB_ERROR | ckr::CKR_KEY_HANDLE_INVALID | ckr::CKR_OBJECT_HANDLE_INVALID => {
                    Outcome::BlobDamaged
                }
                ckr::CKR_KEY_FUNCTION_NOT_PERMITTED
                | ckr::CKR_KEY_TYPE_INCONSISTENT
                | ckr::CKR_KEY_SIZE_RANGE
                | ckr::CKR_IBM_STATIC_POLICY => Outcome::NotSupported,
                _ => Outcome::Internal,
            },
            Self::WrongSignature { agreed: true, .. } => Outcome::BlobDamaged,
            Self::WrongSignature { agreed: false, .. } => Outcome::UnitUnavailable,
            Self::NoPublicKey | Self::NotRewrapped { .. } | Self::WrongPlaintext { .. } => Outcome::Internal,
        }
    }
}
