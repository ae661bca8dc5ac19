//! The way back of a run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::edits::reversed;
use super::files::{PART, is_one, is_there, move_back, written, written_at};
use super::{Before, ENTRIES, Entry, Journal, Phase, Run, attributes, cannot_write, digest};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::protect::keys::holds_private_key;
use crate::ground::exit;

/// The files of a run that is put back.
#[derive(Debug, Default)]
pub(in crate::cli::protect) struct PutBack {
    /// Files that were changed or removed just now.
    changed: BTreeSet<PathBuf>,
    /// Files that are not as they were before the run: somebody has removed them, or a renewal has
    /// put a new key there.
    left: BTreeSet<PathBuf>,
}

impl PutBack {
    /// True if every file is as it was.
    pub(in crate::cli::protect) fn is_whole(&self) -> bool {
        self.left.is_empty()
    }
}

impl Journal {
    /// Notes that the last run is being undone. Also a full disk lets a run be undone that is not
    /// done.
    ///
    /// # Errors
    /// [`Failure`] if the journal cannot be written.
    pub(in crate::cli::protect) fn begin_undo(&mut self) -> Result<(), Failure> {
        match self.phase() {
            // A stop leads to the way back from here, too.
            Some(Phase::Writing) => return Ok(()),
            Some(Phase::Switching | Phase::Ending) => {}
            _ => return self.enter(Phase::Undoing),
        }
        if self.enter(Phase::Undoing).is_ok() {
            return Ok(());
        }
        // The new contents are written again only for a run that is done.
        let run = self.last()?;
        for entry in &run.entries.files {
            let _ = fs::remove_file(run.directory.join(&entry.copy_of_after));
        }
        self.enter(Phase::Undoing)
    }

    /// Takes changes of others since the last run into the journal: the way back takes the texts of
    /// the run out of these files, and leaves the rest as it is now. Returns the files.
    ///
    /// # Errors
    /// [`Failure`] names a file in the place of a key file, which would lose its change.
    pub(in crate::cli::protect) fn adopt_changes(&mut self) -> Result<Vec<PathBuf>, Failure> {
        let run = self.last()?;
        let changed: Vec<_> = run.entries.files.iter().map(|entry| run.is_changed(entry)).collect();
        let mut entries = run.entries.files.clone();
        let mut adopted = Vec::new();
        for (at, entry) in entries.iter_mut().enumerate().filter(|(at, _)| changed.get(*at) == Some(&true)) {
            if let Some(moved) = &entry.moved {
                let (path, moved) = (entry.path.display(), moved.display());
                let reason = format_args!(
                    "{path} was changed since, and would lose that change, because the key file of before ({moved}) comes back: move it away (mv {path} {path}.changed), and run the command again"
                );
                return Err(Failure::new(exit::CONFIG, reason));
            }
            let failed = |error| Failure::reading(&entry.path, &error);
            let mut file = File::open(&entry.path).map_err(failed)?;
            let mut now = Vec::new();
            file.read_to_end(&mut now).map_err(failed)?;
            let before = match str::from_utf8(&now) {
                Ok(text) => reversed(text, &entry.edits).into_bytes(),
                Err(_) => now.clone(),
            };
            // New names: after a stop, the journal still has the copies of before. A file that gets
            // its former text again is changed once more.
            let now_digest = digest(&now);
            entry.copy_of_after = format!("{at}.after-{now_digest}");
            let copy = run.directory.join(&entry.copy_of_after);
            let written = written(&copy, &now, 0o600);
            written.map_err(|error| cannot_write(&copy, &error))?;
            entry.before = match entry.is_made && before.trim_ascii().is_empty() {
                true => None,
                false => {
                    let kept = run.kept(format!("{at}.before-{now_digest}"), &before, &file);
                    Some(kept.map_err(|error| cannot_write(&run.directory, &error))?)
                }
            };
            entry.after = vec![now_digest];
            adopted.push(entry.path.clone());
        }
        if !adopted.is_empty() {
            run.entries.files = entries;
            run.save()?;
        }
        Ok(adopted)
    }

