//! Reads a message from start to end.

/// Part of a message that was not read yet.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    /// Reads the next bytes; `None` if there are fewer.
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// Reads a vector of TLS: the length in `N` bytes, then as many bytes (RFC 8446, 3.4).
    pub(super) fn prefixed<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let length = self.take(N)?.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }
}
