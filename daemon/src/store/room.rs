//! Room on the disk that is kept for disabling and deleting keys when the disk is full.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// A file that is given up when its room is needed.
pub(crate) struct Room(PathBuf);

impl Room {
    /// The room in a state directory, which [`Self::keep`] makes.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("keys.room"))
    }

    /// Makes the file, if it is not there and there is room. Its absence is no fault.
    pub(crate) fn keep(&self) {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let made = OpenOptions::new().write(true).create(true).mode(0o600).custom_flags(flags).open(&self.0);
        // One that was begun, or copied as a file with holes, takes no room yet.
        if made.is_ok_and(|file| reserve(&file).is_err()) {
            self.give_up();
        }
    }

    /// Gives the room up, for a write that has failed for lack of it.
    pub(crate) fn give_up(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn reserve(file: &File) -> rustix::io::Result<()> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, SIZE)
}

/// Its size in bytes (512 KiB). A commit writes some ten pages of 4 KiB.
const SIZE: u64 = 512 * 1024;
