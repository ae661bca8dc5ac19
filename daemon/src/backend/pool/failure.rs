//! Reasons why one attempt at one unit failed, and whether another unit may succeed.

use core::fmt;

use keyward_proto::Outcome;
use keyward_unit::Wkid;

/// Failure of one attempt at one unit.
#[derive(Clone, Debug)]
pub(in crate::backend) enum Failure {
    /// The unit says that it is busy.
    Busy(String),
    /// The daemon or the unit refused the certificate of the other.
    Certificate(String),
    /// The unit refused the credential of the daemon, or the daemon has none.
    Credential(String),
    /// The deadline of the request passed before the time limit of the unit.
    DeadlinePassed,
    /// The unit has no master key.
    NoMasterKey(String),
    /// The unit does not offer the operation, or not with these parameters.
    NotOffered(String),
    /// The unit has another master key than the key: this one, if known.
    OtherMasterKey(Option<Wkid>),
    /// The unit cannot do the operation with this key, and no other unit can.
    Refused { refusal: Refusal, reason: String },
    /// The unit gave no answer within its time limit.
    Timeout,
    /// The unit failed, or the connection to the unit. `severe` is true if one such failure opens
    /// the breaker.
    Unit { reason: String, severe: bool },
    /// The signature does not verify: the unit is faulty, or the public key is of another key.
    WrongSignature,
}

/// Kind of a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum Refusal {
    /// The data are not valid for the key. For a ciphertext: the padding is wrong.
    BadData,
    /// The blob is damaged.
    BlobDamaged,
    /// The key may not be used in this way.
    NotAllowed,
    /// Any other reason.
    Other,
}

impl Refusal {
    /// Outcome that a peer gets.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::BlobDamaged => Outcome::BlobDamaged,
            Self::NotAllowed => Outcome::NotSupported,
            Self::BadData | Self::Other => Outcome::Internal,
        }
    }
}

impl Failure {
    /// Severe failure: the unit cannot be reached, or its answer is not valid.
    pub(in crate::backend) fn severe(reason: impl ToString) -> Self {
        Self::Unit { reason: reason.to_string(), severe: true }
    }

    /// True if another unit may succeed, or the same unit over another connection.
    pub(in crate::backend) fn is_worth_another_attempt(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadlinePassed => f.write_str("the deadline of the request passed before its timeout"),
            Self::OtherMasterKey(Some(wkid)) => write!(f, "it has another master key: {wkid}"),
            Self::OtherMasterKey(None) => f.write_str("it has another master key"),
            Self::Timeout => f.write_str("it gave no answer in time"),
            Self::WrongSignature => f.write_str("it answered with a signature that does not verify"),
            Self::Busy(reason)
            | Self::Certificate(reason)
            | Self::Credential(reason)
            | Self::NoMasterKey(reason)
            | Self::NotOffered(reason)
            | Self::Refused { reason, .. }
            | Self::Unit { reason, .. } => f.write_str(reason),
        }
    }
}