    /// Puts every file back as it was before the last run, and removes the files and directories
    /// that the run has made, except for files that another journal has made, too. Goes on where a
    /// stop has interrupted it. A file that somebody has removed since stays away, and so does the
    /// key file of a path with a new key.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be put back.
    pub(in crate::cli::protect) fn put_back(&self) -> Result<PutBack, Failure> {
        let mut done = PutBack::default();
        let Some(run) = self.runs.last() else { return Ok(done) };
        let made_by_others = self.made_by_others();
        for entry in &run.entries.files {
            let is_gone = !is_there(&entry.path);
            if is_gone && (entry.before.is_some() || entry.moved.is_some()) {
                let moved = entry.moved.as_ref().filter(|moved| is_there(moved)).map(|moved| moved.display());
                let key_file = moved.map(|moved| {
                    format!("; the key file of before is {moved}; when you are sure: shred -u {moved}")
                });
                output::note(format_args!(
                    "{} was removed since, and does not come back{}",
                    entry.path.display(),
                    key_file.unwrap_or_default()
                ));
                done.left.insert(entry.path.clone());
                continue;
            }
            if let Some(moved) = &entry.moved {
                let is_renewed = fs::read(&entry.path).is_ok_and(|contents| holds_private_key(&contents));
                if is_renewed && is_there(moved) && !is_one(&entry.path, moved) {
                    output::note(format_args!(
                        "{} has a key of its own again, and stays; the key file of before is {1}; when you are sure: shred -u {1}",
                        entry.path.display(),
                        moved.display()
                    ));
                    done.left.insert(entry.path.clone());
                    continue;
                }
                if is_there(moved) {
                    done.changed.insert(entry.path.clone());
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
                    done.changed.insert(entry.path.clone());
                    written_at(&entry.path, &contents, before)
                        .map_err(|error| cannot_write(&entry.path, &error))?;
                }
                None if made_by_others.contains(&entry.path) => {}
                None => match fs::remove_file(&entry.path) {
                    Err(error)
                        if ![ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
                    {
                        return Err(cannot_write(&entry.path, &error));
                    }
                    Err(_) => {}
                    Ok(()) => drop(done.changed.insert(entry.path.clone())),
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
        Ok(done)
    }

    /// Writes the files that were put back as the last run has left them: the way back was refused.
    ///
    /// # Errors
    /// [`Failure`] names the first file that cannot be written.
    pub(in crate::cli::protect) fn write_again(&self, done: &PutBack) -> Result<(), Failure> {
        let Some(run) = self.runs.last() else { return Ok(()) };
        for entry in run.entries.files.iter().filter(|entry| done.changed.contains(&entry.path)) {
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
    pub(in crate::cli::protect) fn forget_run(&mut self) -> Result<(), Failure> {
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
    pub(in crate::cli::protect) fn remove(&self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.directory).map_err(|error| cannot_write(&self.directory, &error))
    }
}

impl Run {
    /// True if somebody else has changed a file since.
    pub(super) fn is_changed(&self, entry: &Entry) -> bool {
        // A file that is gone stays so.
        let Ok(contents) = fs::read(&entry.path) else { return false };
        if let Some(moved) = &entry.moved {
            // The key file itself, or one that a renewal has put there.
            if holds_private_key(&contents) || !is_there(moved) || is_one(&entry.path, moved) {
                return false;
            }
        }
        let before =
            entry.before.as_ref().and_then(|before| fs::read(self.directory.join(&before.copy)).ok());
        !entry.after.contains(&digest(&contents)) && before.is_none_or(|before| before != contents)
    }
}

fn is_same(path: &Path, before: &Before) -> bool {
    let has = || File::open(path).and_then(|file| attributes::of(&file)).ok();
    path.metadata().is_ok_and(|found| {
        (found.mode() & 0o7777, found.uid(), found.gid()) == (before.mode, before.uid, before.gid)
    }) && (before.attributes.is_none() || has() == before.attributes)
}
