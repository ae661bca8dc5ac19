//! Files of limited length, read as text.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Reads a file up to the length of a configuration. Bytes that are not UTF-8, as in comments of
/// other encodings, are replaced.
///
/// # Errors
/// If the file is longer, or cannot be read.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LONGEST {
        true => Err(io::Error::other(format!("longer than {LONGEST} bytes"))),
        false => Ok(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

/// Reads the first bytes of a regular file without waiting for the other end of a pipe.
///
/// # Errors
/// If the file is not a regular file, or cannot be read.
pub(super) fn read_start(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Longest text, in bytes (1 MiB).
pub(super) const LONGEST: u64 = 1024 * 1024;
