//! Reading of a trail: the lines of its files, compressed or not.

use core::fmt;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use crate::files::list;
use crate::reading::{MAX_LINE, is_compressed, open, read_line};
use crate::{Place, TrailError};

/// Lines of a trail, the oldest first, with their places. Nothing is verified.
///
/// Memory has a bound: a line is an error if it is longer than a record. The end of a trail that is
/// being written may be a part of a line, which is left out.
pub struct Lines {
    files: IntoIter<(u64, PathBuf)>,
    /// The file that is open, and the place of its last line.
    file: Option<(Box<dyn BufRead>, Place)>,
}

impl Lines {
    /// Lines of a trail from a file on: the one with a record, or the first one that is there.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn from(directory: &Path, record: u64) -> Result<Self, TrailError> {
        let mut files = list(directory)?;
        let before = files.partition_point(|(first, _)| *first <= record).saturating_sub(1);
        let files = files.split_off(before).into_iter();
        Ok(Self { files, file: None })
    }

    fn next_line(&mut self) -> Result<Option<(Place, String)>, TrailError> {
        loop {
            if self.file.is_none() {
                let Some((_, path)) = self.files.next() else { return Ok(None) };
                let file = open(&path).map_err(|source| reading(&path, source))?;
                self.file = Some((file, Place { path, line: 0 }));
            }
            let Some((file, place)) = &mut self.file else { return Ok(None) };
            let mut line = Vec::new();
            read_line(&mut **file, &mut line).map_err(|source| reading(&place.path, source))?;
            place.line += 1;
            let is_whole = line.pop_if(|byte| *byte == b'\n').is_some();
            if is_whole {
                let text = String::from_utf8(line).map_err(|error| {
                    reading(&place.path, io::Error::new(io::ErrorKind::InvalidData, error))
                })?;
                return Ok(Some((place.clone(), text)));
            }
            if line.len() >= MAX_LINE || (is_compressed(&place.path) && !line.is_empty()) {
                let error = io::Error::new(io::ErrorKind::InvalidData, "a line is longer than a record");
                return Err(reading(&place.path, error));
            }
            self.file = None;
        }
    }
}

impl Iterator for Lines {
    type Item = Result<(Place, String), TrailError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_line();
        if next.is_err() {
            // A file that cannot be read is no reason to leave out later ones.
            self.file = None;
        }
        next.transpose()
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("files", &self.files).finish_non_exhaustive()
    }
}

fn reading(path: &Path, source: io::Error) -> TrailError {
    TrailError::File { act: "read", path: path.to_owned(), source }
}
