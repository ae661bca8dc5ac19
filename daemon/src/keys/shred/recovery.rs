//! The recovery file: the shred secrets of a key store, as text.
//!
//! ```text
//! keyward recovery file 1
//! secret NUMBER ID 64-HEXADECIMAL-DIGITS
//! old NUMBER ID 64-HEXADECIMAL-DIGITS        only while blobs are wrapped anew
//! check 16-HEXADECIMAL-DIGITS                of the SHA-256 of the lines above
//! ```

use core::fmt::Write;

use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::secret::{Named, ShredSecret};
use crate::store::StoreKey;

/// The secrets in a recovery file.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The secret that was in force when the file was made.
    pub(crate) in_force: (Named, ShredSecret),
    /// The secret before, if some blobs were still wrapped by it.
    pub(crate) old: Option<(Named, ShredSecret)>,
}

impl Recovery {
    /// The secrets with their names.
    pub(crate) fn into_secrets(self) -> impl Iterator<Item = (Named, ShredSecret)> {
        [self.in_force].into_iter().chain(self.old)
    }

    /// The text of the file.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        // The full capacity at once: a text that grows leaves copies of itself in memory.
        let mut text = Zeroizing::new(String::with_capacity(MAX_FILE));
        text.push_str(FIRST_LINE);
        let old = self.old.as_ref().map(|old| ("old", old));
        for (word, (named, secret)) in [("secret", &self.in_force)].into_iter().chain(old) {
            // Writing to a text never fails.
            let _ = write!(text, "{word} {named} ");
            for byte in secret.as_bytes() {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        let check = check_of(&text);
        let _ = writeln!(text, "check {check}");
        text
    }

    /// Reads the output of [`Self::to_text`].
    ///
    /// # Errors
    /// [`RecoveryError`] for any other bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RecoveryError> {
        let text = str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_FILE);
        let lines = text.and_then(|text| text.strip_prefix(FIRST_LINE)).ok_or(RecoveryError::Other)?;
        Self::of_lines(lines).filter(|read| read.to_text().as_bytes() == bytes).ok_or(RecoveryError::Damaged)
    }

    fn of_lines(lines: &str) -> Option<Self> {
        let mut lines = lines.lines();
        let in_force = secret_in(lines.next()?, "secret ")?;
        let old = match lines.next()? {
            line if line.starts_with("check ") => None,
            line => Some(secret_in(line, "old ")?),
        };
        // The caller compares the whole text, with the check.
        Some(Self { in_force, old })
    }
}

fn secret_in(line: &str, word: &str) -> Option<(Named, ShredSecret)> {
    let (named, digits) = line.strip_prefix(word)?.rsplit_once(' ')?;
    let named: Named = named.parse().ok()?;
    // A store key has the same form.
    let secret = ShredSecret::from_bytes(StoreKey::from_hex(digits)?.as_bytes())?;
    (secret.id() == named.id).then_some((named, secret))
}

fn check_of(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Reason why a file is no recovery file.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum RecoveryError {
    /// The file began as a recovery file.
    #[error("the recovery file is damaged; use another copy of the file")]
    Damaged,
    /// The file is something else.
    #[error("it is not a recovery file, which keyward backup --recovery FILE makes")]
    Other,
}

/// Longest file in bytes. Two secrets with their names take less than 300.
pub(crate) const MAX_FILE: usize = 512;
const FIRST_LINE: &str = "keyward recovery file 1\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn named(number: u64) -> (Named, ShredSecret) {
        let secret = ShredSecret::generate().unwrap();
        (Named { number, id: secret.id() }, secret)
    }

    #[test]
    fn only_the_text_that_was_written_is_read() {
        for old in [None, Some(named(u64::MAX))] {
            let file = Recovery { in_force: named(u64::MAX), old };
            let text = file.to_text();
            assert!(text.len() <= MAX_FILE && text.capacity() == MAX_FILE);
            let read = Recovery::parse(text.as_bytes()).unwrap();
            assert_eq!(read.in_force.1.as_bytes(), file.in_force.1.as_bytes());
            assert_eq!(read.old.map(|old| old.0), file.old.as_ref().map(|old| old.0));
            assert!(!format!("{file:?}").contains(&text[70..80]));
            for place in 0..text.len() {
                let mut changed = text.as_bytes().to_vec();
                changed[place] ^= 1;
                assert!(Recovery::parse(&changed).is_err(), "{place}");
                assert!(Recovery::parse(&changed[..place]).is_err(), "{place}");
            }
            for garbage in [format!("{}\n", *text), text.replace('\n', "\r\n"), text.to_uppercase()] {
                assert!(Recovery::parse(garbage.as_bytes()).is_err());
            }
        }
        let other = |bytes: &[u8]| assert_eq!(Recovery::parse(bytes).unwrap_err(), RecoveryError::Other);
        other(b"");
        other(&[0xff; 40]);
        other(&[FIRST_LINE.as_bytes(), &[b'x'; MAX_FILE]].concat());
        assert_eq!(Recovery::parse(FIRST_LINE.as_bytes()).unwrap_err(), RecoveryError::Damaged);
    }
}
