//! Disk space that is reserved for disabling and deleting keys while the disk is full.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// A file that takes disk space until the space is needed.
pub(crate) struct Reserve(PathBuf);

impl Reserve {
    /// The reserve in a state directory. [`Self::keep`] makes the file.
    pub(crate) fn of(state_dir: &Path) -> Self {
        Self(state_dir.join("keys.room"))
    }

    /// Makes the file, if there is none and the disk has space. The daemon works without the file.
    pub(crate) fn keep(&self) {
        let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let made = OpenOptions::new().write(true).create(true).mode(0o600).custom_flags(flags).open(&self.0);
        // A file that was not finished, or was copied with holes, takes no space yet.
        if made.is_ok_and(|file| reserve(&file).is_err()) {
            self.release();
        }
    }

    /// Removes the file, after a write failed because the disk is full.
    pub(crate) fn release(&self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn reserve(file: &File) -> rustix::io::Result<()> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, SIZE)
}

/// Size of the file in bytes (512 KiB). A commit writes some ten pages of 4 KiB.
const SIZE: u64 = 512 * 1024;
