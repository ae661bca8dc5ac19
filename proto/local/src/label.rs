use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// The name of a key: 1 to 128 characters of `A-Z a-z 0-9 . _ - @ +`. The first character is a
/// letter or a digit.
///
/// With this alphabet a label needs no quoting in a path, a URI, a pattern or a log line.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Label(String);

impl Label {
    /// Longest label, in bytes.
    pub const MAX: usize = 128;

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if `text` is a label. Like [`FromStr`], without the copy.
    pub fn is_valid(text: &str) -> bool {
        let may_follow = |c: u8| c.is_ascii_alphanumeric() || b"._-@+".contains(&c);
        text.len() <= Self::MAX
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && text.bytes().all(may_follow)
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        match Self::is_valid(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidLabel),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Label {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A text that is not the label of a key.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error(
    "not a key label: use 1 to {} letters, digits, '.', '_', '-', '@' or '+', and begin with a letter or digit",
    Label::MAX
)]
pub struct InvalidLabel;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_and_length() {
        for good in ["a", "shop", "shop.example.com", "9", "a_b-c@d+e", &"x".repeat(128)] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        for bad in ["", ".hidden", "-x", "a/b", "a b", "a\n", "ä", "a?version=1", "*", &"x".repeat(129)] {
            assert_eq!(bad.parse::<Label>(), Err(InvalidLabel), "{bad:?}");
        }
    }
}
