//! The journal of the changes to the files of a server: after a stop at any moment, every file can
//! be put back as it was, with its owner, mode and times.
//!
//! Each run of the command that changes something has a directory with a copy of each file before
//! and after it. The directory is written and synced before the first change. It stays after the
//! change, for `--undo`, which goes back run by run. It has no secret: files with private keys are
//! never changed.

use core::time::Duration;
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

use super::key_file::{KeyFile, Removal, modified};
use super::keys::holds_private_key;
use super::running;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::ground::exit;
use crate::ground::ownership::{self, Owners};

/// A journal, held by this process alone.
pub(super) struct Journal {
    directory: PathBuf,
    _lock: File,
    /// The runs that are not undone, the last one last.
    runs: Vec<Run>,
}

/// A run of the command.
struct Run {
    directory: PathBuf,
    entries: Entries,
}

/// The changes of a run.
#[derive(Debug, Deserialize, Serialize)]
struct Entries {
    phase: Phase,
    files: Vec<Entry>,
    imported: Vec<Imported>,
    key_files: Vec<KeyFile>,
    /// Directories that the run has made, the outermost first.
    made: Vec<PathBuf>,
}

/// A key that a run has imported.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Imported {
    pub(super) label: String,
    /// SHA-256 of the public key, in hexadecimal digits.
    pub(super) public_key: String,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Files are changed, and the server does not use them yet.
    Writing,
    /// The server is taking up the files.
    Switching,
    /// The server uses the files, and its processes of before are about to end.
    Ending,
    Done,
    /// Files are put back.
    Undoing,
}

/// A file that is changed.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    path: PathBuf,
    /// `None` for a file that was not there, or was moved.
    before: Option<Before>,
    /// The other name of the file that was there, for a file with a private key.
    #[serde(default)]
    moved: Option<PathBuf>,
    /// SHA-256 of the contents that the run writes, one after the other, in hexadecimal digits.
    after: Vec<String>,
    /// Name of the copy of the last of these contents in the directory of the run.
    copy_of_after: String,
}

