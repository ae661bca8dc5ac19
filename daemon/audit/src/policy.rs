//! Policy of a trail: settings that may change while the trail is open.

use core::time::Duration;

/// Settings that may change while the trail is open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Length at which a new file begins, in bytes.
    pub rotate_at: u64,
    /// Age of the first record of a file at which a new file begins with the next record.
    pub rotate_after: Duration,
}

impl Default for Policy {
    /// Files of 64 MiB or of a day.
    fn default() -> Self {
        Self { rotate_at: 64 << 20, rotate_after: DAY }
    }
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
