//! Parts of a master key: two or three parts make the key by exclusive or.

use core::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::pattern::Pattern;
use crate::error::UnitError;
use crate::master_key::{InvalidMasterKey, MasterKey};

/// A part of a master key: 32 random bytes, of one owner. A part alone reveals nothing of the key.
///
/// Dropping the part wipes it, and debug output shows nothing of it.
// Boxed, so that a move leaves no copy behind.
pub struct Part(Box<Zeroizing<[u8; 32]>>);

impl Part {
    /// Makes a random part.
    ///
    /// # Errors
    /// [`UnitError::Crypto`] if the system gives no random bytes.
    pub fn generate() -> Result<Self, UnitError> {
        let mut part = Self::zeros();
        rand::fill(part.0.as_mut_slice()).map_err(|_| UnitError::Crypto("make a part of a master key"))?;
        Ok(part)
    }

    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut part = Self::zeros();
        part.0.copy_from_slice(bytes);
        part
    }

    /// Reads a part from 64 hexadecimal digits. White space around them is allowed.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] if `text` is anything else.
    pub fn from_hex(text: &str) -> Result<Self, InvalidMasterKey> {
        MasterKey::from_hex(text).map(|read| Self::from_bytes(read.bytes()))
    }

    /// The part as 64 hexadecimal digits, to be printed and locked away.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(base16ct::lower::encode_string(self.0.as_slice()))
    }

    /// The fingerprint of the part.
    pub fn pattern(&self) -> Pattern {
        Pattern::of_key(&self.0)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn zeros() -> Self {
        Self(Box::new(Zeroizing::new([0; 32])))
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({})", self.pattern())
    }
}

/// Makes the master key of parts, in any order: their exclusive or, byte by byte.
pub(crate) fn combine<'p>(parts: impl IntoIterator<Item = &'p Part>) -> MasterKey {
    let mut key = MasterKey::zeros();
    for part in parts {
        key.bytes_mut().iter_mut().zip(part.bytes()).for_each(|(byte, more)| *byte ^= more);
    }
    key
}

/// Least and most parts of a master key.
pub const PARTS: core::ops::RangeInclusive<usize> = 2..=3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_one_key_in_any_order() {
        let counting: [u8; 32] = core::array::from_fn(|index| index as u8);
        let [one, two] = [counting, [0xa5; 32]].map(|bytes| Part::from_bytes(&bytes));
        let key = combine([&one, &two]);
        assert_eq!(
            key.pattern().to_string(),
            "0c7116b0cabdb39ac9ff6073862e2a4f470786265a3ce8723c237eb400000000"
        );
        assert_eq!(combine([&two, &one]).pattern(), key.pattern());
        let three = Part::generate().unwrap();
        let all = [&one, &two, &three];
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let patterns = orders.map(|order| combine(order.map(|at| all[at])).pattern());
        assert!(patterns.iter().all(|pattern| *pattern == patterns[0] && *pattern != key.pattern()));
    }

    #[test]
    fn a_part_is_read_as_it_was_printed() {
        let part = Part::generate().unwrap();
        let again = Part::from_hex(&format!(" {}\n", *part.to_hex())).unwrap();
        assert_eq!(again.pattern(), part.pattern());
        assert_eq!(format!("{part:?}"), format!("Part({})", part.pattern()));
        assert!(Part::from_hex("00").is_err());
    }
}
