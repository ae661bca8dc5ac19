//! Policy of a trail: settings that may change while the trail is open.

use core::time::Duration;

/// Settings that may change while the trail is open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Length at which a new file begins, in bytes.
    pub rotate_at: u64,
    /// Age of the first record of a file at which a new file begins with the next record.
    pub rotate_after: Duration,
    /// Age of the last record of a closed file at which the file is removed. `None`: no age.
    pub keep: Option<Duration>,
    /// Length of all files of records, in bytes, above which the oldest closed files are
    /// removed. `None`: no length.
    pub keep_size: Option<u64>,
    /// Records of uses that were carried out.
    pub signatures: Signatures,
}

/// Records of uses of keys that were carried out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Signatures {
    /// A record for each use.
    #[default]
    Each,
    /// A record for all uses with the same peer, key and purpose in a second.
    Summary,
}

impl Default for Policy {
    /// Files of 64 MiB or of a day, which are kept, with a record for each use.
    fn default() -> Self {
        Self {
            rotate_at: 64 << 20,
            rotate_after: DAY,
            keep: None,
            keep_size: None,
            signatures: Signatures::Each,
        }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
