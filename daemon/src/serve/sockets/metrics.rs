//! TCP sockets for metrics, at loopback addresses alone: the page has no password.
//!
//! The confined daemon makes no network sockets. So the sockets are opened before the confinement,
//! and a socket that is not there then needs a restart.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio_util::sync::CancellationToken;

use super::endpoint::Opened;
use super::error::SocketError;
use super::inherited::{HandedOver, PassedSockets};
use super::role::Role;
use crate::peers::listener::BACKLOG;

/// TCP sockets for metrics.
#[derive(Default)]
pub(crate) struct MetricsSockets {
    sockets: Vec<MetricsSocket>,
    /// Reason why the address of the configuration has no socket.
    problem: Option<String>,
}

struct MetricsSocket {
    listener: TcpListener,
    /// Address of the configuration that the daemon has bound; `None` for a socket of systemd.
    bound_at: Option<SocketAddr>,
}

impl MetricsSockets {
    /// Takes the passed sockets, and binds the address of the configuration if no passed socket
    /// has the address. A socket that cannot be opened is an error in the log: every user can take
    /// a port, and must not stop the daemon by that.
    pub(crate) fn open(passed: &mut PassedSockets, configured: Option<SocketAddr>) -> Self {
        let mut metrics = Self::default();
        for (listener, location) in passed.metrics.drain(..) {
            let result = match location {
                None => metrics.take_from_systemd(listener),
                // An address that is not configured any more is closed.
                Some(location) if configured.is_none_or(|address| address.to_string() != location) => Ok(()),
                Some(_) => {
                    metrics.sockets.push(MetricsSocket { listener, bound_at: configured });
                    Ok(())
                }
            };
            if let Err(error) = result {
                tracing::error!("{error}");
            }
        }
        let is_open = |address| {
            metrics.sockets.iter().any(|one| one.listener.local_addr().is_ok_and(|at| at == address))
        };
        if let Some(address) = configured.filter(|address| !is_open(*address)) {
            match bind(address) {
                Ok(listener) => metrics.sockets.push(MetricsSocket { listener, bound_at: configured }),
                Err(reason) => {
                    let error = SocketError::Metrics { address, reason }.to_string();
                    tracing::error!("{error}; the other sockets are served");
                    metrics.problem = Some(error);
                }
            }
        }
        metrics
    }

    fn take_from_systemd(&mut self, listener: TcpListener) -> Result<(), SocketError> {
        let address = listener.local_addr().map_err(SocketError::Passed)?;
        if !address.ip().is_loopback() {
            return Err(SocketError::MetricsExposed(address));
        }
        self.sockets.push(MetricsSocket { listener, bound_at: None });
        Ok(())
    }

    /// Returns a clone of each socket, for the accept loops.
    ///
    /// # Errors
    /// [`SocketError::Passed`] if no descriptor is left for a clone.
    pub(super) fn opened(&self) -> Result<Vec<Opened>, SocketError> {
        let open = |socket: &MetricsSocket| {
            let listener = socket.listener.try_clone().map_err(SocketError::Passed)?.into();
            Ok(Opened { listener, role: Role::Metrics, replaced: CancellationToken::new() })
        };
        self.sockets.iter().map(open).collect()
    }

    /// Reason why the address of the configuration has no socket.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Returns the sockets for the program that replaces this one.
    pub(super) fn hand_over(self) -> impl Iterator<Item = HandedOver> {
        self.sockets.into_iter().map(|MetricsSocket { listener, bound_at }| {
            HandedOver::new(listener, Role::Metrics, bound_at.map(|address| (address.to_string(), None)))
        })
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // A long backlog would let any user make the collector wait.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
