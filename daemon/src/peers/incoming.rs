//! The receiving half of a session: bytes in, requests out.

use core::future::pending;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::frame;

use crate::peers::session_end::SessionEnd;
use crate::peers::shared::Shared;
use crate::peers::stream::Stream;
use crate::peers::turns::Turns;
use crate::peers::users::{Account, FramePermit, RequestPermit, TooManyRequests};

/// Bytes and requests that have arrived over one connection.
pub(super) struct Incoming<'a> {
    shared: &'a Shared,
    account: &'a Arc<Account>,
    turns: &'a Turns,
    /// Bytes that have been read and are not requests yet.
    bytes: Vec<u8>,
    /// Permit for the frame that is arriving, if the frame is longer than [`MAX_IDLE_CAPACITY`].
    frame_permit: Option<FramePermit>,
    /// Time by which the frame that has begun to arrive must be complete.
    frame_deadline: Option<Instant>,
    /// Requests that are not answered yet, in the order of their arrival.
    requests: VecDeque<IncomingRequest<'a>>,
    reading: Reading,
}

/// Request that has arrived. Decoded later, in a turn of the user, because some requests take long
/// to decode.
pub(super) struct IncomingRequest<'a> {
    /// Encoded [`keyward_proto::message::Request`].
    pub(super) body: Vec<u8>,
    pub(super) arrived: Instant,
    /// `None` if the request is to be refused as overloaded.
    pub(super) permit: Option<RequestPermit<'a>>,
    pub(super) frame_permit: Option<FramePermit>,
}

/// State of reading from the socket.
enum Reading {
    On,
    /// The session waits for a request permit before it reads on.
    Paused,
    /// The session reads nothing more, for this reason.
    Over(SessionEnd),
}

impl<'a> Incoming<'a> {
    pub(super) fn new(shared: &'a Shared, account: &'a Arc<Account>, turns: &'a Turns) -> Self {
        Self {
            shared,
            account,
            turns,
            bytes: Vec::with_capacity(FIRST_CAPACITY),
            frame_permit: None,
            frame_deadline: None,
            requests: VecDeque::new(),
            reading: Reading::On,
        }
    }

    /// True if a request waits for its answer.
    pub(super) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// True if the peer has sent something that is not answered, complete or not.
    pub(super) fn has_input(&self) -> bool {
        self.has_requests() || !self.bytes.is_empty()
    }

    /// True if no part of a frame has arrived, and the session reads on.
    pub(super) fn is_between_frames(&self) -> bool {
        self.bytes.is_empty() && matches!(self.reading, Reading::On)
    }

