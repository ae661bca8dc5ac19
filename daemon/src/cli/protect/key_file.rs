//! Files with private keys that a server needs no more, and their removal.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership;

/// A file with a private key, and facts by which it is known again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct KeyFile {
    /// The path in the configuration.
    pub(super) path: PathBuf,
    /// The path to which links lead.
    real: PathBuf,
    /// Label of the key in the daemon.
    pub(super) label: String,
    device: u64,
    inode: u64,
    length: u64,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    modified: u64,
    /// True if the file is removed, or was about to be.
    pub(super) is_removed: bool,
}

impl KeyFile {
    /// The facts about a file as it is now. Others must not be able to exchange the file.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be examined, or if others can change it.
    pub(super) fn of(path: &Path, label: &str) -> Result<Self, Failure> {
        let real = path.canonicalize().map_err(|error| Failure::reading(path, &error))?;
        let file = ownership::open(&real).map_err(|error| {
            Failure::new(exit::NO_PERMISSION, format_args!("cannot use {}: {error}", path.display()))
        })?;
        let found = file.metadata().map_err(|error| Failure::reading(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            real,
            label: label.to_owned(),
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
            modified: modified(&found),
            is_removed: false,
        })
    }

    /// The same file under another name in its directory. If the path leads to it through a link,
    /// the link has the other name.
    pub(super) fn moved_to(mut self, path: &Path) -> Self {
        let is_link = self.path.is_symlink();
        if !is_link {
            let directory = self.real.parent().unwrap_or(Path::new("/"));
            self.real = directory.join(path.file_name().unwrap_or_default());
        }
        self.path = path.to_owned();
        self
    }

    /// True if the file is the one whose key was imported.
    pub(super) fn is_same(&self) -> bool {
        Self::of(&self.path, &self.label).is_ok_and(|now| now == Self { is_removed: false, ..self.clone() })
    }

    /// Overwrites the file and removes it. Copies elsewhere, and old blocks of the disk, stay.
    pub(super) fn wipe(&self) -> io::Result<()> {
        let mut file = ownership::open_to_write(&self.real).map_err(io::Error::other)?;
        let found = file.metadata()?;
        if (found.dev(), found.ino()) != (self.device, self.inode) {
            return Err(io::Error::other("it is another file now"));
        }
        io::copy(&mut io::repeat(0).take(self.length), &mut file)?;
        file.sync_all()?;
        fs::remove_file(&self.real)?;
        if self.path != self.real {
            fs::remove_file(&self.path)?;
        }
        File::open(self.real.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

/// Time of the last change of the contents of a file, in nanoseconds since 1970.
pub(super) fn modified(found: &fs::Metadata) -> u64 {
    let since = found.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
