//! Sockets of the daemon. systemd passes them, or the daemon binds them.

mod bind;
mod endpoint;
mod error;
mod inherited;
mod metrics;
mod private_directory;
mod role;

use std::path::{Path, PathBuf};

use keyward_client::Address;

use crate::admin;
use crate::ground::confinement;
use crate::peers;

pub(crate) use bind::check_extra;
pub(crate) use endpoint::Opened;
use endpoint::{Endpoint, Location};
pub(crate) use error::SocketError;
pub(crate) use inherited::{HandedOver, LISTEN_PLACES, PassedSockets, passed, remove_others};
use inherited::{Inherited, PassedSocket};
pub(crate) use metrics::MetricsSockets;
pub(crate) use role::Role;

/// Endpoints at which the daemon listens. The accept loops own the listeners.
pub(crate) struct Sockets {
    runtime_dir: PathBuf,
    endpoints: Vec<Endpoint>,
    metrics: MetricsSockets,
}

impl Sockets {
    /// Takes the sockets that were passed to this process. Binds the missing ones and the extra
    /// ones.
    ///
    /// # Errors
    /// [`SocketError`] names the socket and the reason.
    pub(crate) fn open(
        runtime_dir: &Path,
        extra: &[Address],
        passed: PassedSockets,
        metrics: MetricsSockets,
    ) -> Result<(Self, Vec<Opened>), SocketError> {
        let (mut opened, mut endpoints) = (metrics.opened()?, Vec::new());
        let mut inherited = Vec::new();
        for PassedSocket { listener, role, bound_at } in passed.unix {
            if let Some((location, file)) = bound_at {
                inherited.push(Inherited { listener, location, file });
                continue;
            }
            let path = listener.local_addr().ok().and_then(|at| at.as_pathname().map(Into::into));
            let mut endpoint = Endpoint::new(role, Location::Systemd(path));
            opened.push(endpoint.set(listener, None)?);
            endpoints.push(endpoint);
        }
        for (role, name) in [(Role::Peers, peers::SOCKET), (Role::Administrators, admin::SOCKET)] {
            if opened.iter().any(|passed: &Opened| passed.role == role) {
                continue;
            }
            let mut endpoint = Endpoint::new(role, Location::Runtime(runtime_dir.join(name)));
            opened.push(endpoint.inherit_or_bind(&mut inherited, runtime_dir)?);
            endpoints.push(endpoint);
        }
        for address in extra {
            let mut endpoint = Endpoint::new(Role::Peers, Location::Extra(address.to_string()));
            match endpoint.inherit_or_bind(&mut inherited, runtime_dir) {
                Ok(extra) => opened.push(extra),
                Err(error @ SocketError::Exposed { .. }) if !inherited::is_upgrade() => return Err(error),
                // Not fatal: the owner of the directory can block the name, and must not stop the
                // daemon by that. After an upgrade, a lost socket must not end the others.
                Err(error) => tracing::error!("{error}; the other sockets are served"),
            }
            endpoints.push(endpoint);
        }
        Ok((Self { runtime_dir: runtime_dir.to_owned(), endpoints, metrics }, opened))
    }

    /// Binds the socket for administrators, and none for peers.
    ///
    /// # Errors
    /// [`SocketError`] names the socket and the reason.
    pub(crate) fn open_for_administrators(
        runtime_dir: &Path,
        metrics: MetricsSockets,
    ) -> Result<(Self, Vec<Opened>), SocketError> {
        let location = Location::Runtime(runtime_dir.join(admin::SOCKET));
        let mut endpoint = Endpoint::new(Role::Administrators, location);
        let mut opened = metrics.opened()?;
        opened.push(endpoint.bind(runtime_dir)?);
        Ok((Self { runtime_dir: runtime_dir.to_owned(), endpoints: vec![endpoint], metrics }, opened))
    }

    /// Binds sockets again whose files are gone, as after a clean-up of the directory. Binds
    /// sockets that could not be bound before.
    pub(crate) fn reopen(&mut self) -> Vec<Opened> {
        let mut opened = Vec::new();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.is_lost()) {
            if let Location::Systemd(Some(path)) = &endpoint.location {
                tracing::error!(
                    "the socket {} is gone, and only systemd, which passed it, can make it again: systemctl restart keyward.socket keyward-admin.socket keyward.service",
                    path.display()
                );
                continue;
            }
            match endpoint.bind(&self.runtime_dir) {
                Ok(again) => {
                    tracing::info!(socket = %endpoint.location, "bound again");
                    opened.push(again);
                }
                Err(error) => {
                    let advice = confinement::advice_for_new_directory();
                    tracing::error!("{error}; the other sockets are served{advice}");
                }
            }
        }
        opened
    }

    /// Problems of sockets whose files are gone, and of an address that could not be bound.
    pub(crate) fn lost(&self) -> impl Iterator<Item = String> {
        let lost = self.endpoints.iter().filter(|endpoint| endpoint.is_lost());
        let lost = lost.map(|endpoint| {
            format!(
                "nobody can connect to {}, because its file is gone; see the log of the daemon",
                endpoint.location
            )
        });
        lost.chain(self.metrics.problem())
    }

    /// Returns all sockets, for the program that replaces this one.
    pub(crate) fn hand_over(self) -> Vec<HandedOver> {
        let unix = self.endpoints.into_iter().filter_map(Endpoint::hand_over);
        unix.chain(self.metrics.hand_over()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Sockets of a daemon to which no socket was passed.
    fn open(runtime_dir: &Path) -> (Sockets, Vec<Opened>) {
        let passed = PassedSockets { unix: Vec::new(), metrics: Vec::new() };
        Sockets::open(runtime_dir, &[], passed, MetricsSockets::default()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn sockets_have_their_permissions_and_leave_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let runtime_dir = dir.path().join("a/run");
        let (mut sockets, opened) = open(&runtime_dir);
        assert_eq!(mode(&runtime_dir), 0o755);
        assert_eq!(mode(&runtime_dir.join(peers::SOCKET)), 0o666);
        assert_eq!(mode(&runtime_dir.join(admin::SOCKET)), 0o666);
        assert_eq!(fs::read_dir(&runtime_dir).unwrap().count(), 2);
        assert!(sockets.reopen().is_empty() && opened.iter().all(|socket| !socket.replaced.is_cancelled()));
    }

    #[test]
    fn a_socket_that_replaces_a_lost_one_has_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let (mut sockets, opened) = open(dir.path());
        let path = dir.path().join(admin::SOCKET);
        fs::remove_file(&path).unwrap();
        let again = sockets.reopen();
        assert_eq!(again.iter().map(|socket| socket.role).collect::<Vec<_>>(), [Role::Administrators]);
        assert_eq!(mode(&path), 0o666);
        let replaced: Vec<_> = opened.iter().map(|socket| socket.replaced.is_cancelled()).collect();
        assert_eq!(replaced, [false, true]);
        // Another process has bound the path.
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        assert!(sockets.reopen().is_empty() && !again[0].replaced.is_cancelled());
        fs::remove_file(&path).unwrap();
        assert_eq!(sockets.reopen().len(), 1);
    }
}
