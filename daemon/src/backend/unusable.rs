//! Reason why no key of a backend can be used.

use std::path::PathBuf;

use keyward_unit::Wkid;
use thiserror::Error;

/// Reason why the unit of a backend cannot be used: the unit does not have the master key that the
/// key store was made with, or no master key yet.
#[derive(Clone, Debug, Error)]
pub(crate) enum Unusable {
    #[error("the embedded unit has no master key yet: {first_step}")]
    Empty { first_step: String },
    // A new master key would open none of the keys in the store.
    #[error(
        "the embedded unit has no master key, and the key store was made with {needed}: if that master key is in a file, name the file as master-key in section [embedded] of the configuration; if it has owners, they load the same parts or shares again, as docs/ceremony.md describes: keyward unit status"
    )]
    Emptied { needed: Wkid },
    #[error(
        "the state of the embedded unit, which had owners, is lost or an old one: stop the daemon, restore {}/unit from a backup, and start the daemon; without a backup, move that directory away before the start: then its owners claim the unit again, and load the same parts; to go on without these owners, remove {}/unit.known, too",
        state_dir.display(), state_dir.display()
    )]
    Lost { state_dir: PathBuf },
    #[error(
        "the embedded unit is sealed: its master key is not in memory since the start of the daemon or the last seal; its owners must bring their parts: keyward unit unseal FILE --unit-key FINGERPRINT"
    )]
    Sealed { needed: Option<Wkid> },
    #[error(
        "the master key of the embedded unit is {has}, and the key store was made with {needed}: no key of that unit can sign, and no new key can be made; if {needed} is in a file or was kept by a secret, name that file or secret in section [embedded] of the configuration; if the master key was changed, restore the directory unit of the state directory from the same time as the key store; then start the daemon again; if {needed} has owners, they load it: docs/ceremony.md"
    )]
    Other { needed: Wkid, has: Wkid },
    #[error(
        "the embedded unit has no master key: {why}; it needs the master key {needed}; keyward serve --check-config says whether a file or a secret opens it"
    )]
    Missing { needed: Wkid, why: String },
}

impl Unusable {
    /// Master key that the unit needs, if it is known.
    pub(crate) fn needed(&self) -> Option<Wkid> {
        match self {
            Self::Emptied { needed } | Self::Missing { needed, .. } | Self::Other { needed, .. } => {
                Some(*needed)
            }
            Self::Sealed { needed } => *needed,
            Self::Empty { .. } | Self::Lost { .. } => None,
        }
    }

    /// Master key that the unit has.
    pub(crate) fn has(&self) -> Option<Wkid> {
        match self {
            Self::Other { has, .. } => Some(*has),
            Self::Empty { .. }
            | Self::Emptied { .. }
            | Self::Lost { .. }
            | Self::Missing { .. }
            | Self::Sealed { .. } => None,
        }
    }
}
