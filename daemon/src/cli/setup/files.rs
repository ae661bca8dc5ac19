//! New files of the setup. No file that exists is overwritten.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::cli::failure::Failure;
use crate::ground::exit;

/// Makes a file with its whole contents, or no file. `owner` is the user who gets the file, if
/// that is another user than the one who runs this.
///
/// # Errors
/// [`Failure`] if the file exists, or the system refuses to make it.
pub(super) fn make(path: &Path, contents: &[u8], mode: u32, owner: Option<u32>) -> Result<(), Failure> {
    let make = || -> io::Result<()> {
        let file = written(path, contents, mode, owner)?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        sync_directory_of(path)
    };
    make().map_err(|reason| unwritten(path, &reason))
}

/// Makes a file for its owner alone, also on a file system without links, such as that of a USB
/// stick. The file may be incomplete if the system stops meanwhile.
///
/// # Errors
/// See [`make`].
pub(super) fn make_in_place(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let make = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(contents)?;
        file.sync_all()?;
        sync_directory_of(path)
    };
    make().map_err(|reason| unwritten(path, &reason))
}

/// Replaces the contents of a file as a whole. Owner and mode of the file stay.
///
/// # Errors
/// [`Failure`] if the system refuses.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let replace = || -> io::Result<()> {
        // A link stays a link.
        let path = path.canonicalize()?;
        let found = fs::metadata(&path)?;
        let file = written(&path, contents, found.mode() & 0o7777, Some(found.uid()))?;
        fchown(file.as_file(), None, Some(found.gid()))?;
        file.persist(&path).map_err(|error| error.error)?;
        sync_directory_of(&path)
    };
    replace().map_err(|reason| unwritten(path, &reason))
}

/// Writes a temporary file beside a path.
fn written(path: &Path, contents: &[u8], mode: u32, owner: Option<u32>) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".setup-").tempfile_in(directory_of(path))?;
    file.write_all(contents)?;
    fchown(file.as_file(), owner, None)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

/// The directory of a file.
pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn unwritten(path: &Path, reason: &io::Error) -> Failure {
    let (status, advice) = match reason.kind() {
        io::ErrorKind::PermissionDenied => (exit::NO_PERMISSION, "; run this command as root"),
        _ => (exit::CANNOT_CREATE, ""),
    };
    Failure::new(status, format_args!("cannot make {}: {reason}{advice}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unseal.key");
        make(&path, b"one", 0o600, None).unwrap();
        for again in [make(&path, b"two", 0o600, None), make_in_place(&path, b"two")] {
            let reason = again.unwrap_err().into_reason();
            assert!(reason.contains("cannot make") && reason.contains("exists"), "{reason}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link] = ["keyward.toml", "link.toml"].map(|name| dir.path().join(name));
        make(&path, b"one", 0o640, None).unwrap();
        std::os::unix::fs::symlink("keyward.toml", &link).unwrap();
        replace(&link, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }
}
