use core::fmt;

use crate::message::sign;

/// Input of a signature: a whole message, or the digest of a message.
///
/// `Debug` shows lengths only, so no digest gets into a log.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub enum Input<'a> {
    /// The whole message, unhashed. Messages longer than
    /// [`MAX_WHOLE_MESSAGE`](crate::frame::MAX_WHOLE_MESSAGE) are sent as a digest.
    Message(&'a [u8]),
    /// The digest of a message, made with the hash of the scheme.
    Digest(&'a [u8]),
}

impl From<Input<'_>> for sign::Input {
    fn from(input: Input<'_>) -> Self {
        match input {
            Input::Message(message) => Self::Message(message.to_vec()),
            Input::Digest(digest) => Self::Digest(digest.to_vec()),
        }
    }
}

impl<'a> From<&'a sign::Input> for Input<'a> {
    fn from(input: &'a sign::Input) -> Self {
        match input {
            sign::Input::Message(message) => Self::Message(message),
            sign::Input::Digest(digest) => Self::Digest(digest),
        }
    }
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(message) => write!(f, "Message({} bytes)", message.len()),
            Self::Digest(digest) => write!(f, "Digest({} bytes)", digest.len()),
        }
    }
}
