//! The journal of the changes to the files of a server: after a stop at any moment, every file can
//! be put back as it was, with its owner, mode, attributes and times.
//!
//! Each run of the command that changes something has a directory with a copy of each file before
//! and after it. The directory is written and synced before the first change. It stays after the
//! change, for `--undo`, which goes back run by run. It has no secret: a file with a private key is
//! never changed or copied. At most, another file takes its path, and the file itself stays beside
//! that under another name.

mod attributes;
mod edits;
mod files;
mod key_file;
mod undo;
mod uses;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::running;
use crate::cli::failure::Failure;
use crate::ground::exit;
use crate::ground::ownership::{self, Owners};
use attributes::Attributes;
pub(super) use edits::Replaced;
use files::{is_there, synced, written, written_like};
use key_file::modified;
pub(super) use key_file::{CERTBOT, Facts, KeyFile, Removal, hidden_name};
use uses::KeyUses;

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
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Entries {
    phase: Phase,
    files: Vec<Entry>,
    imported: Vec<Imported>,
    key_files: Vec<KeyFile>,
    /// Uses of each key of the run; empty in a journal of an earlier version.
    #[serde(default)]
    uses: Vec<KeyUses>,
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
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Entry {
    path: PathBuf,
    /// `None` for a file that was not there, or was moved, or that another journal has made.
    before: Option<Before>,
    /// The other name of the file that was there, for a file with a private key.
    #[serde(default)]
    moved: Option<PathBuf>,
    /// SHA-256 of the contents that the run writes, one after the other, in hexadecimal digits.
    after: Vec<String>,
    /// Name of the copy of the last of these contents in the directory of the run.
    copy_of_after: String,
    /// True if the run, or another journal, has made the file.
    #[serde(default)]
    is_made: bool,
    /// Texts that the run puts into the file; empty in a journal of an earlier version.
    #[serde(default)]
    edits: Vec<Replaced>,
}

/// A file as it was.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Before {
    /// Name of the copy in the directory of the run.
    copy: String,
    mode: u32,
    uid: u32,
    gid: u32,
    /// Time of the last change of the contents, in nanoseconds since 1970.
    modified: u64,
    /// Extended attributes; `None` in a journal of an earlier version.
    #[serde(default)]
    attributes: Option<Attributes>,
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
        make_directory(directory)?;
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
    /// [`Failure`] if the system refuses. There is no run then.
    pub(super) fn begin_run(&mut self) -> Result<(), Failure> {
        let last = self.runs.last().and_then(|run| run.directory.file_name()?.to_str()?.parse::<u32>().ok());
        let directory = self.directory.join((last.unwrap_or(0) + 1).to_string());
        make_directory(&directory)?;
        let entries = Entries {
            phase: Phase::Writing,
            files: Vec::new(),
            imported: Vec::new(),
            key_files: Vec::new(),
            uses: Vec::new(),
            made: Vec::new(),
        };
        let run = Run { directory, entries };
        if let Err(failure) = run.save() {
            let _ = fs::remove_dir_all(&run.directory);
            return Err(failure);
        }
        self.runs.push(run);
        Ok(())
    }

    fn last(&mut self) -> Result<&mut Run, Failure> {
        self.runs.last_mut().ok_or_else(|| Failure::new(exit::SOFTWARE, "the journal has no run"))
    }

    /// Keeps a copy of each of these files before the run changes it to these contents. `texts` are
    /// the contents from which the contents were made, and `edits` the texts that differ. A file of
    /// `replaced` is not copied: it will have that other name.
    ///
    /// # Errors
    /// [`Failure`] if somebody else has changed a file since, or a file cannot be copied.
    pub(super) fn keep(
        &mut self,
        files: &BTreeMap<PathBuf, Vec<u8>>,
        texts: &BTreeMap<PathBuf, String>,
        edits: &BTreeMap<PathBuf, Vec<Replaced>>,
        replaced: &BTreeMap<PathBuf, PathBuf>,
    ) -> Result<(), Failure> {
        let made_by_others = self.made_by_others();
        let run = self.last()?;
        for (path, contents) in files {
            let after = digest(contents);
            let at = match run.entries.files.iter().position(|entry| entry.path == *path) {
                Some(at) => {
                    run.add_edits(at, edits.get(path).map(Vec::as_slice).unwrap_or_default());
                    at
                }
                None => {
                    let moved = replaced.get(path).cloned();
                    // A file that another server has got in the same words: the last one of both
                    // that goes back removes it.
                    let is_shared =
                        made_by_others.contains(path) && fs::read(path).is_ok_and(|now| now == *contents);
                    let before = match moved.is_some() || is_shared {
                        true => None,
                        false => run.keep(path, texts.get(path))?,
                    };
                    let copy_of_after = format!("{}.after", run.entries.files.len());
                    run.entries.files.push(Entry {
                        is_made: before.is_none() && moved.is_none(),
                        path: path.clone(),
                        before,
                        moved,
                        after: Vec::new(),
                        copy_of_after,
                        edits: edits.get(path).cloned().unwrap_or_default(),
                    });
                    run.entries.files.len() - 1
                }
            };
            // Of a file that somebody has changed, only the texts of the run go back.
            let is_changed = run
                .entries
                .files
                .get(at)
                .is_some_and(|entry| !entry.after.is_empty() && run.is_changed(entry));
            let Some(entry) = run.entries.files.get_mut(at) else { continue };
            if !is_changed {
                entry.after.push(after);
            }
            let copy = run.directory.join(&entry.copy_of_after);
            written(&copy, contents, 0o600).map_err(|error| cannot_write(&copy, &error))?;
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

    /// Writes the new contents of a file. Owner, mode and attributes of a file that was there stay.
    ///
    /// # Errors
    /// [`Failure`] if the system refuses.
    pub(super) fn write(&self, path: &Path, contents: &[u8]) -> Result<(), Failure> {
        if let Some(directory) = path.parent() {
            // The daemon, another user, reads drop-ins.
            let made = ownership::make_directories(directory);
            made.map_err(|error| Failure::new(exit::CANNOT_CREATE, error))?;
        }
        written_like(path, contents).map_err(|error| cannot_write(path, &error))
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

    /// Labels of the keys that other journals in the directory of this one name: other servers use
    /// these keys.
    pub(super) fn labels_of_others(&self) -> BTreeSet<String> {
        self.runs_of_others().iter().flat_map(Entries::labels).map(str::to_owned).collect()
    }

    /// Labels of the keys that the last run has given to the server, and no run before.
    pub(super) fn labels_of_last(&self) -> BTreeSet<String> {
        let Some((last, earlier)) = self.runs.split_last() else { return BTreeSet::new() };
        let known: BTreeSet<_> = earlier.iter().flat_map(|run| run.entries.labels()).collect();
        last.entries.labels().filter(|label| !known.contains(label)).map(str::to_owned).collect()
    }

    /// Files that runs in the other journals have made: other servers name them.
    fn made_by_others(&self) -> BTreeSet<PathBuf> {
        let files = self.runs_of_others().into_iter().flat_map(|run| run.files);
        files.filter(|entry| entry.is_made).map(|entry| entry.path).collect()
    }

    /// The runs in the other journals in the directory of this one.
    fn runs_of_others(&self) -> Vec<Entries> {
        let all = self.directory.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
        let others = all.map(|entry| entry.path()).filter(|path| *path != self.directory);
        others.flat_map(|path| runs(&path)).collect()
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
}

impl Drop for Journal {
    /// Removes the directory of a journal in which there is nothing, as after a refusal.
    fn drop(&mut self) {
        if self.runs.is_empty() && fs::remove_dir(&self.directory).is_ok() {
            let _ = self.directory.parent().map(fs::remove_dir);
        }
    }
}

impl Entries {
    /// Labels of the keys that the run has given to the server, or granted.
    fn labels(&self) -> impl Iterator<Item = &str> {
        let of_files = self.key_files.iter().map(|file| file.label.as_str());
        of_files.chain(self.uses.iter().map(|own| own.label.as_str()))
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
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).map_err(failed)?;
        if expected.is_some_and(|expected| expected.as_bytes() != contents) {
            let why = format_args!("{} was changed just now; run the command again", path.display());
            return Err(Failure::new(exit::CONFIG, why));
        }
        let copy = self.entries.files.len().to_string();
        self.kept(copy, &contents, &file).map(Some).map_err(|error| cannot_write(&self.directory, &error))
    }

    /// Writes a copy into the directory of the run, for a file with these facts.
    fn kept(&self, copy: String, contents: &[u8], file: &File) -> io::Result<Before> {
        let found = file.metadata()?;
        written(&self.directory.join(&copy), contents, 0o600)?;
        Ok(Before {
            copy,
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            modified: modified(&found),
            attributes: Some(attributes::of(file)?),
        })
    }

    /// Adds texts that a later step puts into the same file.
    fn add_edits(&mut self, at: usize, edits: &[Replaced]) {
        let Some(entry) = self.entries.files.get_mut(at) else { return };
        for edit in edits {
            if !entry.edits.contains(edit) {
                entry.edits.push(edit.clone());
            }
        }
    }

    fn copy(&self, name: &str) -> Result<Vec<u8>, Failure> {
        let copy = self.directory.join(name);
        fs::read(&copy).map_err(|error| Failure::reading(&copy, &error))
    }

    fn save(&self) -> Result<(), Failure> {
        let path = self.directory.join(ENTRIES);
        let text = serde_json::to_vec_pretty(&self.entries);
        let text = text.map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        written(&path, &text, 0o600).map_err(|error| cannot_write(&path, &error))
    }
}

/// Names of the journals of a kind of server that have a run, each with a file that is changed, if
/// the run can be read.
pub(super) fn all(directory: &Path, kind: &str) -> impl Iterator<Item = (String, Option<PathBuf>)> {
    let children = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = children.filter_map(|entry| entry.file_name().into_string().ok());
    let is_of_kind = move |name: &str| {
        name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    names.filter(move |name| is_of_kind(name)).filter_map(move |name| {
        let journal = directory.join(&name);
        let mut entries = fs::read_dir(&journal).into_iter().flatten().flatten();
        entries.any(|run| run.path().join(ENTRIES).exists()).then(|| {
            let mut files = runs(&journal).into_iter().flat_map(|run| run.files);
            let changed = files.find(|entry| entry.before.is_some() || entry.moved.is_some());
            (name, changed.map(|entry| entry.path))
        })
    })
}

/// Files that the runs of a journal have given a reference, or have taken a key from, and the
/// labels of these keys.
pub(super) fn changed(journal: &Path) -> (BTreeSet<PathBuf>, BTreeSet<String>) {
    let (mut files, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for run in runs(journal) {
        files.extend(run.files.into_iter().map(|entry| entry.path));
        for file in run.key_files {
            files.insert(file.path);
            labels.insert(file.label);
        }
    }
    (files, labels)
}

/// The runs in the directory of a journal.
fn runs(journal: &Path) -> Vec<Entries> {
    let runs = fs::read_dir(journal).into_iter().flatten().flatten();
    let read = |run: fs::DirEntry| serde_json::from_slice(&fs::read(run.path().join(ENTRIES)).ok()?).ok();
    runs.filter_map(read).collect()
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    ownership::make_private_directory(path).map_err(|error| match error.into_io() {
        Ok(reason) => cannot_write(path, &reason),
        Err(error) => {
            let reason = format_args!("cannot use the journal {}: {error}", path.display());
            Failure::new(exit::CANNOT_CREATE, reason)
        }
    })
}

fn cannot_write(path: &Path, reason: &io::Error) -> Failure {
    let advice = match reason.kind() {
        ErrorKind::StorageFull => "; free some space on its file system, and run the command again",
        ErrorKind::QuotaExceeded => "; raise the quota of its file system, and run the command again",
        _ => "",
    };
    Failure::new(exit::CANNOT_CREATE, format_args!("cannot write {}: {reason}{advice}", path.display()))
}

const ENTRIES: &str = "journal.json";
/// Longest time until a journal is free.
const TURN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
