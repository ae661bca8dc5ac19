use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// The name of a master key, which reveals nothing of the key. Every blob contains the name of the
/// master key that wrapped it.
///
/// The name is the first 16 bytes of the verification pattern of the master key.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Wkid([u8; Wkid::LENGTH]);

impl Wkid {
    /// Length of the name, in bytes.
    pub const LENGTH: usize = 16;

    /// Takes the name from its bytes in a blob.
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl FromStr for Wkid {
    type Err = InvalidWkid;

    /// Reads the output of `Display`: 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, InvalidWkid> {
        let mut wkid = [0; Self::LENGTH];
        match base16ct::mixed::decode(text, &mut wkid) {
            Ok(bytes) if bytes.len() == Self::LENGTH => Ok(Self(wkid)),
            _ => Err(InvalidWkid),
        }
    }
}

/// A text that is not the name of a master key.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("not the name of a master key: 32 hexadecimal digits are needed")]
pub struct InvalidWkid;

impl fmt::Display for Wkid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Wkid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wkid({self})")
    }
}
