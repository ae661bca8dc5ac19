//! Abilities of a key: the operations that its attributes at the unit allow. Nobody can change the
//! attributes later.

use keyward_proto::{KeyType, Use};

/// Operations that the attributes of a key at a unit allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Abilities {
    /// Signatures (`CKA_SIGN`).
    pub(crate) signs: bool,
    /// RSA key exchange (`CKA_DECRYPT`).
    pub(crate) decrypts: bool,
}

impl Abilities {
    /// Abilities of a key for signatures alone.
    pub(crate) const SIGNS: Self = Self { signs: true, decrypts: false };

    /// Abilities that a key needs for these uses.
    pub(crate) fn needed_for(uses: &[Use]) -> Self {
        Self {
            signs: uses.iter().any(|u| *u != Use::RsaKeyExchange),
            decrypts: uses.contains(&Use::RsaKeyExchange),
        }
    }

    /// Drops `decrypts` for key types that cannot decrypt. A later check, which knows the type,
    /// refuses the uses that need it.
    pub(super) fn for_type(self, key_type: KeyType) -> Self {
        Self { decrypts: self.decrypts && matches!(key_type, KeyType::Rsa(_)), ..self }
    }

    /// True if a key with the abilities `has` has all of these abilities.
    pub(crate) fn are_covered_by(self, has: Self) -> bool {
        (has.signs || !self.signs) && (has.decrypts || !self.decrypts)
    }
}
