//! The files of a trail: `NUMBER.jsonl`, where NUMBER is that of the first record,
//! `NUMBER.jsonl.zst` when it is compressed, and `head`, the last checkpoint.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::compression::COMPRESSED;
use crate::line::Link;
use crate::reading::{End, open, open_regular, read_line};
use crate::{Checkpoint, Hash, Policy};

/// The end of a trail, where records are added.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    file: File,
    /// Length of the file, in bytes.
    length: u64,
    /// True if the file may go on beyond `length` with a part of a record.
    has_fragment: bool,
    /// Time of the first record of the file, if the file has one.
    begun: Option<SystemTime>,
    /// Number of a record that the checkpoint in `head` covers, and that was not in the trail as it
    /// was when the trail was opened.
    pub(crate) rewound: Option<u64>,
    /// True if no checkpoint covered the last records when the trail was opened.
    pub(crate) has_unsigned_end: bool,
    /// Number of the first record of the file.
    pub(crate) first: u64,
    /// Number of the next record.
    pub(crate) next: u64,
    /// Hash of the last record.
    pub(crate) last: Hash,
}

impl Files {
    /// Opens a trail to add records, and makes the directory if there is none. Returns also the
    /// length in bytes of a record without its end, which is cut off.
    ///
    /// # Errors
    /// The directory or a file cannot be read or written, or the last record is none.
    pub(crate) fn open(directory: &Path) -> Result<(Self, u64), TrailError> {
        let error = |act, path: &Path| {
            let path = path.to_owned();
            move |source| TrailError::File { act, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(error("make", directory))?;
        let (mut next, mut last, mut lost) = (1, Hash::NONE, 0);
        let names = list(directory)?;
        // A file without a whole record is possible: its first record may have been cut off.
        for (first, path) in names.iter().rev() {
            let end = End::of(path).map_err(error("read", path))?;
            if end.partial > 0 {
                let file = OpenOptions::new().write(true).open(path).map_err(error("open", path))?;
                file.set_len(end.whole).map_err(error("cut", path))?;
                lost += end.partial;
            }
            if let Some(line) = end.line {
                let link: Link = serde_json::from_slice(&line)
                    .map_err(|source| TrailError::LastRecord { path: path.clone(), source })?;
                (next, last) = (link.seq.saturating_add(1), Hash::of(&line));
                break;
            }
            next = *first;
        }
        let path = directory.join(name(next));
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(&path).map_err(error("open", &path))?;
        let length = file.metadata().map_err(error("read", &path))?.len();
        sync_directory(directory).map_err(error("write to", directory))?;
        let head = read_head(directory).ok().flatten();
        let last_number = next.saturating_sub(1);
        let rewound = match &head {
            Some(head) => is_rewound(&names, head, last_number).map_err(error("read", directory))?,
            None => None,
        };
        // The record of a checkpoint follows the last record that the checkpoint covers.
        let has_unsigned_end = head.is_none_or(|head| head.through.saturating_add(1) < last_number);
        let files = Self {
            directory: directory.to_owned(),
            file,
            length,
            has_fragment: false,
            begun: None,
            rewound,
            has_unsigned_end,
            first: next,
            next,
            last,
        };
        Ok((files, lost))
    }

    /// Checks that the file which is open is the one of the directory, and has nothing but the
    /// records of this trail.
    ///
    /// # Errors
    /// The file is not in its place, or something else has written to it.
    pub(crate) fn check_place(&self) -> io::Result<()> {
        let path = self.directory.join(name(self.first));
        let shown = path.display();
        let open = self.file.metadata()?;
        let there = fs::symlink_metadata(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{shown} is not in its place: {error}")))?;
        if (open.dev(), open.ino()) != (there.dev(), there.ino()) {
            return Err(io::Error::other(format!(
                "{shown} was replaced by another file; restart the daemon"
            )));
        }
        if open.len() != self.length && !self.has_fragment {
            return Err(io::Error::other(format!(
                "something else than the daemon has changed {shown}; keep a copy of the directory, move the directory away, and restart the daemon"
            )));
        }
        Ok(())
    }

    /// True if a new file begins with the next record.
    pub(crate) fn is_full(&self, policy: &Policy, now: SystemTime) -> bool {
        let age = self.begun.and_then(|begun| now.duration_since(begun).ok());
        self.length >= policy.rotate_at.max(1) || age.is_some_and(|age| age >= policy.rotate_after)
    }

    /// Begins a new file.
    ///
    /// # Errors
    /// The records of the old file cannot be written to the disk, or the new file cannot be made.
    /// The old file goes on.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        self.cut_fragment()?;
        self.file.sync_data()?;
        let path = self.directory.join(name(self.next));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        if let Err(error) = sync_directory(&self.directory) {
            let _an_empty_file_does_no_harm = fs::remove_file(path);
            return Err(error);
        }
        (self.length, self.begun) = (file.metadata()?.len(), None);
        (self.file, self.first) = (file, self.next);
        Ok(())
    }

    /// Adds lines, which end with a line feed.
    ///
    /// # Errors
    /// The file does not take them. The part that was written is cut off, at the latest before the
    /// next lines.
    pub(crate) fn append(&mut self, lines: &[u8], now: SystemTime) -> io::Result<()> {
        self.cut_fragment()?;
        if let Err(error) = self.file.write_all(lines) {
            self.has_fragment = true;
            let _tried_again_before_the_next_lines = self.cut_fragment();
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.begun.get_or_insert(now);
        Ok(())
    }

    /// Cuts off a part of a record that a failed write has left.
    fn cut_fragment(&mut self) -> io::Result<()> {
        if self.has_fragment {
            self.file.set_len(self.length)?;
            self.has_fragment = false;
        }
        Ok(())
    }

    /// The open file, to wait until its records are on the disk.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub(crate) fn open_file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Checkpoint in `head`, if there is one.
    pub(crate) fn head(&self) -> Option<Checkpoint> {
        read_head(&self.directory).ok().flatten()
    }
}

/// Writes the last checkpoint to `head`. After a power cut, `head` is the older checkpoint or
/// this one.
///
/// # Errors
/// The file cannot be written. An older head stays.
pub(crate) fn set_head(directory: &Path, checkpoint: &Checkpoint) -> io::Result<()> {
    let (new, head) = (directory.join("head.new"), directory.join(HEAD));
    let text = serde_json::to_string(checkpoint)? + "\n";
    // A file that an earlier process has left may have another mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, head)?;
    sync_directory(directory)
}

/// Checkpoint in `head`, if there is one.
///
/// # Errors
/// The file cannot be read, or has no checkpoint.
pub(crate) fn read_head(directory: &Path) -> io::Result<Option<Checkpoint>> {
    match open_regular(&directory.join(HEAD)) {
        Ok(file) => Checkpoint::read(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Number of the record that a checkpoint covers, if the trail does not have this record with the
/// hash in the checkpoint. `last` is the number of the last record.
///
/// # Errors
/// A file cannot be read.
fn is_rewound(names: &[(u64, PathBuf)], head: &Checkpoint, last: u64) -> io::Result<Option<u64>> {
    let through = head.through;
    if through > last {
        return Ok(Some(through));
    }
    let before = names.partition_point(|(first, _)| *first <= through);
    // The file with the record may be removed already.
    let Some((first, path)) = before.checked_sub(1).and_then(|at| names.get(at)) else { return Ok(None) };
    let (mut file, mut line) = (open(path)?, Vec::new());
    for _ in *first..=through {
        line.clear();
        read_line(&mut *file, &mut line)?;
    }
    let is_there = line.strip_suffix(b"\n").is_some_and(|line| Hash::of(line) == head.hash);
    Ok((!is_there).then_some(through))
}

/// Waits until names that are new in a directory are on the disk.
///
/// # Errors
/// The disk has failed.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// A file of a trail, in one of its forms or in both.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// Number of the first record.
    pub(crate) first: u64,
    /// `NUMBER.jsonl`.
    pub(crate) plain: Option<PathBuf>,
    /// `NUMBER.jsonl.zst`.
    pub(crate) compressed: Option<PathBuf>,
    /// Room that both forms take on the disk, at most their length, in bytes.
    pub(crate) bytes: u64,
}

impl Stored {
    /// The form that is read. The form that is not compressed goes first, because a process may
    /// have been killed while it compressed.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.plain.as_deref().or(self.compressed.as_deref())
    }
}

/// The files of a trail, in their order.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn stored(directory: &Path) -> io::Result<Vec<Stored>> {
    let mut files = BTreeMap::<u64, Stored>::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else { continue };
        let plain_name = text.strip_suffix(COMPRESSED).unwrap_or(text);
        let Some(first) = plain_name.strip_suffix(SUFFIX).and_then(|number| number.parse().ok()) else {
            continue;
        };
        // A number has one name only.
        if plain_name != name(first) {
            continue;
        }
        // A file may be compressed or removed meanwhile.
        let Ok(metadata) = entry.metadata() else { continue };
        let file = files.entry(first).or_insert_with(|| Stored { first, ..Stored::default() });
        // Somebody may have made a file with a hole.
        file.bytes += metadata.len().min(metadata.blocks().saturating_mul(512));
        let form = if plain_name == text { &mut file.plain } else { &mut file.compressed };
        *form = Some(entry.path());
    }
    Ok(files.into_values().collect())
}

/// The files of a trail with the number of the first record of each, in their order.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, TrailError> {
    let error = |source| TrailError::File { act: "read", path: directory.to_owned(), source };
    let files = stored(directory).map_err(error)?;
    let path_of = |file: &Stored| file.path().map(|path| (file.first, path.to_owned()));
    Ok(files.iter().filter_map(path_of).collect())
}

/// Every file of a trail that a verification needs, `head` first: a checkpoint is in the trail
/// before it is the head.
///
/// # Errors
/// The directory cannot be read.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>, TrailError> {
    let head = Some(directory.join(HEAD)).filter(|head| head.exists());
    Ok(head.into_iter().chain(list(directory)?.into_iter().map(|(_, path)| path)).collect())
}

fn name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// Reason why a trail cannot be read, or records cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum TrailError {
    /// A file or directory.
    #[error("cannot {act} {}: {source}", path.display())]
    File {
        /// The verb.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The last record is none, so the next one cannot have its hash.
    #[error(
        "the last line of {} is no record: {source}; move the directory away to begin a new trail, and keep it",
        path.display()
    )]
    LastRecord {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
}

/// The file with the last checkpoint.
pub(crate) const HEAD: &str = "head";
const SUFFIX: &str = ".jsonl";

#[cfg(test)]
mod tests {
    use super::*;

    /// A write stops in the middle of a line, and the file cannot be cut at once.
    #[test]
    fn a_fragment_is_cut_off_before_the_next_lines() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, _) = Files::open(directory.path()).unwrap();
        let (path, now) = (directory.path().join(name(1)), SystemTime::now());
        files.append(b"one\n", now).unwrap();
        // Neither written nor cut.
        let file = core::mem::replace(&mut files.file, File::open(&path).unwrap());
        files.append(b"two\n", now).unwrap_err();
        (&file).write_all(b"tw").unwrap();
        files.append(b"three\n", now).unwrap_err();
        files.file = file;
        files.append(b"four\n", now).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "one\nfour\n");
    }
}
