//! The sending half of a session: answers in, bytes out.

use core::time::Duration;

use keyward_proto::frame;
use keyward_proto::message::{Response, response};
use tokio_util::sync::CancellationToken;
use zeroize::{Zeroize, Zeroizing};

use crate::peers::session_end::SessionEnd;
use crate::peers::stream::Stream;

/// Answers of one connection that are not sent yet.
pub(super) struct Outgoing {
    /// Encoded answers. Wiped if the session ends before they are sent.
    bytes: Zeroizing<Vec<u8>>,
    /// True if `bytes` holds a premaster secret, or has held one since the last complete send.
    has_secret: bool,
    /// Buffer in which one answer is encoded.
    frame: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            bytes: Zeroizing::new(Vec::with_capacity(FIRST_CAPACITY)),
            has_secret: false,
            frame: Vec::new(),
        }
    }

    /// True if the answers are to be sent before the next one is made.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= MAX_BYTES
    }

    /// Appends an answer.
    pub(super) fn push(&mut self, mut response: Response) {
        if frame::encode_into(&response, &mut self.frame).is_ok() {
            // A `Vec` that grows by itself leaves a copy of the secret in freed memory.
            if self.has_secret && self.bytes.capacity() - self.bytes.len() < self.frame.len() {
                let mut larger = Zeroizing::new(Vec::with_capacity(self.bytes.len() + self.frame.len()));
                larger.extend_from_slice(&self.bytes);
                // The assignment wipes the old buffer.
                self.bytes = larger;
            }
            self.bytes.extend_from_slice(&self.frame);
        }
        if let Some(response::Body::Plaintext(secret)) = &mut response.body {
            secret.plaintext.zeroize();
            self.frame.zeroize();
            self.has_secret = true;
        }
    }

    /// Sends all answers. Waits while the socket is full: at most `patience`, and at most
    /// [`PATIENCE_AT_CLOSE`] after `close` is cancelled. Returns `true` if it has waited.
    ///
    /// # Errors
    /// The peer has not read its answers in this time, or the connection failed.
    pub(super) async fn send(
        &mut self,
        stream: &Stream,
        patience: impl FnOnce() -> Duration,
        close: &CancellationToken,
    ) -> Result<bool, SessionEnd> {
        // The socket nearly always takes all bytes at once, without a timer.
        self.try_send(stream)?;
        if self.bytes.is_empty() {
            return Ok(false);
        }
        let patience = patience();
        let patience_at_close = patience.min(PATIENCE_AT_CLOSE);
        let timeout = async {
            tokio::select! {
                () = tokio::time::sleep(patience) => patience,
                () = async {
                    close.cancelled().await;
                    tokio::time::sleep(patience_at_close).await;
                } => patience_at_close,
            }
        };
        tokio::select! {
            biased;
            sent = stream.write_all(&self.bytes) => sent?,
            patience = timeout => return Err(SessionEnd::UnreadAnswers(patience)),
        }
        self.clear();
        Ok(true)
    }

    /// Sends as many bytes as the socket takes at once.
    pub(super) fn try_send(&mut self, stream: &Stream) -> Result<(), SessionEnd> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let sent = stream.try_write(&self.bytes)?;
        if sent == self.bytes.len() {
            self.clear();
        } else {
            self.bytes.drain(..sent);
        }
        Ok(())
    }

    fn clear(&mut self) {
        if core::mem::take(&mut self.has_secret) {
            self.bytes.zeroize();
        }
        self.bytes.clear();
        self.bytes.shrink_to(MAX_IDLE_CAPACITY);
    }
}

/// First size of the buffer in bytes.
const FIRST_CAPACITY: usize = 1024;

/// Largest buffer that is kept while it is empty, in bytes.
const MAX_IDLE_CAPACITY: usize = 4096;

/// Size at which answers are sent before the next one is made, in bytes (16 KiB).
const MAX_BYTES: usize = 16 * 1024;

/// Longest wait for a peer to read its answers on a connection that is to be closed.
const PATIENCE_AT_CLOSE: Duration = Duration::from_millis(250);
