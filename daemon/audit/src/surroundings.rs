//! The parts of the system that a trail looks at beside its files. Tests have others.

use core::fmt;
use core::time::Duration;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::copy::{JOURNAL, UNCOPIED_EVERY};
use crate::space::{LOOK_EVERY, free};

/// The parts of the system that a trail looks at beside its files.
pub(crate) struct Surroundings {
    /// Free part of the file system of a directory, in per cent.
    pub(crate) free: Free,
    /// Time between two looks at the free space.
    pub(crate) look_every: Duration,
    /// Waits until a file is on the disk.
    pub(crate) sync: Synced,
    /// Socket of the journal.
    pub(crate) journal: PathBuf,
    /// Time between two records about records that the collector did not take.
    pub(crate) uncopied_every: Duration,
}

type Synced = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;
type Free = Box<dyn Fn(&Path) -> io::Result<u8> + Send>;

impl Default for Surroundings {
    fn default() -> Self {
        let (journal, uncopied_every) = (PathBuf::from(JOURNAL), UNCOPIED_EVERY);
        Self {
            free: Box::new(free),
            look_every: LOOK_EVERY,
            sync: Arc::new(File::sync_data),
            journal,
            uncopied_every,
        }
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("look_every", &self.look_every).finish_non_exhaustive()
    }
}
