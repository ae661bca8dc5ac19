//! The key that authenticates a key store, and the keys that are derived from it.

use core::fmt;

use aws_lc_rs::{hkdf, hmac, rand};
use zeroize::Zeroizing;

/// The key of a key store: 32 random bytes. It is wiped when dropped, and shows nothing of itself.
// Boxed, so that moving it leaves no copies behind.
pub struct StoreKey(Box<Zeroizing<[u8; StoreKey::LENGTH]>>);

impl StoreKey {
    /// The length of a store key in bytes.
    pub const LENGTH: usize = 32;

    /// Makes one at random; `None` if the system gives no random bytes.
    pub fn generate() -> Option<Self> {
        let mut key = Self::zeros();
        rand::fill(key.0.as_mut_slice()).ok().map(|()| key)
    }

    /// Takes the bytes of one; `None` if their number is another.
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

    /// The bytes of the key: to be wrapped, and for nothing else.
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
    /// Derives them with HKDF-SHA-256 (RFC 5869), each under an info string of its own.
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

    /// Names the store key without giving it away.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Secret for implicit rejection, which is in no file.
    pub(crate) fn rejection(&self) -> &[u8] {
        self.rejection.as_slice()
    }

    /// Authenticates the record of a label.
    pub(crate) fn of_record(&self, label: &str, record: &[u8]) -> Mac {
        mac(&self.records, &[label.as_bytes(), record])
    }

    /// Authenticates a part of the index.
    pub(crate) fn of_list(&self, number: u32, list: &[u8]) -> Mac {
        mac(&self.lists, &[&number.to_be_bytes(), list])
    }

    /// Authenticates everything else: names and values in turn, and the root of the index.
    pub(crate) fn of_meta(&self, parts: &[&[u8]]) -> Mac {
        mac(&self.meta, parts)
    }
}

/// The parts are told apart by their lengths.
fn mac(key: &hmac::Key, parts: &[&[u8]]) -> Mac {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut mac = Mac::default();
    // SHA-256 gives just as many.
    mac.iter_mut().zip(context.sign().as_ref()).for_each(|(byte, signed)| *byte = *signed);
    mac
}

#[expect(clippy::expect_used)]
fn expand(root: &hkdf::Prk, info: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    // HKDF-SHA-256 gives up to 8160 bytes and refuses only to give more, or into a buffer of
    // another length than was asked for. Going on with a key of zeros would be worse than a panic
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
    fn what_is_derived_never_changes() {
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
