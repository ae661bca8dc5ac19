//! Endpoint: a location at which the daemon listens, and its present socket.

use core::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::bind::{bind, bind_abstract, bind_extra};
use super::error::SocketError;
use super::inherited::{HandedOver, Inherited, one_line};
use super::private_directory::FileId;
use super::role::Role;
use crate::ground::ownership::{self, Owners};

/// Endpoint of the daemon.
pub(super) struct Endpoint {
    role: Role,
    pub(super) location: Location,
    /// Present socket; `None` if the daemon could not bind one.
    bound: Option<Bound>,
}

/// Location of an endpoint.
pub(super) enum Location {
    /// Location that systemd chose: a path, or `None` for an abstract name.
    Systemd(Option<PathBuf>),
    /// Path in the runtime directory.
    Runtime(PathBuf),
    /// Path or abstract name of the configuration.
    Extra(String),
}

struct Bound {
    /// Clone of the socket at which connections are accepted.
    listener: UnixListener,
    /// File of the socket, if this daemon made a file.
    file: Option<FileId>,
    replaced: CancellationToken,
}

/// New listener of an endpoint.
pub(crate) struct Opened {
    pub(crate) listener: OwnedFd,
    pub(crate) role: Role,
    /// Cancelled when another listener replaces this one.
    pub(crate) replaced: CancellationToken,
}

impl Endpoint {
    /// Endpoint without a socket.
    pub(super) fn new(role: Role, location: Location) -> Self {
        Self { role, location, bound: None }
    }

    /// Binds a new socket, in place of the present one.
    ///
    /// # Errors
    /// [`SocketError`] is the reason why the daemon cannot listen there.
    pub(super) fn bind(&mut self, runtime_dir: &Path) -> Result<Opened, SocketError> {
        let (listener, file) = match &self.location {
            Location::Systemd(_) => return Err(SocketError::Passed(io::ErrorKind::InvalidInput.into())),
            Location::Runtime(path) => {
                // Peers of every user must reach the socket, but must not be able to exchange it.
                ownership::make_directories(runtime_dir)
                    .and_then(|()| ownership::check_directory(runtime_dir, Owners::Own))
                    .and_then(|()| ownership::check_writable(runtime_dir, 0o755))
                    .map_err(|reason| SocketError::RuntimeDir { path: runtime_dir.to_owned(), reason })?;
                // Every user may connect. Grants decide what a peer may do, and roles what an
                // administrator may do.
                bind(path, 0o666).map(|(listener, file)| (listener, Some(file)))?
            }
            Location::Extra(text) => match text.strip_prefix('@') {
                Some(name) => (bind_abstract(text, name)?, None),
                None => bind_extra(Path::new(text)).map(|(listener, file)| (listener, Some(file)))?,
            },
        };
        self.set(listener, file)
    }

    /// Takes the socket that the daemon bound here before its upgrade, or binds a new one.
    ///
    /// # Errors
    /// See [`Self::bind`].
    pub(super) fn inherit_or_bind(
        &mut self,
        inherited: &mut Vec<Inherited>,
        runtime_dir: &Path,
    ) -> Result<Opened, SocketError> {
        let location = one_line(&self.location.to_string());
        match inherited.iter().position(|socket| socket.location == location) {
            Some(index) => {
                let Inherited { listener, file, .. } = inherited.swap_remove(index);
                self.set(listener, file)
            }
            None => self.bind(runtime_dir),
        }
    }

    /// Sets the socket, and ends the accept loop of the one before.
    ///
    /// # Errors
    /// [`SocketError::Passed`] if no descriptor is left for a clone.
    pub(super) fn set(
        &mut self,
        listener: UnixListener,
        file: Option<FileId>,
    ) -> Result<Opened, SocketError> {
        let replaced = CancellationToken::new();
        let clone = listener.try_clone().map_err(SocketError::Passed)?;
        let bound = Bound { listener: clone, file, replaced: replaced.clone() };
        if let Some(old) = self.bound.replace(bound) {
            old.replaced.cancel();
        }
        Ok(Opened { listener: listener.into(), role: self.role, replaced })
    }

    /// True if clients cannot reach the socket by its location any more.
    pub(super) fn is_lost(&self) -> bool {
        let Some(bound) = &self.bound else { return true };
        match (&self.location, bound.file) {
            // Only a missing file is lost. Another error may concern this user alone.
            (Location::Systemd(path), _) => path.as_deref().is_some_and(|path| {
                let found = fs::symlink_metadata(path);
                found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            }),
            (Location::Runtime(path), file) => file_id(path) != file,
            (Location::Extra(text), Some(file)) => file_id(Path::new(text)) != Some(file),
            // An abstract name cannot be removed.
            (Location::Extra(_), None) => false,
        }
    }

    /// Returns the socket for the program that replaces this one.
    pub(super) fn hand_over(self) -> Option<HandedOver> {
        let bound = self.bound?;
        let bound_at = match &self.location {
            Location::Systemd(_) => None,
            location => Some((location.to_string(), bound.file)),
        };
        Some(HandedOver::new(bound.listener, self.role, bound_at))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Systemd(path) => write!(f, "{}", path.as_deref().unwrap_or(Path::new("@")).display()),
            Self::Runtime(path) => write!(f, "{}", path.display()),
            Self::Extra(text) => f.write_str(text),
        }
    }
}

fn file_id(path: &Path) -> Option<FileId> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}
