//! The journal of a change to the files of a server: after a stop at any moment, every file can be
//! put back as it was, with its owner, mode and times.
//!
//! The journal is a directory with a copy of each file that is changed. It is written and synced
//! before the first change. It stays after the change, for `--undo`. It has no secret: files with
//! private keys are never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership::{self, Owners};

/// A journal, held by this process alone.
pub(super) struct Journal {
    directory: PathBuf,
    _lock: File,
    pub(super) entries: Option<Entries>,
}

/// The contents of a journal.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Entries {
    pub(super) phase: Phase,
    files: Vec<Entry>,
    /// Labels of the keys that the change has imported.
    pub(super) imported: Vec<String>,
    /// Files with the private keys, which the server needs no more.
    pub(super) key_files: Vec<KeyFile>,
    /// True if the key files are removed, so that there is no way back.
    pub(super) is_final: bool,
    /// Directories that the change has made, the outermost first.
    made: Vec<PathBuf>,
}

/// A file with a private key, and facts by which it is known again.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    /// Label of the key in the daemon.
    pub(super) label: String,
    length: u64,
    inode: u64,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    modified: u64,
}

impl KeyFile {
    /// The facts about a file as it is now.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be examined.
    pub(super) fn of(path: &Path, label: &str) -> Result<Self, Failure> {
        let found = path.metadata().map_err(|error| Failure::reading(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            label: label.to_owned(),
            length: found.len(),
            inode: found.ino(),
            modified: modified(&found),
        })
    }
}

/// How far a change has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Files are changed, and the server does not use them yet.
    Writing,
    /// The server is taking up the files.
    Switching,
    Done,
    /// Files are put back.
    Undoing,
}

/// A file that is changed.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    path: PathBuf,
    /// `None` for a file that was not there.
    before: Option<Before>,
    /// SHA-256 of the contents that the change writes, one after the other, in hexadecimal digits.
    after: Vec<String>,
}

/// A file as it was.
#[derive(Debug, Deserialize, Serialize)]
struct Before {
    /// Name of the copy in the directory of the journal.
    copy: String,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    modified: u64,
}

