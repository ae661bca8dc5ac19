use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::message::{Request, Response, request, response};
use keyward_proto::{Outcome, frame};
use zeroize::Zeroize;

use crate::answer::Answer;
use crate::client::Shared;
use crate::connection::{Broken, Connection, may_wait};
use crate::pool::Owner;
use crate::{Error, system};

/// A request that was sent and has no answer yet. `T` is the type of the answer.
///
/// [`Call::finish`] waits for the answer. A program that waits in its own way watches
/// [`Call::descriptor`] and polls whenever the descriptor is readable:
///
/// ```no_run
/// use keyward_client::{Call, Error, Progress, Signature};
///
/// fn signature(
///     mut call: Call<Signature>,
///     wait_until_readable: impl Fn(std::os::fd::BorrowedFd<'_>),
/// ) -> Result<Signature, Error> {
///     loop {
///         wait_until_readable(call.descriptor());
///         match call.poll()? {
///             Progress::Ready(signature) => return Ok(signature),
///             Progress::Pending(pending) => call = pending,
///         }
///     }
/// }
/// ```
///
/// A request gives a call with its own kind of answer, and no other:
///
/// ```compile_fail
/// use keyward_client::{Call, Client, Error, Input, Premaster, Reference, Scheme};
///
/// fn mixed(client: &Client, key: &Reference, message: &[u8]) -> Result<Call<Premaster>, Error> {
///     client.start_sign(key, Scheme::Ed25519, Input::Message(message))
/// }
/// ```
///
/// Dropping a call abandons the request and closes its connection, so a late answer reaches nobody.
pub struct Call<T> {
    exchange: Exchange,
    answer: PhantomData<fn() -> T>,
}

/// Result of a poll: the answer, or the call without an answer.
#[derive(Debug)]
pub enum Progress<T> {
    /// The answer.
    Ready(T),
    /// The call, still without an answer.
    Pending(Call<T>),
}

impl<T> Call<T> {
    pub(crate) fn new(exchange: Exchange) -> Self {
        Self { exchange, answer: PhantomData }
    }

    /// Descriptor that becomes readable when there may be an answer. [`Call::poll`] may return the
    /// call with another descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.exchange.connection.as_fd()
    }

    /// Moment at which the call ends without an answer.
    pub fn deadline(&self) -> Instant {
        self.exchange.deadline
    }

    /// Sleeps until there may be an answer, until the deadline, or for `at_most`, whichever is
    /// first.
    ///
    /// # Errors
    /// [`Error::Lost`] if the system does not let this process wait.
    pub fn wait(&self, at_most: Duration) -> Result<(), Error> {
        let deadline = self.exchange.deadline;
        let until = Instant::now().checked_add(at_most).map_or(deadline, |until| until.min(deadline));
        self.exchange.wait(until)
    }
}

impl<T: Answer> Call<T> {
    /// Takes the answer if it has arrived, without waiting for it.
    ///
    /// A process that was forked while the call was under way may poll its copy of the call: the
    /// request is sent again on a connection of the child, with a new deadline.
    ///
    /// # Errors
    /// [`Error::Refused`] if the daemon refused. [`Error::DeadlineExceeded`] after the deadline;
    /// [`Error::Unreachable`], [`Error::Lost`] or [`Error::Garbled`] if no answer can come any
    /// more.
    pub fn poll(mut self) -> Result<Progress<T>, Error> {
        self.exchange.adopt()?;
        self.advance()
    }

    /// Waits for the answer, until the deadline. Call this in the process that started or last
    /// polled the call, not in its child.
    ///
    /// # Errors
    /// The errors of [`Call::poll`].
    pub fn finish(mut self) -> Result<T, Error> {
        let exchange = &mut self.exchange;
        let mut wait = may_wait(exchange.shared.timeout, exchange.deadline);
        while !exchange.has_answer(core::mem::take(&mut wait))? {
            exchange.wait(exchange.deadline)?;
        }
        self.answer()
    }

    /// Waits for the answer for `at_most`. Call this in the process that started or last polled the
    /// call, not in its child.
    ///
    /// # Errors
    /// The errors of [`Call::poll`].
    pub fn finish_within(self, at_most: Duration) -> Result<Progress<T>, Error> {
        self.wait(at_most)?;
        self.advance()
    }

    fn advance(mut self) -> Result<Progress<T>, Error> {
        match self.exchange.has_answer(false)? {
            true => self.answer().map(Progress::Ready),
            false => Ok(Progress::Pending(self)),
        }
    }

