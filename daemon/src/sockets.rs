//! The sockets of the daemon: passed by systemd, or bound here.
//!
//! A socket appears under its name with its final permissions, never for a moment with others: it is bound
//! inside a directory that is closed to everyone else and moved from there.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process;

use keyward_client::Address;
use listenfd::ListenFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use crate::run::make_open_dirs;

/// What the daemon listens on.
pub(crate) struct Sockets {
    /// For peers.
    pub(crate) peers: Vec<UnixListener>,
    /// For administrators.
    pub(crate) admin: Vec<UnixListener>,
}

impl Sockets {
    /// Takes the sockets that systemd passed; binds those that it did not, and the extra ones.
    ///
    /// # Errors
    /// [`SocketError`] says which socket is out of reach and why.
    pub(crate) fn open(runtime_dir: &Path, extra: &[Address]) -> Result<Self, SocketError> {
        let mut sockets = Self::inherited()?;
        if sockets.peers.is_empty() || sockets.admin.is_empty() {
            // Peers of every user must get through.
            make_open_dirs(runtime_dir)
                .map_err(|reason| SocketError::RuntimeDir { path: runtime_dir.to_owned(), reason })?;
        }
        if sockets.peers.is_empty() {
            // Anybody may knock: who may do what is settled by grants.
            sockets.peers.push(bind(&runtime_dir.join(PEERS), 0o666)?);
        }
        if sockets.admin.is_empty() {
            sockets.admin.push(bind(&runtime_dir.join(ADMIN), 0o600)?);
        }
        for address in extra {
            let text = address.to_string();
            sockets.peers.push(match text.strip_prefix('@') {
                Some(name) => bind_abstract(&text, name)?,
                None => bind(Path::new(&text), 0o666)?,
            });
        }
        Ok(sockets)
    }

    /// The sockets of sd_listen_fds(3). One that is named `admin` is for administrators.
    fn inherited() -> Result<Self, SocketError> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<_> = names.split(':').collect();
        let mut passed = ListenFd::from_env();
        let mut sockets = Self { peers: Vec::new(), admin: Vec::new() };
        for index in 0..passed.len() {
            let listener = passed.take_unix_listener(index).map_err(SocketError::Passed)?;
            let Some(listener) = listener else { continue };
            match names.get(index) {
                Some(&"admin") => sockets.admin.push(listener),
                _ => sockets.peers.push(listener),
            }
        }
        Ok(sockets)
    }
}

/// Name of the peers' socket in the runtime directory.
pub(crate) const PEERS: &str = "keyward.sock";

/// Name of the administrators' socket in the runtime directory.
pub(crate) const ADMIN: &str = "admin.sock";

/// Why there is no socket to listen on.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    #[error("cannot listen on {}: {reason}", path.display())]
    Bind { path: PathBuf, reason: io::Error },
    #[error("cannot listen on {}: another daemon answers there", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: there is something that is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot use a socket that was passed in LISTEN_FDS: {0}")]
    Passed(io::Error),
    #[error("cannot make the runtime directory {}: {reason}", path.display())]
    RuntimeDir { path: PathBuf, reason: io::Error },
}

/// Does not wait for somebody who is too busy to accept.
fn somebody_listens(path: &Path) -> bool {
    let connected = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
    };
    connected() != Err(Errno::CONNREFUSED)
}

fn bind(path: &Path, mode: u32) -> Result<UnixListener, SocketError> {
    let failed = |reason| SocketError::Bind { path: path.to_owned(), reason };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
        // Only a socket that nobody listens on refuses; whatever else happens, somebody is there.
        Ok(_) if somebody_listens(path) => return Err(SocketError::InUse(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    };
    let private = parent.join(format!(".{}", process::id()));
    // A process of the same number, as there are in containers, may have been killed between two of these steps.
    let _ = fs::remove_dir_all(&private);
    DirBuilder::new().mode(0o700).create(&private).map_err(failed)?;
    let bound = (|| {
        let inside = private.join(name);
        let listener = UnixListener::bind(&inside)?;
        fs::set_permissions(&inside, Permissions::from_mode(mode))?;
        fs::rename(&inside, path)?;
        Ok(listener)
    })();
    let _ = fs::remove_dir_all(&private);
    bound.map_err(failed)
}

fn bind_abstract(address: &str, name: &str) -> Result<UnixListener, SocketError> {
    let bound = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    bound.map_err(|reason| match reason.kind() {
        io::ErrorKind::AddrInUse => SocketError::InUse(address.into()),
        _ => SocketError::Bind { path: address.into(), reason },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn sockets_have_their_permissions_and_leave_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("a/run");
        let _sockets = Sockets::open(&runtime_dir, &[]).unwrap();
        assert_eq!(mode(&runtime_dir), 0o755);
        assert_eq!(mode(&runtime_dir.join(PEERS)), 0o666);
        assert_eq!(mode(&runtime_dir.join(ADMIN)), 0o600);
        assert_eq!(fs::read_dir(&runtime_dir).unwrap().count(), 2);
    }

    #[test]
    fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = bind(&path, 0o666).unwrap();
        assert!(matches!(bind(&path, 0o666), Err(SocketError::InUse(_))));
        drop(listener);
        fs::create_dir(dir.path().join(format!(".{}", process::id()))).unwrap();
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
