//! Reading the files of a trail: their lines from the beginning, or the last line alone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::compression::{COMPRESSED, decompress, with_suffix};

/// Opens a file of a trail, compressed or not. A file that was compressed since its name was read
/// is found by its other name. [`read_line`] bounds what a line takes in memory.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    if is_compressed(path) {
        return Ok(Box::new(open_compressed(path)?));
    }
    match open_regular(path) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let compressed = open_compressed(&with_suffix(path, COMPRESSED)).map_err(|_| error)?;
            Ok(Box::new(compressed))
        }
        Err(error) => Err(error),
    }
}

/// Opens a regular file to read it, and nothing else: a directory of files from elsewhere may have
/// a pipe that nobody writes to, a device, or a link to a file that the reader alone may read.
///
/// # Errors
/// The file cannot be opened, or is no regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe waits for a writer. Regular files have no such waits.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // open(2) says so for a symbolic link, and for a socket or a device without a driver.
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(not_regular()),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(not_regular()) }
}

fn not_regular() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "not a regular file, but a link, a pipe, a device or another thing",
    )
}

fn open_compressed(path: &Path) -> io::Result<impl BufRead + use<>> {
    let file = open_regular(path)?;
    // The name in /proc stands for the file that was checked, also if another one has its name now.
    decompress(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
}

/// True if a file is compressed, by its name.
pub(crate) fn is_compressed(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(COMPRESSED.as_bytes())
}

/// Reads to the next line feed, or to the length that no record has. Returns the number of bytes.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_line(file: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    file.take(MAX_LINE as u64).read_until(b'\n', line)
}

/// The end of a file.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct End {
    /// The last whole line, without its line feed.
    pub(crate) line: Option<Vec<u8>>,
    /// Length of all whole lines, in bytes.
    pub(crate) whole: u64,
    /// Length of what follows them, in bytes.
    pub(crate) partial: u64,
}

impl End {
    /// Reads the end of a file, from its end: the time does not depend on the length of the file. A
    /// compressed file is read from its beginning.
    ///
    /// # Errors
    /// The file cannot be read, or its last line is longer than a record.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        if is_compressed(path) {
            return Self::of_compressed(path);
        }
        let file = open_regular(path)?;
        let length = file.metadata()?.len();
        let Some(feed) = last_feed(&file, length)? else {
            return Ok(Self { line: None, whole: 0, partial: length });
        };
        let begin = last_feed(&file, feed)?.map_or(0, |feed| feed + 1);
        let size = usize::try_from(feed - begin).ok().filter(|size| *size < MAX_LINE);
        let mut line = vec![0; size.ok_or_else(too_long)?];
        file.read_exact_at(&mut line, begin)?;
        Ok(Self { line: Some(line), whole: feed + 1, partial: length - feed - 1 })
    }

    fn of_compressed(path: &Path) -> io::Result<Self> {
        let (mut file, mut line) = (open(path)?, Vec::new());
        let mut end = Self { line: None, whole: 0, partial: 0 };
        while read_line(&mut *file, &mut line)? > 0 {
            end.whole += line.len() as u64;
            line.pop_if(|byte| *byte == b'\n').ok_or_else(too_long)?;
            end.line = Some(core::mem::take(&mut line));
        }
        Ok(end)
    }
}

/// Place of the last line feed before a place.
fn last_feed(file: &File, mut end: u64) -> io::Result<Option<u64>> {
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let size = usize::try_from(end).map_or(BLOCK, |end| end.min(BLOCK));
        let begin = end - size as u64;
        file.read_exact_at(&mut block[..size], begin)?;
        if let Some(place) = block[..size].iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(begin + place as u64));
        }
        end = begin;
    }
    Ok(None)
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the last line is longer than a record")
}

/// Records are shorter, in bytes.
pub(crate) const MAX_LINE: usize = 1 << 20;
/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A copy of a trail may come from somebody who wants the reader to wait, or to read elsewhere.
    #[test]
    fn only_regular_files_are_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("file"), "text").unwrap();
        symlink(path("file"), path("link")).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
            .unwrap();
        symlink(path("file"), path("link.zst")).unwrap();
        for name in ["link", "link.zst", "socket", "pipe", "."] {
            let error = open(&path(name)).err().unwrap();
            assert!(error.to_string().contains("not a regular file"), "{name}: {error}");
        }
        assert!(End::of(Path::new("/dev/null")).is_err());
        assert!(open(&path("file")).is_ok());
        fs::write(path("packed.zst"), zstd::encode_all(&b"one\n"[..], 0).unwrap()).unwrap();
        let mut line = Vec::new();
        read_line(&mut *open(&path("packed")).unwrap(), &mut line).unwrap();
        assert_eq!(line, b"one\n");
    }

    #[test]
    fn the_end_is_read_from_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let end_of = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            End::of(&path)
        };
        let end =
            |line: Option<&[u8]>, whole, partial| End { line: line.map(<[u8]>::to_vec), whole, partial };
        assert_eq!(end_of(b"").unwrap(), end(None, 0, 0));
        assert_eq!(end_of(b"par").unwrap(), end(None, 0, 3));
        assert_eq!(end_of(b"\n").unwrap(), end(Some(b""), 1, 0));
        assert_eq!(end_of(b"one\n").unwrap(), end(Some(b"one"), 4, 0));
        assert_eq!(end_of(b"one\ntwo\npar").unwrap(), end(Some(b"two"), 8, 3));
        // Lines and remainders that end at the bounds of blocks.
        for size in [BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK] {
            let line = vec![b'x'; size];
            let text = [b"one\n", line.as_slice(), b"\n"].concat();
            assert_eq!(end_of(&text).unwrap(), end(Some(&line), size as u64 + 5, 0));
            let text = [b"one\n", line.as_slice()].concat();
            assert_eq!(end_of(&text).unwrap(), end(Some(b"one"), 4, size as u64));
        }
        assert!(end_of(&[&vec![b'x'; MAX_LINE], b"\n".as_slice()].concat()).is_err());
    }
}