    /// True if nothing more is read.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.reading, Reading::Over(_))
    }

    /// Takes the reason why nothing more is read.
    pub(super) fn take_end(&mut self) -> Option<SessionEnd> {
        match self.reading {
            Reading::Over(_) => match core::mem::replace(&mut self.reading, Reading::On) {
                Reading::Over(end) => Some(end),
                Reading::On | Reading::Paused => None,
            },
            Reading::On | Reading::Paused => None,
        }
    }

    pub(super) fn frame_deadline(&self) -> Option<Instant> {
        self.frame_deadline
    }

    /// Gives the frame that has begun to arrive all of its time again, because the session has not
    /// read meanwhile.
    pub(super) fn restart_frame_deadline(&mut self, now: Instant) {
        if self.frame_deadline.is_some() {
            self.frame_deadline = Some(now + self.frame_time());
        }
    }

    /// Takes the next request.
    pub(super) fn pop(&mut self) -> Option<IncomingRequest<'a>> {
        self.requests.pop_front()
    }

    /// Waits for bytes, and cuts them into requests. Sets `now` to the time of the last step. No
    /// bytes are lost if the future is dropped.
    pub(super) async fn read(&mut self, stream: &Stream, now: &mut Instant) -> Result<(), SessionEnd> {
        match self.reading {
            // Further requests wait in the socket: the peer has enough requests in progress.
            Reading::On if self.requests.len() >= MAX_AHEAD => pending().await,
            Reading::On => {}
            Reading::Paused => {
                self.account.wait_for_request_permit().await;
                *now = Instant::now();
                self.cut(*now);
                return Ok(());
            }
            Reading::Over(_) => pending().await,
        }
        while !self.reserve() {
            // Freed memory wakes no session. The frame deadline ends the wait.
            tokio::time::sleep(MEMORY_RETRY).await;
        }
        let read = stream.read(&mut self.bytes).await?;
        if read == 0 {
            let is_whole = self.bytes.is_empty();
            self.reading = Reading::Over(if is_whole { SessionEnd::Closed } else { SessionEnd::Truncated });
        }
        *now = Instant::now();
        let before = self.requests.len();
        self.cut(*now);
        if self.requests.len() == before && matches!(self.reading, Reading::On) {
            self.wait_after_a_part().await;
        }
        Ok(())
    }

    /// Reads requests that the peer has sent before it could notice that the connection is to be
    /// closed. Does not wait for bytes, and stops at [`MAX_LAST`] requests: further requests come
    /// over a new connection.
    pub(super) fn read_last(&mut self, stream: &Stream, now: &mut Instant) -> Result<(), SessionEnd> {
        self.cut(*now);
        while self.requests.len() < MAX_LAST
            && self.reserve()
            && stream.try_read(&mut self.bytes)?.is_some_and(|read| read > 0)
        {
            *now = Instant::now();
            self.cut(*now);
        }
        Ok(())
    }

    /// Cuts the bytes that have been read into requests.
    pub(super) fn cut(&mut self, now: Instant) {
        if self.bytes.is_empty() {
            return;
        }
        if matches!(self.reading, Reading::Paused) {
            // Permits may be free by now. Otherwise the loop below pauses again.
            self.reading = Reading::On;
        }
        let (mut used, mut is_partial) = (0, false);
        while self.requests.len() < MAX_AHEAD {
            let (body, length) = match frame::split(self.bytes.get(used..).unwrap_or_default()) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    is_partial = used < self.bytes.len();
                    break;
                }
                Err(error) => {
                    self.reading = Reading::Over(error.into());
                    break;
                }
            };
            let permit = match self.account.request_permit() {
                Ok(permit) => Some(permit),
                Err(TooManyRequests::Refuse) => None,
                Err(TooManyRequests::LeaveUnread) => {
                    self.reading = Reading::Paused;
                    break;
                }
            };
            self.requests.push_back(IncomingRequest {
                body: body.to_vec(),
                arrived: now,
                permit,
                frame_permit: self.frame_permit.take(),
            });
            used += length;
        }
        self.bytes.drain(..used);
        if !is_partial {
            self.frame_deadline = None;
        } else if used > 0 || self.frame_deadline.is_none() {
            self.frame_deadline = Some(now + self.frame_time());
        }
    }

    /// Time in which a frame must arrive completely.
    fn frame_time(&self) -> Duration {
        self.shared.daemon.config().request_timeout
    }

    /// Waits for a turn after bytes that complete no frame. Without these turns, a peer that sends
    /// single bytes over many connections would have the thread to itself.
    async fn wait_after_a_part(&self) {
        let user = self.account.id_of_parts;
        let turn = match self.turns.try_turn(user) {
            Some(turn) => turn,
            None => self.turns.wait(user, PART).await,
        };
        self.turns.charge(user, turn, PART);
    }

    /// Reserves memory for the next bytes: a little at first, then as much as the frame has
    /// brought so far, and never more than the frame has announced. Returns `false` if long frames
    /// take all memory that they may take.
    fn reserve(&mut self) -> bool {
        if self.bytes.is_empty() {
            if self.bytes.capacity() > MAX_IDLE_CAPACITY {
                self.bytes = Vec::with_capacity(FIRST_CAPACITY);
            }
            return true;
        }
        // `cut` has refused lengths above the limit.
        let announced = match self.bytes.first_chunk() {
            Some(header) => frame::HEADER + frame::body_length(*header).unwrap_or(0),
            None => frame::HEADER,
        };
        let missing = announced.saturating_sub(self.bytes.len());
        if missing > 0 && self.bytes.capacity() == self.bytes.len() {
            if announced > MAX_IDLE_CAPACITY && self.frame_permit.is_none() {
                self.frame_permit = self.account.frame_permit(announced);
                if self.frame_permit.is_none() {
                    return false;
                }
            }
            self.bytes.reserve_exact(missing.min(self.bytes.len().max(FIRST_CAPACITY)));
        }
        true
    }
}

/// First size of the buffer in bytes. A request for a signature has 150 to 400 bytes.
const FIRST_CAPACITY: usize = 1024;

/// Largest buffer that is kept while it is empty, in bytes. A longer frame is a long frame and
/// needs a permit.
const MAX_IDLE_CAPACITY: usize = 4096;

/// Maximum number of requests of one connection that are read before the first of these requests is
/// answered.
const MAX_AHEAD: usize = 512;

/// Number of requests at which reading stops on a connection that is to be closed.
const MAX_LAST: usize = 32;

/// Time that a user is charged for bytes that complete no frame.
const PART: Duration = Duration::from_micros(10);

/// Time between two attempts to get memory for a long frame.
const MEMORY_RETRY: Duration = Duration::from_millis(20);
