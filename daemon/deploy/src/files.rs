//! Files of others that root reads: a file that is none, such as a pipe, keeps nobody waiting.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// Reads the begin of a regular file.
///
/// # Errors
/// The error of the system, or [`io::ErrorKind::InvalidInput`] for a pipe, a device or a directory.
pub(crate) fn read(path: &Path, longest: u64) -> io::Result<String> {
    // The open of a device has effects.
    let other = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    if !path.metadata()?.is_file() {
        return Err(other());
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(other());
    }
    let mut text = Vec::new();
    file.take(longest).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