impl Journal {
    /// Opens the journal in a directory, and holds it.
    ///
    /// # Errors
    /// [`Failure`] if another process holds the journal, or if the journal is damaged.
    pub(super) fn open(directory: &Path) -> Result<Self, Failure> {
        let failed = |reason: &dyn core::fmt::Display| {
            Failure::new(
                exit::CANNOT_CREATE,
                format_args!("cannot use the journal {}: {reason}", directory.display()),
            )
        };
        ownership::make_private_directory(directory).map_err(|error| failed(&error))?;
        ownership::check_directory(directory, Owners::Own).map_err(|error| failed(&error))?;
        let lock = File::open(directory).map_err(|error| failed(&error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::new(exit::IN_USE, "another keyward protect works on this server; wait for its end")
        })?;
        let entries = match fs::read(directory.join(ENTRIES)) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            read => Some(
                serde_json::from_slice(&read.map_err(|error| failed(&error))?)
                    .map_err(|error| failed(&error))?,
            ),
        };
        Ok(Self { directory: directory.to_owned(), _lock: lock, entries })
    }

    /// Begins a change of these files: keeps a copy of each. Earlier copies stay, so that a later
    /// undo goes back to the first state.
    ///
    /// # Errors
    /// [`Failure`] if a file was changed by somebody else since the last change, or cannot be
    /// copied.
    pub(super) fn begin(&mut self, files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<(), Failure> {
        let mut entries = self.entries.take().unwrap_or(Entries {
            phase: Phase::Writing,
            files: Vec::new(),
            imported: Vec::new(),
            key_files: Vec::new(),
            is_final: false,
            made: Vec::new(),
        });
        entries.phase = Phase::Writing;
        for (path, contents) in files {
            let after = digest(contents);
            match entries.files.iter_mut().find(|entry| entry.path == *path) {
                Some(entry) => entry.after.push(after),
                None => {
                    let before = self.keep(path, entries.files.len())?;
                    entries.files.push(Entry { path: path.clone(), before, after: vec![after] });
                }
            }
            let missing = path.ancestors().skip(1).take_while(|directory| !directory.exists());
            let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
            missing.reverse();
            for directory in missing {
                if !entries.made.contains(&directory) {
                    entries.made.push(directory);
                }
            }
        }
        self.entries = Some(entries);
        self.save()
    }

    /// Copies a file into the journal.
    fn keep(&self, path: &Path, number: usize) -> Result<Option<Before>, Failure> {
        let failed = |error: io::Error| Failure::reading(path, &error);
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let found = file.metadata().map_err(failed)?;
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).map_err(failed)?;
        let copy = number.to_string();
        let to = self.directory.join(&copy);
        written(&to, &contents, 0o600, None).map_err(|error| cannot_write(&to, &error))?;
        let modified = modified(&found);
        Ok(Some(Before { copy, mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid(), modified }))
    }

    /// Writes the new contents of a file. Owner and mode of a file that was there stay.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn write(&self, path: &Path, contents: &[u8]) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            match path.metadata() {
                Ok(found) => written(path, contents, found.mode() & 0o7777, Some((found.uid(), found.gid()))),
                Err(_) => written(path, contents, 0o644, None),
            }
        };
        write().map_err(|error| cannot_write(path, &error))
    }

    /// Notes a key that was imported.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(super) fn note_key(&mut self, label: &str) -> Result<(), Failure> {
        if let Some(entries) = &mut self.entries
            && !entries.imported.iter().any(|known| known == label)
        {
            entries.imported.push(label.to_owned());
        }
        self.save()
    }

    /// Notes a file with a private key.
    ///
    /// # Errors
    /// [`Failure`] if the file cannot be examined, or the journal cannot be written.
    pub(super) fn note_key_file(&mut self, path: &Path, label: &str) -> Result<(), Failure> {
        let file = KeyFile::of(path, label)?;
        if let Some(entries) = &mut self.entries {
            entries.key_files.retain(|known| known.path != file.path);
            entries.key_files.push(file);
        }
        self.save()
    }

    /// Overwrites and removes the files with private keys, and notes that there is no way back.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be removed. Run again, this goes on.
    pub(super) fn remove_key_files(&mut self) -> Result<Vec<PathBuf>, Failure> {
        let mut removed = Vec::new();
        let Some(entries) = &mut self.entries else { return Ok(removed) };
        entries.is_final = true;
        let files = entries.key_files.clone();
        self.save()?;
        for file in files {
            match wipe(&file.path, file.length) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                wiped => {
                    wiped.map_err(|error| cannot_write(&file.path, &error))?;
                    removed.push(file.path);
                }
            }
        }
        Ok(removed)
    }

    /// Notes how far the change has come.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Failure> {
        if let Some(entries) = &mut self.entries {
            entries.phase = phase;
        }
        self.save()
    }

    /// Files that somebody else has changed since.
    pub(super) fn changed_since(&self) -> Vec<&Path> {
        let entries = self.entries.iter().flat_map(|entries| &entries.files);
        let is_other = |entry: &&Entry| match fs::read(&entry.path) {
            Ok(contents) => {
                let now = digest(&contents);
                let before =
                    entry.before.as_ref().and_then(|before| fs::read(self.directory.join(&before.copy)).ok());
                !entry.after.contains(&now) && before.is_none_or(|before| before != contents)
            }
            // A file that is gone is put back, or need not be removed.
            Err(_) => false,
        };
        entries.filter(is_other).map(|entry| entry.path.as_path()).collect()
    }

    /// Puts every file back as it was, and removes the files and directories that were made. Goes
    /// on where a stop has interrupted it.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be put back.
    pub(super) fn put_back(&self) -> Result<(), Failure> {
        let Some(entries) = &self.entries else { return Ok(()) };
        for entry in &entries.files {
            match &entry.before {
                Some(before) => {
                    let copy = self.directory.join(&before.copy);
                    let contents = fs::read(&copy).map_err(|error| Failure::reading(&copy, &error))?;
                    if fs::read(&entry.path).is_ok_and(|now| now == contents) && is_same(&entry.path, before)
                    {
                        continue;
                    }
                    written_at(&entry.path, &contents, before)
                        .map_err(|error| cannot_write(&entry.path, &error))?;
                }
                None => match fs::remove_file(&entry.path) {
                    Err(error)
                        if ![ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
                    {
                        return Err(cannot_write(&entry.path, &error));
                    }
                    _ => {}
                },
            }
        }
        // Parts of files that a stop has left.
        let directories: BTreeSet<_> = entries.files.iter().filter_map(|entry| entry.path.parent()).collect();
        for directory in directories {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_name().as_encoded_bytes().starts_with(PART.as_bytes()) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        for directory in entries.made.iter().rev() {
            // A directory in which somebody else has put files stays.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Forgets the change, and keeps the journal for another one.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn clear(&mut self) -> Result<(), Failure> {
        self.entries = None;
        let entries = self.directory.join(ENTRIES);
        fs::remove_file(&entries).map_err(|error| cannot_write(&entries, &error))
    }

    /// Removes the journal.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn remove(self) -> Result<(), Failure> {
        let entries = self.directory.join(ENTRIES);
        // Without its entries first: a stop leaves a journal without a change.
        let _ = fs::remove_file(&entries);
        fs::remove_dir_all(&self.directory).map_err(|error| cannot_write(&self.directory, &error))
    }

    fn save(&self) -> Result<(), Failure> {
        let Some(entries) = &self.entries else { return Ok(()) };
        let path = self.directory.join(ENTRIES);
        let text = serde_json::to_vec_pretty(entries).map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        written(&path, &text, 0o600, None).map_err(|error| cannot_write(&path, &error))
    }
}

fn modified(found: &fs::Metadata) -> u64 {
    let since = found.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

fn is_same(path: &Path, before: &Before) -> bool {
    path.metadata().is_ok_and(|found| {
        (found.mode() & 0o7777, found.uid(), found.gid()) == (before.mode, before.uid, before.gid)
    })
}

/// Overwrites a file and removes it. Copies elsewhere, and old blocks of the disk, stay.
fn wipe(path: &Path, length: u64) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    io::copy(&mut io::repeat(0).take(length), &mut file)?;
    file.sync_all()?;
    fs::remove_file(path)?;
    File::open(directory_of(path))?.sync_all()
}

/// Replaces a file as a whole.
fn written(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let file = beside(path, contents, mode, owner)?;
    persist(file, path)
}

/// Replaces a file by its former contents, with its former owner, mode and time.
fn written_at(path: &Path, contents: &[u8], before: &Before) -> io::Result<()> {
    let file = beside(path, contents, before.mode, Some((before.uid, before.gid)))?;
    let modified = SystemTime::UNIX_EPOCH + core::time::Duration::from_nanos(before.modified);
    file.as_file().set_times(FileTimes::new().set_modified(modified))?;
    persist(file, path)
}

fn beside(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(PART).tempfile_in(directory_of(path))?;
    file.write_all(contents)?;
    if let Some((uid, gid)) = owner {
        fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map_err(|error| error.error)?;
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

fn digest(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cannot_write(path: &Path, reason: &io::Error) -> Failure {
    Failure::new(exit::CANNOT_CREATE, format_args!("cannot write {}: {reason}", path.display()))
}

/// Beginning of the name of a file that is not whole yet.
const PART: &str = ".keyward-part-";
const ENTRIES: &str = "journal.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_back_after_a_stop_at_any_moment() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a.conf"), "first").unwrap();
        fs::set_permissions(path("a.conf"), Permissions::from_mode(0o640)).unwrap();
        let at = path("a.conf").metadata().unwrap().modified().unwrap();
        let files: BTreeMap<_, _> =
            [(path("a.conf"), b"second".to_vec()), (path("new.d/b.conf"), b"new".to_vec())]
                .into_iter()
                .collect();
        for written in 0..=files.len() {
            let mut journal = Journal::open(&path("journal")).unwrap();
            journal.begin(&files).unwrap();
            for (path, contents) in files.iter().take(written) {
                journal.write(path, contents).unwrap();
            }
            drop(journal);
            let journal = Journal::open(&path("journal")).unwrap();
            assert_eq!(journal.entries.as_ref().unwrap().phase, Phase::Writing);
            assert!(journal.changed_since().is_empty());
            journal.put_back().unwrap();
            // Twice, as after a stop.
            journal.put_back().unwrap();
            journal.remove().unwrap();
            assert_eq!(fs::read(path("a.conf")).unwrap(), b"first");
            let found = path("a.conf").metadata().unwrap();
            assert_eq!((found.mode() & 0o7777, found.modified().unwrap()), (0o640, at));
            assert!(!path("new.d").exists() && !path("journal").exists());
        }
    }

    #[test]
    fn a_second_change_goes_back_to_the_first_state_and_foreign_changes_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a"), "first").unwrap();
        let mut journal = Journal::open(&path("journal")).unwrap();
        assert!(Journal::open(&path("journal")).is_err(), "held twice");
        for contents in ["second", "third"] {
            journal.begin(&[(path("a"), contents.as_bytes().to_vec())].into_iter().collect()).unwrap();
            journal.write(&path("a"), contents.as_bytes()).unwrap();
        }
        journal.note_key("shop").unwrap();
        journal.enter(Phase::Done).unwrap();
        fs::write(path("a"), "other").unwrap();
        assert_eq!(journal.changed_since(), [path("a")]);
        journal.put_back().unwrap();
        assert_eq!(fs::read(path("a")).unwrap(), b"first");
        assert_eq!(journal.entries.as_ref().unwrap().imported, ["shop"]);
    }
}
