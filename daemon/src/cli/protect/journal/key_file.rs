//! Files with private keys that a server needs no more, and their removal.

use std::collections::BTreeSet;
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

    /// True if the file is as it was when its key was imported, and its path leads to it, if it
    /// leads anywhere.
    pub(in crate::cli::protect) fn is_same(&self) -> bool {
        self.facts.hold_for(&self.real) && (!self.path.exists() || self.facts.hold_for(&self.path))
    }

    /// The paths that lead to the file.
    pub(in crate::cli::protect) fn paths(&self) -> [&Path; 2] {
        [&self.path, &self.real]
    }

    /// True if a file has the place of this one on the disk.
    pub(in crate::cli::protect) fn is_at(&self, found: &fs::Metadata) -> bool {
        (found.dev(), found.ino()) == (self.facts.device, self.facts.inode)
    }

    /// True if there is a file where links led, this one or another one.
    pub(in crate::cli::protect) fn exists(&self) -> bool {
        self.real.exists()
    }

    /// True if the file belongs to certbot, which renews nothing without it.
    pub(in crate::cli::protect) fn is_of_certbot(&self) -> bool {
        self.paths().iter().any(|path| path.starts_with(CERTBOT))
    }

    /// Number of names of the file on the disk.
    pub(in crate::cli::protect) fn names(&self) -> u64 {
        self.real.metadata().map_or(1, |found| found.nlink())
    }

    /// Checks that the file can be overwritten.
    ///
    /// # Errors
    /// Others could exchange the file, or the system refuses.
    pub(in crate::cli::protect) fn check_writable(&self) -> io::Result<()> {
        ownership::open_to_write(&self.real).map(drop).map_err(io::Error::other)
    }

    /// Overwrites the file, if there is one, and removes it with the link that led there. Copies
    /// elsewhere, and old blocks of the disk, stay.
    fn wipe(&self) -> io::Result<()> {
        if self.exists() {
            let mut file = ownership::open_to_write(&self.real).map_err(io::Error::other)?;
            if !self.is_at(&file.metadata()?) {
                return Err(io::Error::other("it is another file now"));
            }
            io::copy(&mut io::repeat(0).take(self.facts.length), &mut file)?;
            file.sync_all()?;
            fs::remove_file(&self.real)?;
            File::open(self.real.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        }
        // A link that leads elsewhere now is not of this file.
        match self.path.is_symlink() && !self.path.exists() {
            true => fs::remove_file(&self.path),
            false => Ok(()),
        }
    }
}

impl Journal {
    /// Files with private keys that the server needs no more, of all runs.
    pub(in crate::cli::protect) fn key_files(&self) -> Vec<&KeyFile> {
        let all = self.runs.iter().flat_map(|run| &run.entries.key_files);
        all.filter(|file| file.removal != Removal::Done && file.exists()).collect()
    }

    /// Labels of the keys of the last run that are in a key file, which may have its path again.
    pub(in crate::cli::protect) fn labels_with_file(&self) -> BTreeSet<String> {
        let Some(run) = self.runs.last() else { return BTreeSet::new() };
        let is_back = |file: &KeyFile| {
            let mut moved = run.entries.files.iter();
            moved.any(|entry| entry.moved.as_ref() == Some(&file.path) && file.facts.hold_for(&entry.path))
        };
        let there = run.entries.key_files.iter().filter(|file| file.is_same() || is_back(file));
        there.map(|file| file.label.clone()).collect()
    }

    /// True if a key file of one of the runs was removed or overwritten, so that there is no way
    /// back.
    pub(in crate::cli::protect) fn is_final(&self) -> bool {
        let is_gone = |file: &KeyFile| match file.removal {
            Removal::None => false,
            Removal::Begun => !file.is_same(),
            Removal::Done => true,
        };
        self.runs.iter().flat_map(|run| &run.entries.key_files).any(is_gone)
    }

    /// Overwrites and removes one of the files with private keys. Returns its path, or `None` if no
    /// such file is left.
    ///
    /// # Errors
    /// [`Failure`] names the file that cannot be removed. Run again, this goes on.
    pub(in crate::cli::protect) fn remove_key_file(&mut self) -> Result<Option<PathBuf>, Failure> {
        for run in &mut self.runs {
            for at in 0..run.entries.key_files.len() {
                let Some(file) = run.entries.key_files.get_mut(at) else { continue };
                if file.removal == Removal::Done || file.is_of_certbot() {
                    continue;
                }
                let was_there = file.exists();
                // Noted first: after a stop, the file may be overwritten.
                file.removal = Removal::Begun;
                let file = file.clone();
                run.save()?;
                file.wipe().map_err(|error| cannot_write(&file.path, &error))?;
                if let Some(file) = run.entries.key_files.get_mut(at) {
                    file.removal = Removal::Done;
                }
                run.save()?;
                // A second path to a file that is gone needs no line.
                if was_there {
                    return Ok(Some(file.path));
                }
            }
        }
        Ok(None)
    }

    /// Key files that earlier changes have left under a hidden name, and that no run knows any
    /// more: a renewal had put another file in their place, so the way back could not.
    pub(in crate::cli::protect) fn forgotten_key_files(&self) -> Vec<PathBuf> {
        let known = self.runs.iter().flat_map(|run| &run.entries.key_files);
        let known: BTreeSet<_> = known.map(|file| file.path.as_path()).collect();
        let replaced = self.runs.iter().flat_map(|run| &run.entries.files);
        let replaced: BTreeSet<_> =
            replaced.filter(|entry| entry.moved.is_some()).map(|entry| entry.path.as_path()).collect();
        let beside = replaced.into_iter().flat_map(hidden_beside);
        beside.filter(|path| !known.contains(path.as_path())).collect()
    }
}

/// The hidden name that a key file gets when a reference takes its path. HAProxy loads no file of a
/// directory with such a name. After a renewal by a key file, there are several.
pub(in crate::cli::protect) fn hidden_name(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let numbers = [String::new()].into_iter().chain((2..).map(|number| format!("-{number}")));
    let mut names = numbers.map(|number| path.with_file_name(format!(".{name}{HIDDEN}{number}.key")));
    names.find(|name| name.symlink_metadata().is_err()).unwrap_or_default()
}

/// The files with a [`hidden_name`] of a key file.
fn hidden_beside(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let begin = format!(".{name}{HIDDEN}");
    let entries = fs::read_dir(path.parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_hidden = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&begin) && name.ends_with(".key")
    };
    paths.filter(is_hidden).collect()
}

/// Time of the last change of the contents of a file, in nanoseconds since 1970.
pub(in crate::cli::protect) fn modified(found: &fs::Metadata) -> u64 {
    let since = found.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// Part of the hidden name of a key file, behind the name of before.
const HIDDEN: &str = ".before-keyward";
/// Directory of certbot.
pub(in crate::cli::protect) const CERTBOT: &str = "/etc/letsencrypt";
