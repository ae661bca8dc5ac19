//! Free space of the file system with the trail. Uses of keys go into summaries when there is
//! little of it.

use core::time::Duration;
use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

use crate::line::Content;
use crate::writer::Writer;

/// Free space, when it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Space {
    looked: Option<Instant>,
    /// True from less than [`LOW`] until more than [`ENOUGH`].
    pub(crate) is_low: bool,
    /// `is_low` by the last record.
    recorded: bool,
}

impl Space {
    fn set(&mut self, free: u8) {
        self.is_low = free < LOW || (self.is_low && free <= ENOUGH);
    }
}

impl Writer {
    /// Looks at the free space, if it was not looked at for some time. A record says when uses go
    /// into summaries, and when they no longer do.
    pub(crate) fn look_at_space(&mut self) {
        if self.space.looked.is_some_and(|looked| looked.elapsed() < self.surroundings.look_every) {
            return;
        }
        self.space.looked = Some(Instant::now());
        self.reserve.keep();
        // A file system that does not tell is no reason to write less.
        let Ok(free) = (self.surroundings.free)(&self.settings.directory) else { return };
        self.space.set(free);
        self.shared.tell(|status| status.free = Some(free));
        let summaries = self.space.is_low;
        if summaries == self.space.recorded {
            return;
        }
        if self.write(SystemTime::now(), &[Content::Space { free, summaries }]).is_ok() {
            self.space.recorded = summaries;
            if summaries {
                tracing::warn!(free, "little free space: the audit trail has summaries of uses of keys");
            } else {
                tracing::info!(free, "enough free space: the audit trail has a record of each use again");
            }
        }
    }
}

/// Free part of a file system in per cent, as df(1) shows it: without what is reserved for root.
///
/// # Errors
/// The system does not say (statvfs(3)).
pub(crate) fn free(directory: &Path) -> io::Result<u8> {
    let system = rustix::fs::statvfs(directory)?;
    let used = system.f_blocks.saturating_sub(system.f_bfree);
    let all = used.saturating_add(system.f_bavail);
    // Some file systems have no size.
    let per_cent = u128::from(system.f_bavail) * 100 / u128::from(all.max(1));
    Ok(if all == 0 { 100 } else { u8::try_from(per_cent).unwrap_or(100) })
}

/// Free space of a file system for this process, in bytes.
///
/// # Errors
/// The system does not say (statvfs(3)).
pub(crate) fn available(directory: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(directory)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Free space in per cent below which uses go into summaries.
const LOW: u8 = 10;
/// Free space in per cent above which each use has a record again.
const ENOUGH: u8 = 12;
/// Time between two looks at the free space.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_stay_until_there_is_enough_space() {
        let mut space = Space::default();
        let states: Vec<_> = [50, 10, 9, 10, 12, 13, 11, 0]
            .into_iter()
            .map(|free| {
                space.set(free);
                space.is_low
            })
            .collect();
        assert_eq!(states, [false, false, true, true, true, false, false, true]);
        assert!(free(Path::new("/")).unwrap() <= 100);
    }
}
