use keyward_proto::{Hash, PssParameters};

use super::hash::HashFunction;

/// The parameters of a PSS signature (RFC 8017, 8.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pss {
    pub(crate) hash: HashFunction,
    /// Hash function of the mask.
    pub(crate) mask: HashFunction,
    /// Length of the salt, in bytes.
    pub(crate) salt: usize,
}

impl Pss {
    /// True if a key that is bound to the parameters `bond` (RFC 4055, 3.1) allows these.
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
