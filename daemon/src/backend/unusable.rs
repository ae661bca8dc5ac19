//! Reason why no key of a backend can be used.

use keyward_unit::Wkid;
use thiserror::Error;

/// Reason why the unit of a backend cannot be used: the unit does not have the master key that the
/// key store was made with.
#[derive(Clone, Debug, Error)]
pub(crate) enum Unusable {
    #[error(
        "the master key of the embedded unit is {has}, and the key store was made with {needed}: no key of that unit can sign, and no new key can be made; configure the master key {needed}, and start the daemon again"
    )]
    Other { needed: Wkid, has: Wkid },
    #[error(
        "the embedded unit has no master key: {why}; it needs the master key {needed}; keyward serve --check-config says whether a file contains that master key"
    )]
    Missing { needed: Wkid, why: String },
}

impl Unusable {
    /// Master key that the unit needs.
    pub(crate) fn needed(&self) -> Wkid {
        match self {
            Self::Other { needed, .. } | Self::Missing { needed, .. } => *needed,
        }
    }

    /// Master key that the unit has.
    pub(crate) fn has(&self) -> Option<Wkid> {
        match self {
            Self::Other { has, .. } => Some(*has),
            Self::Missing { .. } => None,
        }
    }
}
