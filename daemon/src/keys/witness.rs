//! A note beside the key store: that a store had keys, and which master key they need.
//!
//! A store that is emptied, removed or hidden cannot say so itself. The note is not authenticated:
//! it makes the daemon speak, and settles nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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
        let path = state_dir.join(Self::FILE);
        if fs::symlink_metadata(&path).ok()?.len() > MAX_FILE {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Writes it, all of it or nothing.
    pub(super) fn write(&self, state_dir: &Path) -> io::Result<()> {
        let part: PathBuf = state_dir.join(format!("{}.part", Self::FILE));
        fs::write(&part, serde_json::to_vec(self)?)?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(&part, state_dir.join(Self::FILE))?;
        fs::File::open(state_dir)?.sync_all()
    }
}

/// Longest file, in bytes: two names take less than 200.
const MAX_FILE: u64 = 4096;
