//! Role of a socket.

/// Users of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Peers,
    Administrators,
}