/// A file as it was.
#[derive(Debug, Deserialize, Serialize)]
struct Before {
    /// Name of the copy in the directory of the run.
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
        // A program that this process has just started may still have the lock of before.
        if !running::wait_for(TURN, || flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()) {
            let reason = "another keyward protect works on this server; wait for its end";
            return Err(Failure::new(exit::IN_USE, reason));
        }
        let mut numbers = Vec::new();
        for entry in fs::read_dir(directory).map_err(|error| failed(&error))? {
            let name = entry.map_err(|error| failed(&error))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        let mut runs = Vec::new();
        for number in numbers {
            let directory = directory.join(number.to_string());
            match fs::read(directory.join(ENTRIES)) {
                // A stop has left a run that has not begun, or is undone.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fs::remove_dir_all(&directory).map_err(|error| failed(&error))?;
                }
                read => {
                    let bytes = read.map_err(|error| failed(&error))?;
                    let entries = serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
                    runs.push(Run { directory, entries });
                }
            }
        }
        Ok(Self { directory: directory.to_owned(), _lock: lock, runs })
    }

    /// How far the last run has come; `None` without a run.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.runs.last().map(|run| run.entries.phase)
    }

    /// Begins a run.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn begin_run(&mut self) -> Result<(), Failure> {
        let last = self.runs.last().and_then(|run| run.directory.file_name()?.to_str()?.parse::<u32>().ok());
        let directory = self.directory.join((last.unwrap_or(0) + 1).to_string());
        let made = ownership::make_private_directory(&directory);
        made.map_err(|error| Failure::new(exit::CANNOT_CREATE, error))?;
        let entries = Entries {
            phase: Phase::Writing,
            files: Vec::new(),
            imported: Vec::new(),
            key_files: Vec::new(),
            made: Vec::new(),
        };
        self.runs.push(Run { directory, entries });
        self.last()?.save()
    }

    fn last(&mut self) -> Result<&mut Run, Failure> {
        self.runs.last_mut().ok_or_else(|| Failure::new(exit::SOFTWARE, "the journal has no run"))
    }

    /// Keeps a copy of each of these files before the run changes it to these contents. `texts` are
    /// the contents from which the contents were made. A file of `replaced` is not copied: it will
    /// have that other name.
    ///
    /// # Errors
    /// [`Failure`] if somebody else has changed a file since, or a file cannot be copied.
    pub(super) fn keep(
        &mut self,
        files: &BTreeMap<PathBuf, Vec<u8>>,
        texts: &BTreeMap<PathBuf, String>,
        replaced: &BTreeMap<PathBuf, PathBuf>,
    ) -> Result<(), Failure> {
        let run = self.last()?;
        for (path, contents) in files {
            let after = digest(contents);
            let at = match run.entries.files.iter().position(|entry| entry.path == *path) {
                Some(at) => at,
                None => {
                    let moved = replaced.get(path).cloned();
                    let before = match moved {
                        Some(_) => None,
                        None => run.keep(path, texts.get(path))?,
                    };
                    let copy_of_after = format!("{}.after", run.entries.files.len());
                    run.entries.files.push(Entry {
                        path: path.clone(),
                        before,
                        moved,
                        after: Vec::new(),
                        copy_of_after,
                    });
                    run.entries.files.len() - 1
                }
            };
            let Some(entry) = run.entries.files.get_mut(at) else { continue };
            entry.after.push(after);
            let copy = run.directory.join(&entry.copy_of_after);
            written(&copy, contents, 0o600, None).map_err(|error| cannot_write(&copy, &error))?;
            let missing = path.ancestors().skip(1).take_while(|directory| !directory.exists());
            let mut missing: Vec<_> = missing.map(Path::to_owned).collect();
            missing.reverse();
            for directory in missing {
                if !run.entries.made.contains(&directory) {
                    run.entries.made.push(directory);
                }
            }
        }
        run.save()
    }

    /// Writes the new contents of a file. Owner and mode of a file that was there stay.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn write(&self, path: &Path, contents: &[u8]) -> Result<(), Failure> {
        if let Some(directory) = path.parent() {
            // The daemon, another user, reads drop-ins.
            let made = ownership::make_directories(directory);
            made.map_err(|error| Failure::new(exit::CANNOT_CREATE, error))?;
        }
        let written = match path.metadata() {
            Ok(found) => written(path, contents, found.mode() & 0o7777, Some((found.uid(), found.gid()))),
            Err(_) => written(path, contents, 0o644, None),
        };
        written.map_err(|error| cannot_write(path, &error))
    }

    /// Puts new contents at the path of a file with a private key, which stays beside it under the
    /// other name that [`Self::keep`] has noted.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses, such as a file system without hard links.
    pub(super) fn replace(&self, path: &Path, contents: &[u8]) -> Result<(), Failure> {
        let moved = self.entry(path).and_then(|entry| entry.moved.as_deref());
        let moved =
            moved.ok_or_else(|| Failure::new(exit::SOFTWARE, "the journal has no name for a key file"))?;
        if !is_there(moved) {
            // The file keeps its owner, mode and times. A link stays a link.
            fs::hard_link(path, moved).map_err(|error| cannot_write(moved, &error))?;
            synced(moved).map_err(|error| cannot_write(moved, &error))?;
        }
        self.write(path, contents)
    }

    fn entry(&self, path: &Path) -> Option<&Entry> {
        self.runs.last()?.entries.files.iter().find(|entry| entry.path == path)
    }

    /// Notes a key that the run imports.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(super) fn note_key(&mut self, label: &str, spki: &[u8]) -> Result<(), Failure> {
        let run = self.last()?;
        run.entries.imported.push(Imported { label: label.to_owned(), public_key: digest(spki) });
        run.save()
    }

    /// The keys that the last run has imported.
    pub(super) fn imported(&self) -> &[Imported] {
        self.runs.last().map(|run| run.entries.imported.as_slice()).unwrap_or_default()
    }

    /// Notes a file with a private key.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(super) fn note_key_file(&mut self, file: KeyFile) -> Result<(), Failure> {
        let run = self.last()?;
        run.entries.key_files.retain(|known| known.path != file.path);
        run.entries.key_files.push(file);
        run.save()
    }

    /// Files with private keys that the server needs no more, of all runs.
    pub(super) fn key_files(&self) -> Vec<&KeyFile> {
        let all = self.runs.iter().flat_map(|run| &run.entries.key_files);
        all.filter(|file| file.removal != Removal::Done && file.exists()).collect()
    }

    /// True if a key file of the last run was removed or overwritten, so that there is no way back.
    pub(super) fn is_final(&self) -> bool {
        let is_gone = |file: &KeyFile| match file.removal {
            Removal::None => false,
            Removal::Begun => !file.is_same(),
            Removal::Done => true,
        };
        self.runs.last().is_some_and(|run| run.entries.key_files.iter().any(is_gone))
    }

    /// Labels of the keys that other journals in the directory of this one name: other servers use
    /// these keys.
    pub(super) fn labels_of_others(&self) -> BTreeSet<String> {
        let mut labels = BTreeSet::new();
        let children =
            |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let all = self.directory.parent().map(children).into_iter().flatten();
        for run in all.filter(|path| *path != self.directory).flat_map(|path| children(&path)) {
            let Ok(bytes) = fs::read(run.join(ENTRIES)) else { continue };
            let Ok(entries) = serde_json::from_slice::<Entries>(&bytes) else { continue };
            labels.extend(entries.key_files.into_iter().map(|file| file.label));
        }
        labels
    }

    /// Overwrites and removes the files with private keys. Returns their paths.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be removed. Run again, this goes on.
    pub(super) fn remove_key_files(&mut self) -> Result<Vec<PathBuf>, Failure> {
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

    /// Notes how far the last run has come.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(super) fn enter(&mut self, phase: Phase) -> Result<(), Failure> {
        let run = self.last()?;
        run.entries.phase = phase;
        run.save()
    }

    /// Files that somebody else has changed since the last run, each with the copy as it was before
    /// the run.
    pub(super) fn changed_since(&self) -> Vec<(&Path, Option<PathBuf>)> {
        let Some(run) = self.runs.last() else { return Vec::new() };
        let copy = |entry: &Entry| {
            let copy = entry.before.as_ref().map(|before| run.directory.join(&before.copy));
            entry.moved.clone().or(copy)
        };
        let is_other = |entry: &&Entry| match fs::read(&entry.path) {
            // The key file itself, or one that a renewal has put there.
            Ok(contents) if entry.moved.is_some() && holds_private_key(&contents) => false,
            Ok(_)
                if entry
                    .moved
                    .as_deref()
                    .is_some_and(|moved| !is_there(moved) || is_one(&entry.path, moved)) =>
            {
                false
            }
            Ok(contents) => {
                let before = entry.before.as_ref().and(copy(entry)).and_then(|copy| fs::read(copy).ok());
                !entry.after.contains(&digest(&contents)) && before.is_none_or(|before| before != contents)
            }
            // A file that is gone is put back, or need not be removed.
            Err(_) => false,
        };
        let changed = run.entries.files.iter().filter(is_other);
        changed.map(|entry| (entry.path.as_path(), copy(entry))).collect()
    }

    /// Puts every file back as it was before the last run, and removes the files and directories
    /// that the run has made. Goes on where a stop has interrupted it. Returns false if a file
    /// stays because a renewal has put a new key there.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be put back.
    pub(super) fn put_back(&self) -> Result<bool, Failure> {
        let Some(run) = self.runs.last() else { return Ok(true) };
        let mut is_whole = true;
        for entry in &run.entries.files {
            if let Some(moved) = &entry.moved {
                let is_renewed = fs::read(&entry.path).is_ok_and(|contents| holds_private_key(&contents));
                if is_renewed && is_there(moved) && !is_one(&entry.path, moved) {
                    output::note(format_args!(
                        "{} has a key of its own again, and stays; the key file of before is {}",
                        entry.path.display(),
                        moved.display()
                    ));
                    is_whole = false;
                    continue;
                }
                move_back(moved, &entry.path).map_err(|error| cannot_write(&entry.path, &error))?;
                continue;
            }
            match &entry.before {
                Some(before) => {
                    let contents = run.copy(&before.copy)?;
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
        let directories: BTreeSet<_> =
            run.entries.files.iter().filter_map(|entry| entry.path.parent()).collect();
        for directory in directories {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_name().as_encoded_bytes().starts_with(PART.as_bytes()) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        for directory in run.entries.made.iter().rev() {
            // A directory in which somebody else has put files stays.
            let _ = fs::remove_dir(directory);
        }
        Ok(is_whole)
    }

    /// Writes the files as the last run has left them: the way back was refused.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be written.
    pub(super) fn write_again(&self) -> Result<(), Failure> {
        let Some(run) = self.runs.last() else { return Ok(()) };
        for entry in &run.entries.files {
            let contents = run.copy(&entry.copy_of_after)?;
            match entry.moved {
                Some(_) => self.replace(&entry.path, &contents)?,
                None => self.write(&entry.path, &contents)?,
            }
        }
        Ok(())
    }

    /// Forgets the last run, which is undone.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn forget_run(&mut self) -> Result<(), Failure> {
        let Some(run) = self.runs.pop() else { return Ok(()) };
        // Without its entries first: a stop leaves a directory that is no run.
        let entries = run.directory.join(ENTRIES);
        let removed = fs::remove_file(&entries).and_then(|()| fs::remove_dir_all(&run.directory));
        removed.map_err(|error| cannot_write(&run.directory, &error))
    }

    /// Removes a journal without runs.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.directory).map_err(|error| cannot_write(&self.directory, &error))
    }
}

impl Drop for Journal {
    /// Removes the directory of a journal in which there is nothing, as after a refusal.
    fn drop(&mut self) {
        if self.runs.is_empty() && fs::remove_dir(&self.directory).is_ok() {
            let _ = self.directory.parent().map(fs::remove_dir);
        }
    }
}

impl Run {
    /// Copies a file into the directory of the run. `expected` is its text at the time of the plan.
    fn keep(&self, path: &Path, expected: Option<&String>) -> Result<Option<Before>, Failure> {
        let failed = |error: io::Error| Failure::reading(path, &error);
        let mut file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let found = file.metadata().map_err(failed)?;
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).map_err(failed)?;
        if expected.is_some_and(|expected| expected.as_bytes() != contents) {
            let why = format_args!("{} was changed just now; run the command again", path.display());
            return Err(Failure::new(exit::CONFIG, why));
        }
        let copy = self.entries.files.len().to_string();
        let to = self.directory.join(&copy);
        written(&to, &contents, 0o600, None).map_err(|error| cannot_write(&to, &error))?;
        let modified = modified(&found);
        Ok(Some(Before { copy, mode: found.mode() & 0o7777, uid: found.uid(), gid: found.gid(), modified }))
    }

    fn copy(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let copy = self.directory.join(name);
        fs::read(&copy).map_err(|error| Failure::reading(&copy, &error))
    }

    fn save(&self) -> Result<(), Failure> {
        let path = self.directory.join(ENTRIES);
        let text = serde_json::to_vec_pretty(&self.entries);
        let text = text.map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        written(&path, &text, 0o600, None).map_err(|error| cannot_write(&path, &error))
    }
}

