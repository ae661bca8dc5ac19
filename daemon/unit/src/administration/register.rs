//! The two registers of a unit: the master key in force, and the one that will be in force.
//!
//! ```text
//! new:      empty -- load --> uncommitted -- commit --> committed -- activate --> empty
//! current:  empty -------------------------------------------------- activate --> valid
//! any -- clear --> empty
//! ```
//!
//! A register has the pattern of its master key, and how the key is put together. The key itself is
//! in the memory of the unit only.

use super::pattern::Pattern;
use super::person::Person;
use crate::wkid::Wkid;

/// A register.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Register {
    /// There is no master key.
    #[default]
    Empty,
    /// The quorum has agreed to the master key. New register only.
    Committed(Contents),
    /// The master key is loaded, and nobody has agreed to it. New register only.
    Uncommitted(Contents),
    /// The master key is in force. Current register only.
    Valid(Contents),
}

impl Register {
    /// The pattern of the master key, and how it is put together. `None` for an empty register.
    pub fn contents(&self) -> Option<&Contents> {
        match self {
            Self::Empty => None,
            Self::Committed(contents) | Self::Uncommitted(contents) | Self::Valid(contents) => Some(contents),
        }
    }

    /// The pattern of the master key. `None` for an empty register.
    pub fn pattern(&self) -> Option<Pattern> {
        self.contents().map(|contents| contents.pattern)
    }

    /// The state of the register, as a word.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Committed(_) => "committed",
            Self::Uncommitted(_) => "uncommitted",
            Self::Valid(_) => "valid",
        }
    }
}

/// The master key of a register, without the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contents {
    /// Pattern of the master key.
    pub pattern: Pattern,
    /// Name of the master key in blobs.
    pub wkid: Wkid,
    /// How the master key is put together.
    pub origin: Origin,
    /// Shares that the unit has encrypted to their owners, so that it can give them out again.
    pub shares: Vec<SealedShare>,
}

/// A share that a unit has encrypted to its owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedShare {
    /// The owner.
    pub owner: Person,
    /// Number of shares that make the key.
    pub needed: u8,
    /// Index of the share, from 1.
    pub index: u8,
    /// Fingerprint of the share.
    pub pattern: Pattern,
    /// The share, encrypted.
    pub sealed: Vec<u8>,
}

/// How a master key is put together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// From a file, or made by the unit itself: no owners have parts.
    Machine,
    /// From parts with these patterns.
    Parts(Vec<Pattern>),
    /// From shares.
    Shares {
        /// Number of shares that make the key.
        needed: u8,
        /// Indexes and patterns of all shares, in the order of the indexes.
        shares: Vec<(u8, Pattern)>,
    },
}

impl Origin {
    /// Number of parts or shares that make the key.
    pub fn needed(&self) -> usize {
        match self {
            Self::Machine => 0,
            Self::Parts(parts) => parts.len(),
            Self::Shares { needed, .. } => usize::from(*needed),
        }
    }

    /// Patterns of all parts or shares.
    pub fn patterns(&self) -> Vec<Pattern> {
        match self {
            Self::Machine => Vec::new(),
            Self::Parts(parts) => parts.clone(),
            Self::Shares { shares, .. } => shares.iter().map(|(_, pattern)| *pattern).collect(),
        }
    }
}
