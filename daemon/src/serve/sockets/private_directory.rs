//! Directory in which a socket is bound before it gets its final name.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{AtFlags, Mode, OFlags};

/// Identity of a file, independent of its name: device and inode.
pub(super) type FileId = (u64, u64);

/// Directory inside `parent` that no other user can enter or exchange.
pub(super) struct PrivateDirectory<'a> {
    parent: BorrowedFd<'a>,
    name: String,
    directory: OwnedFd,
}

impl<'a> PrivateDirectory<'a> {
    /// Makes the directory. Its name is a dot and the process id.
    pub(super) fn make(parent: BorrowedFd<'a>) -> io::Result<Self> {
        let name = format!(".{}", process::id());
        // A killed process may have left the directory. In containers, process ids repeat.
        if let Ok(directory) = Self::open(parent, &name) {
            empty(&directory);
            rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
        }
        rustix::fs::mkdirat(parent, &name, Mode::RWXU)?;
        // From here on, the descriptor is used. Another user can change only the name.
        let directory = Self::open(parent, &name)?;
        Ok(Self { parent, name, directory })
    }

    /// Opens the directory, if it belongs to this user and has no permissions for others.
    fn open(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let found = rustix::fs::fstat(&directory)?;
        let is_ours = found.st_uid == rustix::process::geteuid().as_raw();
        match is_ours && !Mode::from_raw_mode(found.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            true => Ok(directory),
            false => Err(io::Error::other("another user makes directories there")),
        }
    }

    /// Binds a socket, sets its mode, and moves the socket to its name in the parent directory.
    pub(super) fn bind(self, name: &Path, mode: Mode) -> io::Result<(UnixListener, FileId)> {
        let listener = UnixListener::bind(path_of(&self.directory).join(name))?;
        rustix::fs::chmodat(&self.directory, name, mode, AtFlags::empty())?;
        let file = rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::renameat(&self.directory, name, self.parent, name)?;
        Ok((listener, (file.st_dev, file.st_ino)))
    }
}

impl Drop for PrivateDirectory<'_> {
    fn drop(&mut self) {
        empty(&self.directory);
        let _ = rustix::fs::unlinkat(self.parent, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Removes the files of a directory: at most a socket.
fn empty(directory: &OwnedFd) {
    for entry in fs::read_dir(path_of(directory)).into_iter().flatten().flatten() {
        let _ = rustix::fs::unlinkat(directory, entry.file_name(), AtFlags::empty());
    }
}

/// Path of an open directory that does not depend on the name of the directory.
fn path_of(directory: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", directory.as_raw_fd()).into()
}
