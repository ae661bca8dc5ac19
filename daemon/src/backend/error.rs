//! Errors of backends, and the outcome that a peer gets for each error.

use core::error::Error;

use keyward_proto::Outcome;
use keyward_unit::{ImportError, UnitError};
use thiserror::Error;

use super::Unusable;
use crate::ground::causes::causes;

/// Backend that cannot be used as configured.
#[derive(Debug, Error)]
#[error("cannot use backend {backend}: {}", causes(&**reason))]
pub struct SetupError {
    pub(super) backend: String,
    #[source]
    pub(super) reason: Box<dyn Error + Send + Sync>,
}

/// Reason why a backend refused or failed an operation. A request that no unit could serve fails
/// with [`BackendError::Unit`], at every kind of backend.
#[derive(Debug, Error)]
pub(crate) enum BackendError {
    /// The units are busy with as many calls as they can serve.
    #[error("all units of backend {backend} are busy")]
    Busy { backend: String },
    /// The attributes of the key do not allow it to decrypt.
    #[error("the key cannot decrypt: it is not an RSA key, or its attributes do not allow it")]
    CannotDecrypt,
    /// The attributes of the key do not allow it to sign.
    #[error("the key cannot sign: its attributes do not allow it")]
    CannotSign,
    /// No unit is healthy. `units` says of each unit why.
    #[error("no unit of backend {backend} is healthy: {units}")]
    Down { backend: String, units: String },
    /// The thread that worked on the request panicked.
    #[error(
        "the unit stopped working on the request because of an internal error; see the log of the daemon"
    )]
    GivenUp,
    /// The key file cannot be imported.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The deadline passed while the request waited for its turn.
    #[error("the deadline of the request passed while the request waited for its turn")]
    Late,
    /// The backend cannot adopt blobs of other programs.
    #[error("this backend cannot adopt blobs")]
    NoAdoption,
    /// The bytes are not a wrapped key.
    #[error(
        "this is no key blob of Enterprise PKCS #11; give the bytes of the blob exactly as the unit returned them"
    )]
    NoBlob,
    /// The bytes are not a public key.
    #[error(
        "this is no public key of a type that TLS signs with; give the SubjectPublicKeyInfo, or the public key as the unit returned it"
    )]
    NoPublicKey,
    /// No healthy unit has the master key of the other keys, so no new key can be made.
    #[error(
        "the keys of backend {backend} are wrapped by master key {key}, and no healthy unit has that master key: {units}; if the master key was changed, run: keyward key rewrap --backend {backend} --finish"
    )]
    NoUnitForKeys { backend: String, key: String, units: String },
    /// No unit has the mechanism. `reason` is the answer of a unit.
    #[error("the units of backend {backend} do not offer this operation: {reason}")]
    NotOffered { backend: String, reason: String },
    /// No next master key is committed at the unit.
    #[error(
        "a unit of backend {backend} rewrapped a key by the same master key; commit the new master key at the units first"
    )]
    NotRewrapped { backend: String },
    /// No healthy unit has the master key of the key. `units` are the units with their master keys.
    #[error("the key is wrapped by master key {key}, and no healthy unit has that master key: {units}")]
    OtherMasterKey { key: String, units: String },
    /// The queue is full, mostly with requests of this user.
    #[error("too many requests wait, and most of them are of this user")]
    Overloaded,
    /// A unit refused, and every other unit would refuse, too. `outcome` is the outcome for the
    /// peer.
    #[error("a unit of backend {backend} refused: {reason}")]
    Refused { backend: String, outcome: Outcome, reason: String },
    /// No unit answered before the deadline.
    #[error("no unit of backend {backend} answered in time")]
    Unanswered { backend: String },
    /// The unit refused the request, or the request does not fit the key.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// The unit does not have the master key of the key store.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The text that a unit decrypted is not the text that was encrypted with the public key.
    #[error(
        "a unit of backend {backend} decrypted another text with the blob than was encrypted with the public key: the public key is of another key, or the unit is faulty"
    )]
    WrongPlaintext { backend: String },
    /// No unit that was asked made a signature that verifies. `agreed` is true if different units
    /// failed in this way, so that the key must be damaged.
    #[error(
        "signatures that units of backend {backend} make with the blob do not verify with the public key: the public key is of another key, or the units are faulty"
    )]
    WrongSignature { backend: String, agreed: bool },
}

impl BackendError {
    /// Error for a key that was to be made: there is no key yet whose master key the error names.
    pub(super) fn while_making(self, backend: &str) -> Self {
        match self {
            Self::OtherMasterKey { key, units } => {
                Self::NoUnitForKeys { backend: backend.to_owned(), key, units }
            }
            other => other,
        }
    }

    /// Outcome that a peer gets.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::GivenUp
            | Self::Import(_)
            | Self::NoPublicKey
            | Self::NotRewrapped { .. }
            | Self::WrongPlaintext { .. } => Outcome::Internal,
            Self::Late | Self::Unanswered { .. } => Outcome::DeadlineExceeded,
            Self::Busy { .. } | Self::Overloaded => Outcome::Overloaded,
            Self::CannotDecrypt | Self::CannotSign | Self::NoAdoption | Self::NotOffered { .. } => {
                Outcome::NotSupported
            }
            Self::Down { .. } | Self::WrongSignature { agreed: false, .. } => Outcome::UnitUnavailable,
            Self::NoBlob | Self::WrongSignature { agreed: true, .. } => Outcome::BlobDamaged,
            Self::Unusable(Unusable::Sealed { .. }) => Outcome::UnitSealed,
            Self::NoUnitForKeys { .. } | Self::OtherMasterKey { .. } | Self::Unusable(_) => {
                Outcome::OtherMasterKey
            }
            Self::Refused { outcome, .. } => *outcome,
            Self::Unit(error) => outcome_of(error),
        }
    }

    /// True if the peer is at fault, so that no operator has to act.
    pub(crate) fn is_of_the_peer(&self) -> bool {
        matches!(
            self,
            Self::Late
                | Self::Overloaded
                | Self::Unit(
                    UnitError::CiphertextLength
                        | UnitError::DigestLength { .. }
                        | UnitError::KeyCannotDecrypt
                        | UnitError::KeyTypeNotSupported(_)
                        | UnitError::Retired
                        | UnitError::SchemeNotSupported { .. }
                        | UnitError::WholeMessageNeeded(_)
                )
        )
    }

    /// True if the unit no longer uses the blob: the key was disabled, deleted or rewrapped after
    /// the blob was read.
    pub(crate) fn is_of_a_retired_blob(&self) -> bool {
        matches!(self, Self::Unit(UnitError::Retired))
    }
}

fn outcome_of(error: &UnitError) -> Outcome {
    match error {
        UnitError::BlobDamaged => Outcome::BlobDamaged,
        UnitError::CiphertextLength | UnitError::DigestLength { .. } => Outcome::Malformed,
        UnitError::KeyCannotDecrypt
        | UnitError::KeyTypeNotSupported(_)
        | UnitError::SchemeNotSupported { .. }
        | UnitError::WholeMessageNeeded(_) => Outcome::NotSupported,
        UnitError::OtherMasterKey { .. } => Outcome::OtherMasterKey,
        UnitError::Sealed => Outcome::UnitSealed,
        UnitError::Retired => Outcome::KeyDisabled,
        _ => Outcome::Internal,
    }
}
