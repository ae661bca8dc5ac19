//! Accept loops of the sockets.

use std::io;
use std::os::unix::net;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::sockets::{Opened, Role};
use crate::admin;
use crate::peers::listener;
use crate::peers::shared::Shared;

/// Tasks of the accept loops and connections.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) peers: TaskTracker,
    pub(super) administrators: TaskTracker,
}

/// Starts an accept loop for each socket. A loop ends when `stop` is cancelled, or another socket
/// replaces its socket.
///
/// # Errors
/// The error of the system for a socket.
pub(super) fn accept(
    peers: &Arc<Shared>,
    opened: Vec<Opened>,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> io::Result<()> {
    for Opened { listener, role, replaced } in opened {
        rustix::io::ioctl_fionbio(&listener, true)?;
        let (peers, stop) = (Arc::clone(peers), stop.clone());
        match role {
            Role::Peers => {
                let listener = net::UnixListener::from(listener);
                let accept = listener::accept(peers, listener, tasks.peers.clone(), stop, replaced)?;
                tasks.peers.spawn(accept);
            }
            Role::Administrators => {
                let listener = UnixListener::from_std(listener.into())?;
                let ended = async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = replaced.cancelled() => {}
                    }
                };
                tasks.administrators.spawn(admin::serve(peers, listener, ended));
            }
            Role::Metrics => {
                let listener = TcpListener::from_std(listener.into())?;
                let serve = admin::serve_metrics(peers, listener, stop.cancelled_owned());
                tasks.administrators.spawn(serve);
            }
        }
    }
    Ok(())
}
