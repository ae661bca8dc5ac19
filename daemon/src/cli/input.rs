//! Files that a command reads, or standard input.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::admin::api::MAX_KEY_FILE;
use crate::ground::exit;

/// Reads a file, or standard input for `-`: at most as many bytes as the daemon accepts. The bytes
/// may hold a private key.
pub(super) fn read_input(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // The full capacity at once, since a vector that grows leaves copies of its bytes in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE + 2));
    read_up_to(path, MAX_KEY_FILE, |reader| reader.read_to_end(&mut bytes))?;
    Ok(bytes)
}

/// Reads a text of up to `most` bytes from a file, or from standard input for `-`.
pub(super) fn read_text(path: &Path, most: usize) -> Result<String, Failure> {
    let mut text = String::new();
    read_up_to(path, most, |reader| reader.read_to_string(&mut text))?;
    Ok(text)
}

/// Reads with a function that returns the number of bytes it has read. More than `most` bytes are
/// an error.
fn read_up_to(
    path: &Path,
    most: usize,
    read: impl FnOnce(&mut dyn Read) -> io::Result<usize>,
) -> Result<(), Failure> {
    let limit = most as u64 + 1;
    let length = if path == Path::new("-") {
        read(&mut io::stdin().lock().take(limit))
    } else {
        File::open(path).and_then(|file| read(&mut file.take(limit)))
    };
    match length.map_err(|error| Failure::reading(path, &error))? <= most {
        true => Ok(()),
        false => {
            let why = format_args!("cannot read {}: longer than {most} bytes", path.display());
            Err(Failure::new(exit::DATA, why))
        }
    }
}