/// Gives a file that was moved its path again. A file that was not moved yet stays.
fn move_back(moved: &Path, path: &Path) -> io::Result<()> {
    if !is_there(moved) {
        return Ok(());
    }
    fs::rename(moved, path)?;
    // Two names of one file both stay after a rename (rename(2)).
    match fs::remove_file(moved) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => synced(path),
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// True if two paths are names of one file, or of one link.
fn is_one(path: &Path, other: &Path) -> bool {
    let place = |path: &Path| path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()));
    place(path).is_some() && place(path) == place(other)
}

fn is_same(path: &Path, before: &Before) -> bool {
    path.metadata().is_ok_and(|found| {
        (found.mode() & 0o7777, found.uid(), found.gid()) == (before.mode, before.uid, before.gid)
    })
}

/// Replaces a file as a whole.
fn written(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let file = beside(path, contents, mode, owner)?;
    persist(file, path)
}

/// Replaces a file by its former contents, with its former owner, mode and time.
fn written_at(path: &Path, contents: &[u8], before: &Before) -> io::Result<()> {
    let file = beside(path, contents, before.mode, Some((before.uid, before.gid)))?;
    let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(before.modified);
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
    synced(path)
}

/// Brings the name of a file to the disk.
fn synced(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cannot_write(path: &Path, reason: &io::Error) -> Failure {
    Failure::new(exit::CANNOT_CREATE, format_args!("cannot write {}: {reason}", path.display()))
}

/// Beginning of the name of a file that is not whole yet.
const PART: &str = ".keyward-part-";
const ENTRIES: &str = "journal.json";
/// Longest time until a journal is free.
const TURN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::key_file::Facts;
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
        let texts: BTreeMap<_, _> = [(path("a.conf"), "first".to_owned())].into_iter().collect();
        for written in 0..=files.len() {
            let mut journal = Journal::open(&path("journal")).unwrap();
            journal.begin_run().unwrap();
            journal.keep(&files, &texts, &BTreeMap::new()).unwrap();
            for (path, contents) in files.iter().take(written) {
                journal.write(path, contents).unwrap();
            }
            drop(journal);
            let mut journal = Journal::open(&path("journal")).unwrap();
            assert_eq!(journal.phase(), Some(Phase::Writing));
            assert!(journal.changed_since().is_empty());
            journal.put_back().unwrap();
            // Twice, as after a stop.
            journal.put_back().unwrap();
            journal.forget_run().unwrap();
            journal.remove().unwrap();
            assert_eq!(fs::read(path("a.conf")).unwrap(), b"first");
            let found = path("a.conf").metadata().unwrap();
            assert_eq!((found.mode() & 0o7777, found.modified().unwrap()), (0o640, at));
            assert!(!path("new.d").exists() && !path("journal").exists());
        }
    }

    #[test]
    fn key_files_take_their_paths_again_after_a_stop_at_any_moment() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("key"), "secret").unwrap();
        std::os::unix::fs::symlink("key", path("link")).unwrap();
        let at = |name: &str| path(name).symlink_metadata().map(|found| (found.ino(), found.mode())).unwrap();
        let before = ["key", "link"].map(at);
        let files: BTreeMap<_, _> =
            ["key", "link"].into_iter().map(|name| (path(name), b"reference".to_vec())).collect();
        let replaced: BTreeMap<_, _> =
            ["key", "link"].into_iter().map(|name| (path(name), path(&format!(".{name}.before")))).collect();
        for step in 0..5 {
            let mut journal = Journal::open(&path("journal")).unwrap();
            journal.begin_run().unwrap();
            journal.keep(&files, &BTreeMap::new(), &replaced).unwrap();
            let linked = |name: &str| fs::hard_link(path(name), path(&format!(".{name}.before"))).unwrap();
            match step {
                1 => linked("key"),
                2 => journal.replace(&path("key"), b"reference").unwrap(),
                3 => {
                    journal.replace(&path("key"), b"reference").unwrap();
                    linked("link");
                }
                4 => files.iter().for_each(|(path, contents)| journal.replace(path, contents).unwrap()),
                _ => {}
            }
            if step == 4 {
                assert_eq!(fs::read(path("link")).unwrap(), b"reference");
                assert_eq!(fs::read(path(".key.before")).unwrap(), b"secret");
                assert!(!path("link").is_symlink() && path(".link.before").is_symlink());
                let other = fs::read(path("link")).unwrap();
                fs::write(path("link"), "renewed").unwrap();
                assert_eq!(journal.changed_since(), [(path("link").as_path(), Some(path(".link.before")))]);
                fs::write(path("link"), other).unwrap();
            }
            assert!(journal.changed_since().is_empty(), "{step}");
            drop(journal);
            let mut journal = Journal::open(&path("journal")).unwrap();
            journal.put_back().unwrap();
            journal.put_back().unwrap();
            assert_eq!(["key", "link"].map(at), before, "{step}");
            assert_eq!(fs::read(path("link")).unwrap(), b"secret");
            assert!(!path(".key.before").exists() && !path(".link.before").is_symlink());
            journal.forget_run().unwrap();
            journal.remove().unwrap();
        }
    }

    #[test]
    fn runs_are_undone_one_by_one_and_foreign_changes_are_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a"), "first").unwrap();
        let mut journal = Journal::open(&path("journal")).unwrap();
        assert!(Journal::open(&path("journal")).is_err(), "held twice");
        let mut before = "first";
        for contents in ["second", "third"] {
            let files = [(path("a"), contents.as_bytes().to_vec())].into_iter().collect();
            journal.begin_run().unwrap();
            let other = [(path("a"), "other".to_owned())].into_iter().collect();
            assert!(journal.keep(&files, &other, &BTreeMap::new()).is_err(), "changed since the plan");
            let texts = [(path("a"), before.to_owned())].into_iter().collect();
            journal.keep(&files, &texts, &BTreeMap::new()).unwrap();
            journal.write(&path("a"), contents.as_bytes()).unwrap();
            journal.enter(Phase::Done).unwrap();
            before = contents;
        }
        drop(journal);
        let mut journal = Journal::open(&path("journal")).unwrap();
        fs::write(path("a"), "other").unwrap();
        let changed = journal.changed_since();
        assert_eq!(changed[0].0, path("a"));
        assert_eq!(fs::read(changed[0].1.as_ref().unwrap()).unwrap(), b"second");
        journal.write_again().unwrap();
        assert_eq!(fs::read(path("a")).unwrap(), b"third");
        for expected in ["second", "first"] {
            assert!(journal.changed_since().is_empty());
            journal.put_back().unwrap();
            journal.forget_run().unwrap();
            assert_eq!(fs::read_to_string(path("a")).unwrap(), expected);
        }
        assert_eq!(journal.phase(), None);
    }

    #[test]
    fn only_the_file_that_was_imported_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("real"), "key").unwrap();
        std::os::unix::fs::symlink("real", path("link")).unwrap();
        let note = |journal: &mut Journal| {
            let facts = Facts::of(&path("link").metadata().unwrap());
            journal.note_key_file(KeyFile::new(&path("link"), "shop", "00".into(), facts, None)).unwrap();
        };
        let mut journal = Journal::open(&path("journal")).unwrap();
        journal.begin_run().unwrap();
        note(&mut journal);
        assert!(journal.key_files()[0].is_same() && !journal.is_final());
        fs::write(path("other"), "new").unwrap();
        fs::rename(path("other"), path("real")).unwrap();
        assert!(!journal.key_files()[0].is_same());
        assert!(journal.remove_key_files().is_err());
        assert_eq!(fs::read(path("real")).unwrap(), b"new");
        note(&mut journal);
        assert_eq!(journal.key_files()[0].names(), 1);
        assert_eq!(journal.remove_key_files().unwrap(), [path("link")]);
        assert!(!path("real").exists() && path("link").symlink_metadata().is_err() && journal.is_final());
        // Another key at the same place is not of this journal.
        fs::write(path("link"), "another").unwrap();
        assert!(journal.remove_key_files().unwrap().is_empty());
        assert_eq!(fs::read(path("link")).unwrap(), b"another");
    }

    /// The file cannot be removed at first, or the command was stopped: the next one goes on.
    #[test]
    fn a_removal_that_has_failed_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("key"), "key").unwrap();
        let mut journal = Journal::open(&path("journal")).unwrap();
        journal.begin_run().unwrap();
        let facts = Facts::of(&path("key").metadata().unwrap());
        journal.note_key_file(KeyFile::new(&path("key"), "shop", "00".into(), facts, None)).unwrap();
        // Others could exchange the file, so it is not touched.
        fs::set_permissions(path("key"), Permissions::from_mode(0o666)).unwrap();
        assert!(journal.remove_key_files().is_err());
        assert!(!journal.is_final(), "the file is whole");
        drop(journal);
        let mut journal = Journal::open(&path("journal")).unwrap();
        assert_eq!(journal.key_files().len(), 1);
        fs::set_permissions(path("key"), Permissions::from_mode(0o600)).unwrap();
        // As after a stop in the middle.
        fs::write(path("key"), [0; 3]).unwrap();
        assert!(journal.is_final());
        assert_eq!(journal.remove_key_files().unwrap(), [path("key")]);
        assert!(!path("key").exists());
    }
}
