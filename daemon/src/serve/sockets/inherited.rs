//! Sockets that this process got from its predecessor: from systemd, or from the daemon before an
//! upgrade. sd_listen_fds(3) describes the environment variables.

use std::env;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use keyward_client::Address;
use listenfd::ListenFd;
use rustix::fs::{AtFlags, FileType, Stat};

use super::bind::open_directory;
use super::error::SocketError;
use super::private_directory::FileId;
use super::role::Role;
use crate::admin;
use crate::peers;

/// Sockets that were passed to this process.
pub(crate) struct PassedSockets {
    /// Unix sockets.
    pub(super) unix: Vec<PassedSocket>,
    /// TCP sockets for metrics, and the location of a socket that the daemon bound before its
    /// upgrade.
    pub(super) metrics: Vec<(TcpListener, Option<String>)>,
}

/// Unix socket that was passed to this process.
pub(super) struct PassedSocket {
    pub(super) listener: UnixListener,
    pub(super) role: Role,
    /// Location of a socket that the daemon bound before its upgrade; `None` for a socket of
    /// systemd.
    pub(super) bound_at: Option<(String, Option<FileId>)>,
}

/// Returns the passed sockets. A socket with the name `admin` is for administrators, and one with
/// the name `metrics` is a TCP socket for metrics. A second call returns nothing.
///
/// # Errors
/// [`SocketError::Passed`] if a descriptor cannot be used.
pub(crate) fn passed() -> Result<PassedSockets, SocketError> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<_> = names.split(':').collect();
    let locations = env::var(LISTEN_PLACES).unwrap_or_default();
    let locations: Vec<_> = locations.split('\n').collect();
    let mut descriptors = ListenFd::from_env();
    let mut passed = PassedSockets { unix: Vec::new(), metrics: Vec::new() };
    for index in 0..descriptors.len() {
        let bound_at = locations.get(index).and_then(|line| parse_location(line));
        if names.get(index) == Some(&Role::Metrics.name()) {
            let listener = descriptors.take_tcp_listener(index).map_err(SocketError::Passed)?;
            let location = bound_at.map(|(location, _)| location);
            passed.metrics.extend(listener.map(|listener| (listener, location)));
            continue;
        }
        let listener = descriptors.take_unix_listener(index).map_err(SocketError::Passed)?;
        let Some(listener) = listener else { continue };
        let role = match names.get(index) {
            Some(name) if *name == Role::Administrators.name() => Role::Administrators,
            _ => Role::Peers,
        };
        passed.unix.push(PassedSocket { listener, role, bound_at });
    }
    Ok(passed)
}

/// Removes the files of sockets that the daemon bound before its upgrade, and that are not
/// configured any more. After the confinement of this process, only configured directories can be
/// changed.
pub(crate) fn remove_others(runtime_dir: &Path, extra: &[Address]) {
    let own = [peers::SOCKET, admin::SOCKET].map(|name| runtime_dir.join(name).display().to_string());
    let configured: Vec<_> = extra.iter().map(ToString::to_string).chain(own).collect();
    let locations = env::var(LISTEN_PLACES).unwrap_or_default();
    for (location, file) in locations.split('\n').filter_map(parse_location) {
        if let Some(file) = file.filter(|_| configured.iter().all(|other| one_line(other) != location)) {
            remove(&location, file);
        }
    }
}

/// True if this process continues the work of a daemon that has upgraded itself.
pub(super) fn is_upgrade() -> bool {
    env::var_os(LISTEN_PLACES).is_some()
}

/// Socket for the program that replaces this one.
#[derive(Debug)]
pub struct HandedOver {
    pub(crate) listener: OwnedFd,
    pub(crate) role: Role,
    /// Location of a socket that the daemon bound, in one line; empty for a socket of systemd.
    pub(crate) bound_at: String,
}

impl HandedOver {
    /// Socket that the daemon bound at `location`, or a socket of systemd if there is no location.
    pub(super) fn new(
        listener: impl Into<OwnedFd>,
        role: Role,
        bound_at: Option<(String, Option<FileId>)>,
    ) -> Self {
        let bound_at = bound_at.map(|(location, file)| format_location(&location, file));
        Self { listener: listener.into(), role, bound_at: bound_at.unwrap_or_default() }
    }
}

/// Socket that the daemon bound before its upgrade.
pub(super) struct Inherited {
    pub(super) listener: UnixListener,
    pub(super) location: String,
    /// File of the socket. The name may lead to another file by now.
    pub(super) file: Option<FileId>,
}

/// Removes the file of a socket, unless the name leads to another file by now.
fn remove(location: &str, file: FileId) {
    let path = Path::new(location);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    // By descriptor: the owner of the directory could exchange it for a link meanwhile.
    let Ok(parent) = open_directory(parent) else { return };
    let found = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW);
    // The place comes from the daemon before, which must not choose any other file.
    let is_socket = |found: &Stat| FileType::from_raw_mode(found.st_mode) == FileType::Socket;
    if found.is_ok_and(|found| is_socket(&found) && (found.st_dev, found.st_ino) == file) {
        let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
    }
}

/// Returns a location on one line: a runtime directory may have line breaks in its name.
pub(super) fn one_line(location: &str) -> String {
    location.replace('\n', " ")
}

/// Formats a location as a line: device and inode of the file, zeros without a file, and the path.
fn format_location(location: &str, file: Option<FileId>) -> String {
    let (device, inode) = file.unwrap_or_default();
    format!("{device} {inode} {}", one_line(location))
}

/// Parses the output of [`format_location`].
fn parse_location(line: &str) -> Option<(String, Option<FileId>)> {
    let mut parts = line.splitn(3, ' ');
    let file = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((parts.next()?.to_owned(), Some(file).filter(|file| *file != FileId::default())))
}

/// Environment variable with the location of each passed socket, one a line. The line of a socket
/// that the daemon did not bind is empty.
pub(crate) const LISTEN_PLACES: &str = "KEYWARD_LISTEN_PLACES";
