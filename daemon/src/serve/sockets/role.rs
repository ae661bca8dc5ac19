//! Role of a socket.

/// Users of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Peers,
    Administrators,
    /// Collectors of metrics, over TCP.
    Metrics,
}

impl Role {
    /// Name of the socket for sd_listen_fds_with_names(3).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Administrators => "admin",
            Self::Metrics => "metrics",
        }
    }
}
