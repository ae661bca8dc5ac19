//! Room on the disk for the records of acts that are carried out whatever happens.
//!
//! A file occupies the room. It is removed when such a record does not fit, and made again as soon
//! as there is room. Until then, no other record is written, because it would use up the room.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::fill;

use crate::files::sync_directory;
use crate::space::available;

/// Room for records that must be written.
#[derive(Debug)]
pub(crate) struct Reserve {
    directory: PathBuf,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// There was no room for the file.
    Missing,
    Kept,
    /// The file was removed for a record.
    Spent,
}

/// Room that a record may use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Room {
    /// All but the reserved room.
    Free,
    /// Also the rest of what was reserved, when a record has needed the reserve: a checkpoint
    /// covers this record.
    Left,
    /// Also what is reserved.
    Reserved,
}

impl Reserve {
    /// Makes the reserve, if there is none and there is room.
    pub(crate) fn open(directory: &Path) -> Self {
        let mut reserve = Self { directory: directory.to_owned(), state: State::Missing };
        // A file with holes occupies nothing.
        let is_there = fs::metadata(reserve.path())
            .is_ok_and(|file| file.len() == SIZE as u64 && file.blocks() * 512 >= SIZE as u64);
        if is_there {
            reserve.state = State::Kept;
        } else {
            reserve.keep();
        }
        reserve
    }

    /// Makes the reserve again, if it is gone and there is room.
    pub(crate) fn keep(&mut self) {
        let has_room = || available(&self.directory).is_ok_and(|bytes| bytes >= 4 * SIZE as u64);
        let is_there = self.state == State::Kept && self.path().exists();
        if is_there || !has_room() {
            return;
        }
        if self.make().is_ok() {
            self.state = State::Kept;
        } else {
            let _left_for_the_next_attempt = fs::remove_file(self.path());
        }
    }

    /// Makes the reserved room free. Returns false if there is no reserve.
    pub(crate) fn spend(&mut self) -> bool {
        if self.state != State::Kept {
            return false;
        }
        self.state = State::Spent;
        // Some file systems have the room only when the removal is on the disk.
        fs::remove_file(self.path()).and_then(|()| sync_directory(&self.directory)).is_ok()
    }

    /// True if a record that may use the reserve has used it, and it is not there again.
    pub(crate) fn is_spent(&self) -> bool {
        self.state == State::Spent
    }

    fn make(&self) -> io::Result<()> {
        // A file system may store equal bytes in less room.
        let mut bytes = vec![0; SIZE];
        fill(&mut bytes).map_err(|_| io::Error::other("no random bytes"))?;
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(self.path())?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        sync_directory(&self.directory)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("reserve")
    }
}

/// True if there is no room on the disk, or none for this user.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Length of the file, in bytes: room for some 100 records with their checkpoints.
const SIZE: usize = 64 << 10;
