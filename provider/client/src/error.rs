use core::time::Duration;

use keyward_proto::Outcome;
use thiserror::Error;

/// Why a request got no answer, or not the one that was hoped for.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer in time: the daemon or its crypto unit is slow or stuck.
    #[error("no answer from the keyward daemon within {0:?}")]
    DeadlineExceeded(Duration),
    /// The daemon answered something that is not an answer: client and daemon do not fit together.
    #[error("the keyward daemon answered something else than what was asked")]
    Garbled,
    /// The connection broke twice: the daemon was stopped, or closes connections because it has too many.
    #[error("the keyward daemon at {0} closed the connection; see its log")]
    Lost(String),
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
    #[error("cannot reach the keyward daemon at {address}: {}; is it running, and may this user go there?", text(*reason))]
    Unreachable {
        /// Where it was expected.
        address: String,
        /// What the system said.
        reason: rustix::io::Errno,
    },
}

/// The system's words for an error, without the number that std and rustix append.
fn text(reason: rustix::io::Errno) -> String {
    let text = std::io::Error::from(reason).to_string();
    text.split_once(" (os error").map_or(text.clone(), |(words, _)| words.to_lowercase())
}
