use core::time::Duration;
use std::io;

use keyward_proto::Outcome;
use thiserror::Error;

use crate::Address;

/// Reason why a request has no answer, or was refused.
///
/// [`Error::Refused`] is the decision of a healthy daemon: the same request is refused again until
/// an administrator changes something, unless [`Outcome`] says that the daemon or its crypto unit
/// was overloaded or late. The other errors mean that no answer came; the next request tries again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer in time: the daemon or its crypto unit is slow or stuck. The value is the time
    /// that was allowed.
    #[error("no answer from the keyward daemon within {0:?}")]
    DeadlineExceeded(Duration),
    /// The daemon's frame is not an answer to this request: client and daemon are of incompatible
    /// versions.
    #[error("the keyward daemon answered something else than what was asked")]
    Garbled,
    /// The connection broke twice: the daemon was stopped, or closes connections because it has too
    /// many.
    #[error("the keyward daemon at {0} closed the connection; see its log")]
    Lost(Address),
    /// The daemon refused; see [`Outcome::reason`].
    #[error("{}", .0.reason())]
    Refused(Outcome),
    /// The caller's request does not fit a frame.
    #[error("the request is longer than the {limit} bytes that the keyward daemon accepts")]
    TooLong {
        /// Largest body of a frame, in bytes.
        limit: usize,
    },
    /// The daemon is not running, or the socket is out of reach for this process.
    #[error(
        "cannot reach the keyward daemon at {address}: {}; is it running, and may this user go there?",
        text(source)
    )]
    Unreachable {
        /// Address of the socket.
        address: Address,
        /// Error of the system.
        source: io::Error,
    },
}

/// The system's text for an error, without the number that std appends.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_lowercase())
}
