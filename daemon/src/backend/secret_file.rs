//! Files with a secret in one line: access tokens and API keys.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::ground::ownership::{self, OwnershipError};
use crate::ground::text::quoted;

/// Reads the first line that is neither empty nor a comment.
///
/// # Errors
/// [`SecretFileError`] if other users can read or change the file, or the file has no such line.
pub(crate) fn read_line(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let failed = |reason: io::Error| SecretFileError::Read(path.to_owned(), reason);
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => failed(reason),
        Err(error) => SecretFileError::Ownership(error),
    })?;
    if ownership::is_for_others(&file).map_err(failed)? {
        return Err(SecretFileError::ReadableByOthers(path.to_owned()));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET as usize));
    file.take(MAX_SECRET).read_to_string(&mut text).map_err(failed)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    line.map(|line| Zeroizing::new(line.to_owned())).ok_or_else(|| SecretFileError::Unusable(path.to_owned()))
}

/// Reason why the file of a secret cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SecretFileError {
    #[error("refused the file of a secret: {0}")]
    Ownership(OwnershipError),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("refused the secret in {}: others can read it; run: chmod o= {}", .0.display(), quoted(.0))]
    ReadableByOthers(PathBuf),
    #[error("there is no secret in {}: write it there as one line", .0.display())]
    Unusable(PathBuf),
}

/// Maximum length of the file of a secret, in bytes (16 KiB).
const MAX_SECRET: u64 = 16 * 1024;
