use core::fmt;

use aws_lc_rs::{hkdf, hmac, rand};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::administration::Pattern;
use crate::error::UnitError;
use crate::wkid::Wkid;

/// The master key of a unit: 32 random bytes. All keys that wrap blobs are derived from it.
///
/// The master key is wiped when dropped, cannot be cloned, and debug output shows nothing of it.
// Boxed, so that a move leaves no copy behind.
pub struct MasterKey(Box<Zeroizing<[u8; MasterKey::LENGTH]>>);

impl MasterKey {
    const LENGTH: usize = 32;

    /// Generates a random master key.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the system gives no random bytes.
    pub fn generate() -> Result<Self, UnitError> {
        let mut key = Self::zeros();
        rand::fill(key.0.as_mut_slice()).map_err(|_| UnitError::Crypto("generate a master key"))?;
        Ok(key)
    }

    /// Reads a master key from 64 hexadecimal digits. White space around them is allowed.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] if `text` is anything else.
    pub fn from_hex(text: &str) -> Result<Self, InvalidMasterKey> {
        let mut key = Self::zeros();
        let decoded = base16ct::mixed::decode(text.trim(), key.0.as_mut_slice());
        match decoded.is_ok_and(|bytes| bytes.len() == Self::LENGTH) {
            true => Ok(key),
            false => Err(InvalidMasterKey),
        }
    }

    /// The master key as 64 hexadecimal digits, for the master key file of a state directory only.
    pub fn to_hex(&self) -> Zeroizing<String> {
        // The text is allocated once at its full length, so no copy of it is left behind.
        Zeroizing::new(base16ct::lower::encode_string(self.0.as_slice()))
    }

    /// The name of the master key.
    pub fn wkid(&self) -> Wkid {
        wkid_of(&self.extract())
    }

    /// The fingerprint of the master key that people compare.
    pub fn pattern(&self) -> Pattern {
        Pattern::of_key(self.bytes())
    }

    pub(crate) fn bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; Self::LENGTH] {
        &mut self.0
    }

    fn extract(&self) -> hkdf::Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(self.0.as_slice())
    }

    /// True if a person probably made the key up: zeros, counting, a repeated word. The test looks
    /// for fewer than 8 values among the bytes, fewer than 8 among the differences between
    /// neighbours, or a period of at most 16 bytes. A random key has such a pattern with a
    /// probability below 2^-115.
    pub fn follows_a_pattern(&self) -> bool {
        let key = self.0.as_slice();
        let few = |values: &mut dyn Iterator<Item = u8>| {
            let mut seen = [false; 256];
            values.for_each(|value| seen[usize::from(value)] = true);
            seen.iter().filter(|seen| **seen).count() < 8
        };
        let mut differences = key.iter().zip(&key[1..]).map(|(one, next)| next.wrapping_sub(*one));
        let repeats = |period: usize| key.iter().zip(&key[period..]).all(|(one, other)| one == other);
        few(&mut key.iter().copied()) || few(&mut differences) || (1..=16).any(repeats)
    }

    pub(crate) fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; Self::LENGTH])))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// A text that is not a master key. The error says nothing about the text.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("not a master key: 64 hexadecimal digits are needed")]
pub struct InvalidMasterKey;

/// The keys that are derived from a master key, one for each purpose, and its name.
pub(crate) struct WrappingKeys {
    /// Wraps private and secret keys.
    pub(crate) blobs: SealingKeys,
    /// Wraps the states of operations in several parts.
    pub(crate) states: SealingKeys,
    /// Wraps the keys of key stores.
    pub(crate) store_keys: SealingKeys,
    /// Authenticates the state of the unit.
    pub(crate) unit_state: hmac::Key,
    /// Authenticates public keys.
    pub(crate) public_keys: hmac::Key,
    pub(crate) wkid: Wkid,
}

/// Two keys that encrypt and authenticate.
pub(crate) struct SealingKeys {
    pub(crate) encryption: Box<Zeroizing<[u8; 32]>>,
    pub(crate) mac: hmac::Key,
}

impl WrappingKeys {
    /// Derives the keys with HKDF-SHA-256 (RFC 5869), each under its own info string.
    pub(crate) fn derive(master_key: &MasterKey) -> Self {
        let root = master_key.extract();
        let sealing = |encryption, authentication| SealingKeys {
            encryption: expand(&root, encryption),
            mac: hmac::Key::new(hmac::HMAC_SHA256, expand(&root, authentication).as_slice()),
        };
        Self {
            blobs: sealing(b"encryption", b"authentication"),
            states: sealing(b"state encryption", b"state authentication"),
            store_keys: sealing(b"store key encryption", b"store key authentication"),
            unit_state: hmac::Key::new(hmac::HMAC_SHA256, expand(&root, b"unit state").as_slice()),
            public_keys: hmac::Key::new(hmac::HMAC_SHA256, expand(&root, b"public keys").as_slice()),
            wkid: wkid_of(&root),
        }
    }
}

