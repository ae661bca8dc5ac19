//! Abilities of a key: what its attributes at the unit allow, for good.

use keyward_proto::{KeyType, Use};

/// Operations that a key at a unit is made for. Its attributes allow these and nothing else.
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

    /// Drops `decrypts` for key types that cannot decrypt. The check of the uses refuses them
    /// later, when the type is known.
    pub(super) fn for_type(self, key_type: KeyType) -> Self {
        Self { decrypts: self.decrypts && matches!(key_type, KeyType::Rsa(_)), ..self }
    }

    /// True if a key with the abilities `has` can do all of this.
    pub(crate) fn are_covered_by(self, has: Self) -> bool {
        (has.signs || !self.signs) && (has.decrypts || !self.decrypts)
    }
}
