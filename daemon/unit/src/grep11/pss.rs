use keyward_proto::{Hash, PssParameters};

use super::hash::HashFunction;

/// What PSS takes beside the message (RFC 8017, 8.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pss {
    pub(crate) hash: HashFunction,
    /// Hash of the mask.
    pub(crate) mask: HashFunction,
    /// Length of the salt, in bytes.
    pub(crate) salt: usize,
}

impl Pss {
    /// Whether a key that is bound to these parameters (RFC 4055, 3.1) may be used so.
    pub(crate) fn fits(self, bond: PssParameters) -> bool {
        let hash = match bond.hash() {
            Hash::Sha256 => HashFunction::Sha256,
            Hash::Sha384 => HashFunction::Sha384,
            Hash::Sha512 => HashFunction::Sha512,
            _ => return false,
        };
        self.hash == hash && self.mask == hash && self.salt >= bond.salt().into()
    }
}
