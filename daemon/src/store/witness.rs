//! A note beside the key store, which says that a store had keys and which master key they need.
//!
//! A store that is emptied, removed or hidden cannot report that itself. The note is not
//! authenticated: the daemon warns because of the note, and decides nothing else by the note.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::ground::replace::replace;

/// The note.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Witness {
    /// Name of the store that had keys.
    pub(crate) store: String,
    /// Name of the master key of the embedded unit.
    pub(crate) master_key: Option<String>,
}

impl Witness {
    const FILE: &str = "keys.known";

    /// Reads the note of a state directory; `None` if there is no note that can be read.
    pub(crate) fn read(state_dir: &Path) -> Option<Self> {
        // Root reads the note, too, in a directory of another user.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(state_dir.join(Self::FILE)).ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes the note: all of the file or nothing.
    pub(crate) fn write(&self, state_dir: &Path) -> io::Result<()> {
        replace(&state_dir.join(Self::FILE), &serde_json::to_vec(self)?, 0o600)
    }
}

/// Largest file, in bytes. Two names take less than 200.
const MAX_FILE: u64 = 4096;
