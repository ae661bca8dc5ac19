//! Files that an openssl.cnf names.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::cli::doctor::openssl_program;

/// The file that OpenSSL loads for a module name.
pub(in crate::cli::doctor) fn module_file(name: &str) -> Option<PathBuf> {
    match name.starts_with('/') {
        true => Some(name.into()),
        false => Some(openssl_program::modules()?.join(name)),
    }
}

/// Refuses a pipe, whose reader would wait for another process.
///
/// # Errors
/// If the path is neither a file nor a device such as /dev/null, or does not exist.
pub(super) fn refuse_pipe(path: &Path) -> io::Result<()> {
    let kind = fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_char_device() {
        true => Ok(()),
        false => Err(io::Error::other("not a file")),
    }
}
