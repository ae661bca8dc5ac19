//! Verification patterns: fingerprints that people compare.

use core::fmt;
use core::str::FromStr;

use aws_lc_rs::digest::{Context, SHA256};
use thiserror::Error;

/// The fingerprint of a master key, of a part or of a share: 32 bytes that reveal nothing of it.
///
/// A pattern is a SHA-256 whose last four bytes are zero. The last bytes are zero for the tools of
/// EP11 units, whose firmware leaves other bytes there in some versions: 28 bytes are compared.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Pattern([u8; Pattern::LENGTH]);

impl Pattern {
    /// Length, in bytes.
    pub const LENGTH: usize = 32;

    /// The pattern of a master key or of a part, as EP11 units compute it.
    pub(crate) fn of_key(key: &[u8; 32]) -> Self {
        Self::of(&[&[OF_KEY], key])
    }

    /// The pattern of a share: of the number that are needed, the index and the value.
    pub(crate) fn of_share(needed: u8, index: u8, value: &[u8; 32]) -> Self {
        Self::of(&[&[OF_SHARE, needed, index], value])
    }

    fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        parts.iter().for_each(|part| context.update(part));
        let mut pattern = [0; Self::LENGTH];
        let compared = pattern.iter_mut().take(COMPARED);
        compared.zip(context.finish().as_ref()).for_each(|(byte, hashed)| *byte = *hashed);
        Self(pattern)
    }

    /// True if this is the same key as in a pattern of an EP11 unit, whose last four bytes may be
    /// of an older form.
    pub fn is_of_the_same_key(&self, other: &[u8; Self::LENGTH]) -> bool {
        self.0[..COMPARED] == other[..COMPARED]
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

impl FromStr for Pattern {
    type Err = InvalidPattern;

    /// Reads the output of `Display`: 64 hexadecimal digits, the last eight of them zeros.
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let mut pattern = [0; Self::LENGTH];
        match base16ct::lower::decode(text, &mut pattern) {
            Ok(bytes) if bytes.len() == Self::LENGTH && bytes[COMPARED..] == [0; 4] => Ok(Self(pattern)),
            _ => Err(InvalidPattern),
        }
    }
}

/// A text that is not a verification pattern.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error(
    "not a verification pattern: 64 lower-case hexadecimal digits are needed, the last eight of them zeros"
)]
pub struct InvalidPattern;

/// First byte under the hash, for a master key and for a part of one.
const OF_KEY: u8 = 1;
/// First byte under the hash, for a share.
const OF_SHARE: u8 = 2;
/// Bytes that are compared.
const COMPARED: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    /// Patterns in the present form, and the last four bytes of the form before 2025.
    #[test]
    fn patterns_are_those_of_ep11_units() {
        let counting: [u8; 32] = core::array::from_fn(|index| index as u8);
        for (key, expected, old_end) in [
            ([0; 32], "1a7dfdeaffeedac489287e85be5e9c049a2ff6470f55cf30260f553900000000", "5ac1b159"),
            (counting, "491176b0f443c65a7c7d72df47d6cbc0d04e111fb5a619f60d3e776700000000", "7ab6f919"),
            (
                counting.map(|byte| byte ^ 0xa5),
                "0c7116b0cabdb39ac9ff6073862e2a4f470786265a3ce8723c237eb400000000",
                "fa3ee928",
            ),
        ] {
            let pattern = Pattern::of_key(&key);
            assert_eq!(pattern.to_string(), expected);
            assert_eq!(expected.parse::<Pattern>().unwrap(), pattern);
            let mut old = pattern.0;
            base16ct::lower::decode(old_end, &mut old[28..]).unwrap();
            assert!(pattern.is_of_the_same_key(&old));
            old[27] ^= 1;
            assert!(!pattern.is_of_the_same_key(&old));
            for bad in [&expected[1..], &expected.to_uppercase(), &expected.replacen("00000000", old_end, 1)]
            {
                assert_eq!(bad.parse::<Pattern>(), Err(InvalidPattern), "{bad}");
            }
        }
    }

    #[test]
    fn a_share_has_another_pattern_than_a_key() {
        let patterns = [
            Pattern::of_key(&[7; 32]),
            Pattern::of_share(2, 1, &[7; 32]),
            Pattern::of_share(2, 2, &[7; 32]),
            Pattern::of_share(3, 1, &[7; 32]),
        ];
        for (index, pattern) in patterns.iter().enumerate() {
            assert!(!patterns[..index].contains(pattern));
        }
    }
}
