//! The key that authenticates a key store, and the keys that are derived from it.

use core::fmt;

use aws_lc_rs::{hkdf, hmac, rand};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Key of a key store: 32 random bytes. Dropping the key wipes the bytes, and `Debug` shows none.
// Boxed, so that moving the key leaves no copies in memory.
pub struct StoreKey(Box<Zeroizing<[u8; StoreKey::LENGTH]>>);

impl StoreKey {
    /// The length of a store key in bytes.
    pub const LENGTH: usize = 32;

    /// Makes a random key; `None` if the system gives no random bytes.
    pub fn generate() -> Option<Self> {
        let mut key = Self::zeros();
        rand::fill(key.0.as_mut_slice()).ok().map(|()| key)
    }

    /// Key from its bytes; `None` unless there are [`Self::LENGTH`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Self::zeros();
        (bytes.len() == Self::LENGTH).then(|| key.0.copy_from_slice(bytes))?;
        Some(key)
    }

    /// Reads 64 hexadecimal digits, with white space around them or none.
    pub fn from_hex(text: &str) -> Option<Self> {
        let (pairs, rest) = text.trim().as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut key = Self::zeros();
        for (byte, [high, low]) in key.0.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        (pairs.len() == Self::LENGTH && rest.is_empty()).then_some(key)
    }

    /// The bytes of the key, for wrapping only.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; Self::LENGTH])))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey")
    }
}

/// An HMAC-SHA-256.
pub(crate) type Mac = [u8; 32];

/// The keys that are derived from a store key, one for each purpose.
pub(crate) struct Seals {
    records: hmac::Key,
    lists: hmac::Key,
    meta: hmac::Key,
    rejection: Zeroizing<[u8; 32]>,
    name: String,
}

impl Seals {
    /// Derives the keys with HKDF-SHA-256 (RFC 5869), each under an info string of its own.
    pub(crate) fn derive(key: &StoreKey) -> Self {
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(key.as_bytes());
        let mac = |info| hmac::Key::new(hmac::HMAC_SHA256, &*expand(&root, info));
        let name = expand(&root, b"name").iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self {
            records: mac(b"records"),
            lists: mac(b"lists"),
            meta: mac(b"meta"),
            rejection: expand(&root, b"implicit rejection"),
            name,
        }
    }

    /// Name of the store key. The name does not reveal the key.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Secret for implicit rejection, 32 bytes. No file contains the secret.
    pub(crate) fn rejection(&self) -> &[u8] {
        self.rejection.as_slice()
    }

    /// The row that holds the record of a label, which is the MAC and the record, and the MAC
    /// alone.
    pub(crate) fn seal_record(&self, label: &str, record: &[u8]) -> (Mac, Vec<u8>) {
        let mac = self.of_record(label, record);
        (mac, [&mac, record].concat())
    }

    /// The MAC and the record in a row; `None` if the row is not authentic for this label.
    pub(crate) fn open_record<'r>(&self, label: &str, row: &'r [u8]) -> Option<(Mac, &'r [u8])> {
        let (mac, record) = row.split_first_chunk::<32>()?;
        let is_genuine: bool = mac.ct_eq(&self.of_record(label, record)).into();
        is_genuine.then_some((*mac, record))
    }

    /// Authenticates the record of a label.
    pub(crate) fn of_record(&self, label: &str, record: &[u8]) -> Mac {
        mac(&self.records, &[label.as_bytes(), record])
    }

    /// Authenticates a list of the index.
    pub(crate) fn of_list(&self, number: u32, list: &[u8]) -> Mac {
        mac(&self.lists, &[&number.to_be_bytes(), list])
    }

    /// Authenticates the metadata and the root of the index: names and values in turn, then the
    /// root.
    pub(crate) fn of_meta(&self, parts: &[&[u8]]) -> Mac {
        mac(&self.meta, parts)
    }
}

/// The record in a row, whatever its MAC is; `None` if the row has no place for a MAC.
pub(crate) fn unverified(row: &[u8]) -> Option<&[u8]> {
    row.split_first_chunk::<32>().map(|(_, record)| record)
}

/// MAC of several parts. The length of a part is authenticated before the part, so no byte can move
/// from one part to the next.
fn mac(key: &hmac::Key, parts: &[&[u8]]) -> Mac {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut mac = Mac::default();
    // HMAC-SHA-256 gives 32 bytes.
    mac.iter_mut().zip(context.sign().as_ref()).for_each(|(byte, signed)| *byte = *signed);
    mac
}

/// A key of a root, under an info string of its own (RFC 5869).
#[expect(clippy::expect_used)]
pub(crate) fn expand(root: &hkdf::Prk, info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // HKDF-SHA-256 gives up to 8160 bytes. It refuses only to give more, or to fill a buffer of
    // another length than the length that was asked for. A key of zeros would be worse than a panic
    // at the start.
    let filled = root.expand(&[info], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(key.as_mut_slice()));
    filled.expect("32 bytes of HKDF-SHA-256");
    key
}

const SALT: &[u8] = b"keyward key store 2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_digits_are_a_store_key() {
        let digits = "0123456789abcdef".repeat(4);
        let key = StoreKey::from_hex(&format!(" {digits}\n")).unwrap();
        assert_eq!(key.as_bytes()[..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(StoreKey::from_bytes(key.as_bytes()).unwrap().as_bytes(), key.as_bytes());
        for bad in ["", "00", &digits[1..], &digits[2..], &format!("{digits}00"), &digits.replace('f', "g")] {
            assert!(StoreKey::from_hex(bad).is_none(), "{bad}");
        }
        assert!(StoreKey::from_bytes(&[0; 31]).is_none());
        assert_eq!(format!("{key:?}"), "StoreKey");
    }

    #[test]
    fn derived_keys_never_change() {
        let seals = Seals::derive(&StoreKey::from_bytes(&[0x5a; 32]).unwrap());
        // HKDF as in RFC 5869, worked out apart from this code. Every store of every installation
        // is authenticated so.
        assert_eq!(seals.name(), "535ffb8b6f45aabd57be3c417edb6bb8");
        let hex = |mac: &[u8]| -> String { mac.iter().map(|byte| format!("{byte:02x}")).collect() };
        assert_eq!(
            hex(&seals.of_record("shop", b"record")),
            "dd35505dc856fda2ba2501320d443a1df643ed06949bc39434698020d9fd3ac9"
        );
        assert_eq!(
            hex(seals.rejection()),
            "c479ac8278f4b6cd206fd3ceb64c20a58e287bd46a29c058cfbf655ed7734b4c"
        );
    }

    #[test]
    fn parts_cannot_be_moved_from_one_to_the_next() {
        let seals = Seals::derive(&StoreKey::from_bytes(&[0x5a; 32]).unwrap());
        assert_ne!(seals.of_record("shop", b"1"), seals.of_record("shop1", b""));
        assert_ne!(seals.of_meta(&[b"a", b"bc"]), seals.of_meta(&[b"ab", b"c"]));
        assert_ne!(seals.of_meta(&[b"a", b""]), seals.of_meta(&[b"a"]));
        assert_ne!(seals.of_list(1, b"list"), seals.of_list(2, b"list"));
    }
}
