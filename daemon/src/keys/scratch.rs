//! A file for a copy of the key store, without a name.
//!
//! A copy is most needed when the state directory is full or gone. So the file is on the disk of
//! temporary files. The confined daemon cannot make files there, so it has one from the start.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The file, while no copy is in it.
#[derive(Clone, Default)]
pub(crate) struct Scratch(Arc<Mutex<Option<File>>>);

impl Scratch {
    /// Makes the file in the directory for temporary files. If that fails, there is none.
    pub(crate) fn make() -> Self {
        let made = tempfile::tempfile();
        let made = made.inspect_err(|error| {
            let directory = std::env::temp_dir();
            tracing::warn!(
                "cannot make a file in {}, so backups take space in the state directory: {error}",
                directory.display()
            );
        });
        Self(Arc::new(Mutex::new(made.ok())))
    }

    /// Takes the file. `None` while another copy is in it.
    pub(super) fn take(&self) -> Option<CopyFile> {
        let file = self.file().take()?;
        Some(CopyFile { file, home: Some(self.clone()) })
    }

    fn file(&self) -> MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file with a copy of the key store. Its space is free after the drop.
pub(crate) struct CopyFile {
    pub(super) file: File,
    home: Option<Scratch>,
}

impl CopyFile {
    /// A file that is gone after the drop.
    pub(super) fn of(file: File) -> Self {
        Self { file, home: None }
    }
}

impl Read for CopyFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for CopyFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Drop for CopyFile {
    fn drop(&mut self) {
        let Some(home) = &self.home else { return };
        if self.file.set_len(0).and_then(|()| self.file.rewind()).is_ok() {
            *home.file() = self.file.try_clone().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_file_comes_back_empty() {
        let scratch = Scratch::make();
        let copy = scratch.take().unwrap();
        (&copy.file).write_all(b"records").unwrap();
        assert!(scratch.take().is_none(), "another copy is in the file");
        drop(copy);
        let mut again = scratch.take().unwrap();
        let mut contents = Vec::new();
        again.read_to_end(&mut contents).unwrap();
        assert!(contents.is_empty());
    }
}