    fn answer(self) -> Result<T, Error> {
        T::from_body(self.exchange.conclude()?).ok_or(Error::Garbled)
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exchange { id, deadline, .. } = &self.exchange;
        f.debug_struct("Call").field("id", id).field("deadline", deadline).finish_non_exhaustive()
    }
}

/// A request and its answer, without the type of the answer.
pub(crate) struct Exchange {
    shared: Arc<Shared>,
    id: u64,
    frame: Vec<u8>,
    owner: Owner,
    processor: u32,
    deadline: Instant,
    connection: Connection,
    received: Vec<u8>,
    /// True after the request was sent a second time, because the first connection was dead.
    repeated: bool,
}

impl Exchange {
    /// Sends a request, on a kept connection if there is one. The daemon is to answer within
    /// `time`; the caller waits until `deadline`.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        body: request::Body,
        time: Duration,
        deadline: Instant,
    ) -> Result<Self, Error> {
        let id = shared.next_id();
        let deadline_ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let processor = system::processor();
        let request = Request { id, deadline_ms, body: Some(body), processor: Some(processor) };
        let frame = frame::encode(&request).map_err(|_| Error::TooLong { limit: frame::MAX_BODY })?;
        let owner = Owner::current();
        let mut connection = match shared.pool.take(owner, processor) {
            Some(kept) => kept,
            None => shared.connect(deadline)?,
        };
        let sent = connection.send(&frame, shared.timeout, deadline);
        let mut exchange = Self {
            shared: Arc::clone(shared),
            id,
            frame,
            owner,
            processor,
            deadline,
            connection,
            received: Vec::new(),
            repeated: false,
        };
        match sent {
            Ok(()) => {}
            Err(Broken::Lost) => exchange.send_again()?,
            Err(broken) => return Err(exchange.shared.error(broken)),
        }
        Ok(exchange)
    }

    /// Adopts the exchange in this process if a fork has copied the exchange here: the connection
    /// and the answer belong to the parent.
    fn adopt(&mut self) -> Result<(), Error> {
        if self.owner == Owner::current() {
            return Ok(());
        }
        // Parent and child share the timer, so the child may have been woken too late.
        self.deadline = Instant::now() + self.shared.timeout;
        self.send_again()
    }

    /// Sleeps until there may be an answer, or until that moment.
    fn wait(&self, until: Instant) -> Result<(), Error> {
        self.connection.wait_for_answer(until).map_err(|broken| self.shared.error(broken))
    }

    /// Takes what has arrived. Returns true once the whole frame is there. With `wait`, waits for
    /// the first bytes, but not to the deadline.
    fn has_answer(&mut self, wait: bool) -> Result<bool, Error> {
        match self.connection.receive(&mut self.received, wait) {
            Ok(true) => Ok(true),
            Ok(false) if Instant::now() >= self.deadline => Err(self.shared.error(Broken::Late)),
            Ok(false) => Ok(false),
            Err(Broken::Lost) => self.send_again().map(|()| false),
            Err(broken) => Err(self.shared.error(broken)),
        }
    }

    /// Reads the frame that has arrived, and keeps the connection for the next request.
    fn conclude(mut self) -> Result<response::Body, Error> {
        let body = self.received.get(frame::HEADER..).unwrap_or_default();
        let response: Response = frame::decode(body).map_err(|_| Error::Garbled)?;
        if let Some(response::Body::Plaintext(_)) = response.body {
            self.received.zeroize();
        }
        // A connection that is out of step is closed.
        if response.id != self.id {
            return Err(Error::Garbled);
        }
        self.shared.pool.put(self.owner, self.processor, self.connection);
        match (response.outcome(), response.body) {
            (Outcome::Done, body) => body.ok_or(Error::Garbled),
            (outcome, _) => Err(Error::Refused(outcome)),
        }
    }

    /// Sends the request a second and last time, on a new connection. Every request of the protocol
    /// may be repeated.
    fn send_again(&mut self) -> Result<(), Error> {
        if core::mem::replace(&mut self.repeated, true) {
            return Err(self.shared.error(Broken::Lost));
        }
        self.received.clear();
        self.owner = Owner::current();
        let mut fresh = self.shared.connect(self.deadline)?;
        let sent = fresh.send(&self.frame, self.shared.timeout, self.deadline);
        sent.map_err(|broken| self.shared.error(broken))?;
        // The dead connection is closed only now, so the new connection has another descriptor: a
        // program that watches descriptors must notice the change.
        self.connection = fresh;
        Ok(())
    }
}
