//! Binds a socket with its final permissions.
//!
//! A socket must never appear under its name with other permissions. So the socket is bound inside
//! a private directory, and then moved to its name. The parent directory is held by a descriptor
//! all the time. The owner of the parent directory, such as the server of a chroot, can put
//! symbolic links there, but cannot redirect the daemon.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::error::SocketError;
use super::private_directory::{FileId, PrivateDirectory};
use crate::ground::ownership::{self, Owners, OwnershipError};
use crate::peers::listener::BACKLOG;

/// Binds a socket at `path`. Replaces the socket of a dead daemon.
///
/// # Errors
/// [`SocketError`] if a live daemon, another user or another file has the path.
pub(super) fn bind(path: &Path, mode: u32) -> Result<(UnixListener, FileId), SocketError> {
    let failed = |reason| SocketError::Bind { path: path.to_owned(), reason };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        Ok(found) => match connect(path) {
            // Only a socket without a listener refuses connections.
            Err(Errno::CONNREFUSED) => {}
            Err(Errno::ACCESS) => {
                return Err(SocketError::Foreign { path: path.to_owned(), uid: found.uid() });
            }
            // Any other result means that there is a listener.
            _ => return Err(SocketError::InUse(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let parent = open_directory(parent).map_err(|error| failed(error.into()))?;
    let private = PrivateDirectory::make(parent.as_fd()).map_err(failed)?;
    let (listener, file) = private.bind(Path::new(name), Mode::from_raw_mode(mode)).map_err(failed)?;
    // A long backlog would let any user make all others wait.
    rustix::net::listen(&listener, BACKLOG).map_err(|error| failed(error.into()))?;
    Ok((listener, file))
}

/// Binds an extra socket of the configuration, for peers.
///
/// # Errors
/// [`SocketError::Exposed`] if [`check_extra`] refuses the directory, or an error of [`bind`].
pub(super) fn bind_extra(path: &Path) -> Result<(UnixListener, FileId), SocketError> {
    check_extra(path).map_err(|reason| SocketError::Exposed { path: path.to_owned(), reason })?;
    bind(path, 0o666)
}

/// Checks the directory of an extra socket. The directory may belong to the server that uses the
/// socket: that server can deceive only itself. In a directory that every user can write to, each
/// user could deceive the server. In a sticky directory too: a user can make the socket first.
///
/// # Errors
/// [`OwnershipError`] if the daemon refuses to bind a socket there.
pub(crate) fn check_extra(path: &Path) -> Result<(), OwnershipError> {
    ownership::check_directory(path.parent().unwrap_or(Path::new("/")), Owners::Any)
}

/// Binds an abstract socket. `address` is the name with its `@`, for errors.
///
/// # Errors
/// [`SocketError`] if the name is in use, or the system refuses it.
pub(super) fn bind_abstract(address: &str, name: &str) -> Result<UnixListener, SocketError> {
    let bound = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    bound.map_err(|reason| match reason.kind() {
        io::ErrorKind::AddrInUse => SocketError::InUse(address.into()),
        _ => SocketError::Bind { path: address.into(), reason },
    })
}

/// Opens a directory as a descriptor for the calls of the `at` family.
pub(super) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Probes the socket at `path`. Does not wait for a listener that is too busy to accept.
fn connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::DirBuilderExt;
    use std::process;

    use super::*;

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_the_socket_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, _) = bind(&path, 0o666).unwrap();
        assert!(matches!(bind(&path, 0o666), Err(SocketError::InUse(_))));
        // A child of another test can hold a copy until it executes its program. The socket itself
        // ends, not only this descriptor.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        drop(listener);
        // The rest of a daemon that was killed while it bound a socket.
        let left = dir.path().join(format!(".{}", process::id()));
        fs::DirBuilder::new().mode(0o700).create(&left).unwrap();
        drop(UnixListener::bind(left.join("s")).unwrap());
        let _listener = bind(&path, 0o666).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_way_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path, 0o666), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
