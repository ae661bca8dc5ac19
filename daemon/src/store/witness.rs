//! A note beside the key store: that a store had keys, and which master key they need.
//!
//! A store that is emptied, removed or hidden cannot say so itself. The note is not authenticated:
//! it makes the daemon speak, and settles nothing else.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// The note.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Witness {
    /// The store that had keys, by its own name.
    pub(crate) store: String,
    /// The master key of the embedded unit, by name.
    pub(crate) master_key: Option<String>,
}

impl Witness {
    const FILE: &str = "keys.known";

    /// Reads the note of a state directory. `None` where there is none that can be read.
    pub(crate) fn read(state_dir: &Path) -> Option<Self> {
        // Root reads this, too, in a directory of another user.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(state_dir.join(Self::FILE)).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes it, all of it or nothing.
    pub(crate) fn write(&self, state_dir: &Path) -> io::Result<()> {
        let part: PathBuf = state_dir.join(format!("{}.part", Self::FILE));
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(&part, state_dir.join(Self::FILE))?;
        fs::File::open(state_dir)?.sync_all()
    }
}

/// Longest file, in bytes: two names take less than 200.
const MAX_FILE: u64 = 4096;
