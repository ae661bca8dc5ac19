//! Error of a socket.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::io::Errno;
use thiserror::Error;

use crate::ground::ownership::{Name, OwnershipError};
use crate::ground::text::quoted;

/// Reason why the daemon cannot listen on a socket.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    #[error("cannot listen on {}: {reason}", path.display())]
    Bind { path: PathBuf, reason: io::Error },
    #[error(
        "cannot listen on {}: there is a socket of {}; if no daemon of that user runs, as root, run: rm {}",
        path.display(), Name(*uid), quoted(path)
    )]
    Foreign { path: PathBuf, uid: u32 },
    #[error("cannot listen on {}: another daemon answers there", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: {reason}", path.display())]
    Exposed { path: PathBuf, reason: OwnershipError },
    #[error("cannot listen on {}: there is a file that is not a socket; remove it", .0.display())]
    NotASocket(PathBuf),
    #[error("cannot listen on {address} for metrics: {reason}{}", advice(reason, *address))]
    Metrics { address: SocketAddr, reason: io::Error },
    #[error(
        "cannot serve metrics on {0}, which was passed in LISTEN_FDS: the address is not a loopback address; put ListenStream=127.0.0.1:9463 into keyward-metrics.socket"
    )]
    MetricsExposed(SocketAddr),
    #[error("cannot use a socket that was passed in LISTEN_FDS: {0}")]
    Passed(io::Error),
    #[error("cannot use the runtime directory {}: {reason}", path.display())]
    RuntimeDir { path: PathBuf, reason: OwnershipError },
}

/// The remedy for an address that the daemon cannot bind.
fn advice(reason: &io::Error, address: SocketAddr) -> String {
    match reason.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; find the program with ss -ltnp 'sport = :{}', end the program or choose another port, and restart the daemon",
            address.port()
        ),
        // RestrictAddressFamilies= of systemd.exec(5), or a kernel without IPv6.
        _ if reason.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
            "; with systemd, take listen out of the section [metrics], and run: systemctl enable keyward-metrics.socket && systemctl restart keyward-metrics.socket keyward.service".to_owned()
        }
        _ => "; change listen in the section [metrics], and restart the daemon".to_owned(),
    }
}
