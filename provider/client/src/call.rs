use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use keyward_proto::message::{Request, Response, request, response};
use keyward_proto::{Outcome, frame};
use zeroize::Zeroize;

use crate::connection::{Broken, Connection};
use crate::pool::Owner;
use crate::{Client, Error, system};

/// A request that was sent and has no answer yet.
///
/// Who can wait in a way of their own watches [`Call::descriptor`] and asks [`Client::answer`] whenever there is something
/// to read; everybody else calls [`Client::wait`]. Dropping a call gives it up, and closes its connection: an answer that
/// is still to come reaches nobody.
#[derive(Debug)]
pub struct Call {
    id: u64,
    frame: Vec<u8>,
    owner: Owner,
    processor: u32,
    deadline: Instant,
    /// `None` once it is answered or broken.
    connection: Option<Connection>,
    received: Vec<u8>,
    /// Whether it was sent a second time, since the first connection turned out to be dead.
    repeated: bool,
}

impl Call {
    /// The descriptor that becomes readable when there may be an answer. Another one after [`Client::answer`] had to connect
    /// anew; `None` after the end.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    /// When the caller stops to wait.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Client {
    /// Sends a request, on a kept connection if there is one.
    pub(crate) fn send(&self, body: request::Body) -> Result<Call, Error> {
        self.send_for(body, self.timeout, Instant::now() + self.timeout)
    }

    /// As [`Client::send`], for the daemon to answer within `time`, and for the caller to wait until `deadline`.
    pub(crate) fn send_for(
        &self,
        body: request::Body,
        time: Duration,
        deadline: Instant,
    ) -> Result<Call, Error> {
        let id = self.next_id();
        let deadline_ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let processor = system::processor();
        let request = Request { id, deadline_ms, body: Some(body), processor: Some(processor) };
        let frame = frame::encode(&request).map_err(|_| Error::TooLong { limit: frame::MAX_BODY })?;
        let owner = Owner::current();
        let mut call = Call {
            id,
            frame,
            owner,
            processor,
            deadline,
            connection: None,
            received: Vec::new(),
            repeated: false,
        };
        let mut connection = match self.pool.take(owner, processor) {
            Some(kept) => kept,
            None => self.connect(deadline)?,
        };
        match connection.send(&call.frame, self.timeout, deadline) {
            Ok(()) => call.connection = Some(connection),
            Err(Broken::Lost) => self.send_again(&mut call)?,
            Err(broken) => return Err(self.broken(broken)),
        }
        Ok(call)
    }

    /// The answer to a call if it has arrived, without waiting for it; `None` if not yet. Not to be asked again after an
    /// end, good or bad.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn answer(&self, call: &mut Call) -> Result<Option<response::Body>, Error> {
        if call.owner != Owner::current() {
            // A child took the call along in a fork: the connection, and the answer, are its parent's. Whatever it was to
            // be woken by was shared, too, so it may be late for that.
            call.deadline = Instant::now() + self.timeout;
            self.send_again(call)?;
        }
        self.take(call)
    }

    /// As [`Client::answer`], where nobody can have forked since the call was sent.
    pub(crate) fn take(&self, call: &mut Call) -> Result<Option<response::Body>, Error> {
        let Some(connection) = &call.connection else { return Err(Error::Garbled) };
        match connection.receive(&mut call.received) {
            Ok(true) => {}
            Ok(false) if Instant::now() >= call.deadline => return Err(self.broken(Broken::Late)),
            Ok(false) => return Ok(None),
            Err(Broken::Lost) => return self.send_again(call).map(|()| None),
            Err(broken) => return Err(self.broken(broken)),
        }
        let answer = call.received.get(frame::HEADER..).and_then(|body| frame::decode(body).ok());
        let answer: Response = answer.ok_or(Error::Garbled)?;
        if let Some(response::Body::Plaintext(_)) = answer.body {
            call.received.zeroize();
        }
        if answer.id != call.id {
            return Err(Error::Garbled);
        }
        // Only one that has kept in step is worth keeping.
        if let Some(connection) = call.connection.take() {
            self.pool.put(call.owner, call.processor, connection);
        }
        match (answer.outcome(), answer.body) {
            (Outcome::Done, Some(body)) => Ok(Some(body)),
            (Outcome::Done, None) => Err(Error::Garbled),
            (outcome, _) => Err(Error::Refused(outcome)),
        }
    }

    /// Sleeps until there may be an answer to a call, until its deadline, or for so long at most.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn wait(&self, call: &Call, at_most: Duration) -> Result<(), Error> {
        let until = (Instant::now() + at_most).min(call.deadline);
        let connection = call.connection.as_ref().ok_or(Error::Garbled)?;
        connection.wait_for_answer(until).map_err(|broken| self.broken(broken))
    }

    /// Sends a request a second and last time, on a fresh connection: every request of the protocol may be repeated.
    fn send_again(&self, call: &mut Call) -> Result<(), Error> {
        if core::mem::replace(&mut call.repeated, true) {
            return Err(self.broken(Broken::Lost));
        }
        call.received.clear();
        call.owner = Owner::current();
        // Closed only when there is the other one, which so has another number: whoever watches it must notice.
        let _dead = call.connection.take();
        let mut connection = self.connect(call.deadline)?;
        connection.send(&call.frame, self.timeout, call.deadline).map_err(|broken| self.broken(broken))?;
        call.connection = Some(connection);
        Ok(())
    }

    fn connect(&self, deadline: Instant) -> Result<Connection, Error> {
        Connection::open(&self.address, self.timeout, deadline)
            .map_err(|reason| Error::Unreachable { address: self.address.to_string(), reason })
    }

    fn broken(&self, broken: Broken) -> Error {
        match broken {
            Broken::Late => Error::DeadlineExceeded(self.timeout),
            Broken::Lost => Error::Lost(self.address.to_string()),
            Broken::Garbled => Error::Garbled,
        }
    }
}
