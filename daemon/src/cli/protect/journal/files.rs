//! Files that are replaced as a whole, and key files that get another name.

use core::time::Duration;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::SystemTime;

use tempfile::NamedTempFile;

use super::{Before, attributes};

/// Gives a file that was moved its path again. A file that was not moved yet stays.
pub(super) fn move_back(moved: &Path, path: &Path) -> io::Result<()> {
    if !is_there(moved) {
        return Ok(());
    }
    fs::rename(moved, path)?;
    // Two names of one file both stay after a rename (rename(2)).
    match fs::remove_file(moved) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => synced(path),
    }
}

pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// True if two paths are names of one file, or of one link.
pub(super) fn is_one(path: &Path, other: &Path) -> bool {
    let place = |path: &Path| path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()));
    place(path).is_some() && place(path) == place(other)
}

/// Replaces a file as a whole.
pub(super) fn written(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let file = beside(path, contents, mode, None)?;
    persist(file, path)
}

/// Replaces a file, if there is one, by other contents with the same owner, mode and attributes. A
/// new file has the mode 0644.
pub(super) fn written_like(path: &Path, contents: &[u8]) -> io::Result<()> {
    let old = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return written(path, contents, 0o644),
        old => old?,
    };
    let found = old.metadata()?;
    let file = beside(path, contents, found.mode() & 0o7777, Some((found.uid(), found.gid())))?;
    attributes::give(file.as_file(), path, &attributes::of(&old)?)?;
    persist(file, path)
}

/// Replaces a file by its former contents, with its former owner, mode, attributes and time.
pub(super) fn written_at(path: &Path, contents: &[u8], before: &Before) -> io::Result<()> {
    let file = beside(path, contents, before.mode, Some((before.uid, before.gid)))?;
    let attributes = match (&before.attributes, File::open(path)) {
        (Some(attributes), _) => attributes.clone(),
        // A journal of an earlier version does not know them.
        (None, Ok(now)) => attributes::of(&now)?,
        (None, Err(_)) => attributes::of(file.as_file())?,
    };
    attributes::give(file.as_file(), path, &attributes)?;
    let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(before.modified);
    file.as_file().set_times(FileTimes::new().set_modified(modified))?;
    persist(file, path)
}

fn beside(path: &Path, contents: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(PART).tempfile_in(directory_of(path))?;
    file.write_all(contents)?;
    if let Some((uid, gid)) = owner {
        fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map_err(|error| error.error)?;
    synced(path)
}

/// Brings the name of a file to the disk.
pub(super) fn synced(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// Beginning of the name of a file that is not whole yet.
pub(super) const PART: &str = ".keyward-part-";
