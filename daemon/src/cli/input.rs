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
    let most = MAX_KEY_FILE as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::reading(path, &error))?;
    if bytes.len() > MAX_KEY_FILE {
        let path = path.display();
        return Err(Failure::new(
            exit::DATA,
            format_args!("cannot read {path}: longer than {MAX_KEY_FILE} bytes"),
        ));
    }
    Ok(bytes)
}