/// The name of a master key: the first bytes of the verification pattern that is derived from it.
fn wkid_of(root: &hkdf::Prk) -> Wkid {
    let pattern = expand(root, b"verification pattern");
    let mut wkid = [0; Wkid::LENGTH];
    wkid.copy_from_slice(&pattern[..Wkid::LENGTH]);
    Wkid::from_bytes(wkid)
}

#[expect(clippy::expect_used)]
fn expand(root: &hkdf::Prk, info: &[u8]) -> Box<Zeroizing<[u8; 32]>> {
    let mut key = Box::new(Zeroizing::new([0; 32]));
    // HKDF-SHA-256 gives up to 8160 bytes. It refuses a longer output, and a buffer of another
    // length than the output. A key of zeros would be worse than a panic at the start.
    let filled = root.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut_slice()));
    filled.expect("32 bytes of HKDF-SHA-256");
    key
}

/// The salt that separates these keys from other keys that may be derived from the same 32 bytes.
const SALT: &[u8] = b"keyward software crypto unit 1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip() {
        let key = MasterKey::generate().unwrap();
        let text = key.to_hex();
        assert_eq!(text.len(), 64);
        let again = MasterKey::from_hex(&format!("  {}\n", text.to_uppercase())).unwrap();
        assert_eq!(again.to_hex(), text);
        assert_ne!(MasterKey::generate().unwrap().to_hex(), text);
        assert_eq!(format!("{key:?}"), "MasterKey");
    }

    #[test]
    fn only_64_digits_are_a_master_key() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(MasterKey::from_hex(&digits).is_ok());
        for bad in
            ["", "00", &digits[1..], &format!("{digits}0"), &digits.replace('f', "g"), &"\u{e9}".repeat(32)]
        {
            assert_eq!(MasterKey::from_hex(bad).unwrap_err(), InvalidMasterKey, "{bad}");
        }
        assert_eq!(MasterKey::from_hex(&digits.replacen("01", " 1", 1)).unwrap_err(), InvalidMasterKey);
    }

    #[test]
    fn keys_that_somebody_made_up() {
        let key = |bytes: [u8; 32]| MasterKey(Box::new(Zeroizing::new(bytes)));
        let word = *b"correct horse ba";
        for bytes in [
            [0; 32],
            [0xff; 32],
            core::array::from_fn(|index| index as u8),
            core::array::from_fn(|index| 255 - 3 * index as u8),
            core::array::from_fn(|index| word[index % word.len()]),
            core::array::from_fn(|index| word[index % 11]),
            core::array::from_fn(|index| index.min(31 - index) as u8),
            core::array::from_fn(|index| u8::from(index == 31)),
        ] {
            assert!(key(bytes).follows_a_pattern(), "{bytes:?}");
        }
        for _ in 0..100_000 {
            assert!(!MasterKey::generate().unwrap().follows_a_pattern());
        }
    }

    #[test]
    fn derived_keys_differ_from_each_other_and_never_change() {
        let keys = WrappingKeys::derive(&MasterKey::from_hex(&"5a".repeat(32)).unwrap());
        // The name was computed with another implementation of HKDF. Another name would make every
        // blob of every installation unreadable.
        assert_eq!(keys.wkid.to_string(), "2be781505e2decbfac71fc4ea64e6b81");
        // Of the empty message.
        let macs =
            [&keys.blobs.mac, &keys.states.mac, &keys.store_keys.mac, &keys.public_keys, &keys.unit_state];
        let macs = macs.map(|key| hmac::sign(key, b""));
        for (index, mac) in macs.iter().enumerate() {
            assert!(macs[..index].iter().all(|other| other.as_ref() != mac.as_ref()));
        }
        assert_ne!(**keys.blobs.encryption, **keys.states.encryption);
        assert_ne!(&keys.blobs.encryption[..16], keys.wkid.as_bytes());
        let blob = "08c7f064c6c70dedfcd009a0b0478f9c31929978b483971e30fe41350bc95284";
        let mac: String = macs[0].as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(mac, blob);
    }
}
