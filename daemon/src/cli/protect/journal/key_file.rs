//! Files with private keys that a server needs no more, and their removal.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Journal, cannot_write};
use crate::cli::failure::Failure;
use crate::ground::ownership;

/// A file with a private key that was imported, and facts by which the file is known again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::cli::protect) struct KeyFile {
    /// The path in the configuration, or the other name that the file has got.
    pub(in crate::cli::protect) path: PathBuf,
    /// The path to which links lead.
    real: PathBuf,
    /// Label of the key in the daemon.
    pub(in crate::cli::protect) label: String,
    /// SHA-256 of the public key, in hexadecimal digits; empty in a journal of an earlier version,
    /// which does not know it.
    #[serde(default)]
    pub(in crate::cli::protect) public_key: String,
    #[serde(flatten)]
    facts: Facts,
    /// How far its removal has come.
    #[serde(default)]
    pub(in crate::cli::protect) removal: Removal,
}

/// Facts about a file at the time when its key was read.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::cli::protect) struct Facts {
    device: u64,
    inode: u64,
    length: u64,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    modified: u64,
}

/// How far the removal of a file has come.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli::protect) enum Removal {
    #[default]
    None,
    /// The file may be overwritten in part.
    Begun,
    Done,
}

impl Facts {
    pub(in crate::cli::protect) fn of(found: &fs::Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino(), length: found.len(), modified: modified(found) }
    }

    /// True if a path leads to the file as it was.
    pub(in crate::cli::protect) fn hold_for(self, path: &Path) -> bool {
        path.metadata().is_ok_and(|found| Self::of(&found) == self)
    }
}

impl KeyFile {
    /// A file whose key was read with these facts. `public_key` is the SHA-256 of the public key.
    /// The file will have the name `moved`, if that is given: if the path leads to it through a
    /// link, the link will have the other name.
    pub(in crate::cli::protect) fn new(
        path: &Path,
        label: &str,
        public_key: String,
        facts: Facts,
        moved: Option<&Path>,
    ) -> Self {
        let mut real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if let Some(name) = moved.and_then(Path::file_name).filter(|_| !path.is_symlink()) {
            real.set_file_name(name);
        }
        Self {
            path: moved.unwrap_or(path).to_owned(),
            real,
            label: label.to_owned(),
            public_key,
            facts,
            removal: Removal::None,
        }
    }

    /// True if the file is as it was when its key was imported.
    pub(in crate::cli::protect) fn is_same(&self) -> bool {
        self.facts.hold_for(&self.path)
    }

    /// True if a file has the place of this one on the disk.
    pub(in crate::cli::protect) fn is_at(&self, found: &fs::Metadata) -> bool {
        (found.dev(), found.ino()) == (self.facts.device, self.facts.inode)
    }

    /// True if there is a file at its path, this one or another one.
    pub(in crate::cli::protect) fn exists(&self) -> bool {
        self.real.exists()
    }

    /// True if the file belongs to certbot, which renews nothing without it.
    pub(in crate::cli::protect) fn is_of_certbot(&self) -> bool {
        [&self.path, &self.real].iter().any(|path| path.starts_with(CERTBOT))
    }

    /// Number of names of the file on the disk.
    pub(in crate::cli::protect) fn names(&self) -> u64 {
        self.real.metadata().map_or(1, |found| found.nlink())
    }

    /// Overwrites the file and removes it. Copies elsewhere, and old blocks of the disk, stay.
    pub(in crate::cli::protect) fn wipe(&self) -> io::Result<()> {
        let mut file = ownership::open_to_write(&self.real).map_err(io::Error::other)?;
        if !self.is_at(&file.metadata()?) {
            return Err(io::Error::other("it is another file now"));
        }
        io::copy(&mut io::repeat(0).take(self.facts.length), &mut file)?;
        file.sync_all()?;
        fs::remove_file(&self.real)?;
        if self.path != self.real {
            fs::remove_file(&self.path)?;
        }
        File::open(self.real.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

impl Journal {
    /// Files with private keys that the server needs no more, of all runs.
    pub(in crate::cli::protect) fn key_files(&self) -> Vec<&KeyFile> {
        let all = self.runs.iter().flat_map(|run| &run.entries.key_files);
        all.filter(|file| file.removal != Removal::Done && file.exists()).collect()
    }

    /// True if a key file of the last run was removed or overwritten, so that there is no way back.
    pub(in crate::cli::protect) fn is_final(&self) -> bool {
        let is_gone = |file: &KeyFile| match file.removal {
            Removal::None => false,
            Removal::Begun => !file.is_same(),
            Removal::Done => true,
        };
        self.runs.last().is_some_and(|run| run.entries.key_files.iter().any(is_gone))
    }

    /// Overwrites and removes the files with private keys. Returns their paths.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be removed. Run again, this goes on.
    pub(in crate::cli::protect) fn remove_key_files(&mut self) -> Result<Vec<PathBuf>, Failure> {
        let mut removed = Vec::new();
        for run in &mut self.runs {
            for at in 0..run.entries.key_files.len() {
                let Some(file) = run.entries.key_files.get_mut(at) else { continue };
                if file.removal == Removal::Done || !file.exists() || file.is_of_certbot() {
                    continue;
                }
                // Noted first: after a stop, the file may be overwritten.
                file.removal = Removal::Begun;
                let file = file.clone();
                run.save()?;
                file.wipe().map_err(|error| cannot_write(&file.path, &error))?;
                if let Some(file) = run.entries.key_files.get_mut(at) {
                    file.removal = Removal::Done;
                }
                run.save()?;
                removed.push(file.path);
            }
        }
        Ok(removed)
    }
}

/// Time of the last change of the contents of a file, in nanoseconds since 1970.
pub(in crate::cli::protect) fn modified(found: &fs::Metadata) -> u64 {
    let since = found.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Directory of certbot.
pub(in crate::cli::protect) const CERTBOT: &str = "/etc/letsencrypt";
