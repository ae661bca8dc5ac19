//! Compression of closed files with Zstandard (RFC 8878): `NUMBER.jsonl` becomes
//! `NUMBER.jsonl.zst`.
//!
//! A process that is killed meanwhile leaves `NUMBER.jsonl.zst.new`, or both forms of a file. In
//! both cases `NUMBER.jsonl` is whole, and [`clean`] removes the rest if it is the same.

use core::sync::atomic::{AtomicBool, Ordering};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zstd::stream::read::Decoder;
use zstd::stream::write::Encoder;

use crate::files::{Stored, stored, sync_directory};

/// Puts the compressed form of a file in its place. Stops without a change when `is_stopping`.
///
/// # Errors
/// A file cannot be read or written. The file stays as it is.
pub(crate) fn compress(directory: &Path, plain: &Path, is_stopping: &AtomicBool) -> io::Result<()> {
    let (new, compressed) = (with_suffix(plain, NEW), with_suffix(plain, COMPRESSED));
    if compressed.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", compressed.display())));
    }
    let written = write_compressed(plain, &new, is_stopping);
    if !matches!(written, Ok(true)) {
        let _left_for_the_next_start = fs::remove_file(&new);
        return written.map(drop);
    }
    fs::rename(&new, compressed)?;
    // The file must be found by its new name before the old one is gone.
    sync_directory(directory)?;
    fs::remove_file(plain)
}

/// Removes what a process that was killed has left.
///
/// # Errors
/// The directory cannot be read, or a file cannot be removed.
pub(crate) fn clean(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(".jsonl.zst.new")) {
            fs::remove_file(path)?;
        }
    }
    for file in stored(directory)? {
        if let Stored { plain: Some(plain), compressed: Some(path), .. } = file {
            // Somebody may have put another file beside the compressed one.
            if !is_same(&plain, &path)? {
                let plain = plain.display();
                return Err(io::Error::other(format!(
                    "{plain} is not the file that its compressed form was made of; keep a copy of both, and remove the wrong one"
                )));
            }
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// True if a compressed file has the bytes of a plain one.
fn is_same(plain: &Path, compressed: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(File::open(plain)?), decompress(compressed)?);
    loop {
        // A compressed file that cannot be read is not the same either.
        let (left, Ok(right)) = (one.fill_buf()?, other.fill_buf()) else { return Ok(false) };
        let size = left.len().min(right.len());
        if size == 0 || left[..size] != right[..size] {
            return Ok(left.is_empty() && right.is_empty());
        }
        one.consume(size);
        other.consume(size);
    }
}

/// Opens a compressed file, in a window of 2 MiB.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn decompress(path: &Path) -> io::Result<impl BufRead + use<>> {
    let mut decoder = Decoder::new(File::open(path)?)?;
    decoder.window_log_max(WINDOW_LOG)?;
    Ok(BufReader::new(decoder))
}

/// Returns false when `is_stopping`.
fn write_compressed(plain: &Path, new: &Path, is_stopping: &AtomicBool) -> io::Result<bool> {
    let mut reader = File::open(plain)?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(new)?;
    let mut encoder = Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.window_log(WINDOW_LOG)?;
    let mut block = vec![0; BLOCK];
    loop {
        if is_stopping.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match reader.read(&mut block)? {
            0 => break,
            size => encoder.write_all(&block[..size])?,
        }
    }
    encoder.finish()?.sync_all()?;
    Ok(true)
}

/// Name of a file with something after it.
pub(crate) fn with_suffix(plain: &Path, suffix: &str) -> PathBuf {
    let mut name = plain.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Suffix of the name of a compressed file.
pub(crate) const COMPRESSED: &str = ".zst";
const NEW: &str = ".zst.new";
/// Level 3 of 22, the default of Zstandard.
const LEVEL: i32 = 3;
/// Window of 2 MiB. Decompression needs this much memory, and accepts no more than this.
const WINDOW_LOG: u32 = 21;
/// Bytes that are read at once.
const BLOCK: usize = 128 << 10;
