//! Blocking client of the Keyward daemon, made to live inside other people's processes.
//!
//! It starts no thread, keeps no runtime, installs no handler, and does no I/O before the first request.
//! Connections are kept between requests and belong to the process that opened them: after a fork the
//! child opens its own, so the daemon sees each process with its own credentials. Every request has an
//! absolute deadline. A connection that turns out to be dead costs one second attempt on a fresh one, which
//! is safe because every request of the protocol may be repeated.

#![deny(unsafe_code)]

mod address;
mod connection;
mod error;
mod pool;
mod system;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

pub use address::{Address, InvalidAddress};
pub use error::Error;
use keyward_proto::message::{self, Request, Response, request, response};
use keyward_proto::{Label, Outcome, Scheme, frame};

use crate::connection::{Broken, Connection};
use crate::pool::{Owner, Pool};

/// The daemon, as seen by one program. Shared by reference between threads.
#[derive(Debug)]
pub struct Client {
    address: Address,
    timeout: Duration,
    pool: Pool,
    next_id: AtomicU64,
}

impl Client {
    /// How long a request may take where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

    /// A client that will connect to `address` when it is first used, and waits at most `timeout` for each
    /// answer, connecting included.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address, timeout, pool: Pool::new(), next_id: AtomicU64::new(1) }
    }

    /// Where the daemon is expected.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Signs with a version of a key; version 0 is the current one.
    ///
    /// The signature comes as TLS carries it: ECDSA in DER, RSA as long as the modulus, Ed25519 in 64 bytes.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn sign(
        &self,
        label: &Label,
        version: u32,
        scheme: Scheme,
        input: Input<'_>,
    ) -> Result<Vec<u8>, Error> {
        let input = match input {
            Input::Message(message) => message::sign::Input::Message(message.to_vec()),
            Input::Digest(digest) => message::sign::Input::Digest(digest.to_vec()),
        };
        let body = message::Sign {
            label: label.to_string(),
            version,
            scheme: u32::from(scheme.code()),
            input: Some(input),
        };
        match self.call(request::Body::Sign(body))? {
            response::Body::Signature(answer) => Ok(answer.signature),
            _ => Err(Error::Garbled),
        }
    }

    /// Asks for the public half of a version of a key; version 0 is the current one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn describe(&self, label: &Label, version: u32) -> Result<message::Description, Error> {
        let body = message::Describe { label: label.to_string(), version };
        match self.call(request::Body::Describe(body))? {
            response::Body::Description(answer) => Ok(answer),
            _ => Err(Error::Garbled),
        }
    }

    /// Asks the daemon who it is, and as whom it sees this process.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&self) -> Result<message::Status, Error> {
        match self.call(request::Body::GetStatus(message::GetStatus {}))? {
            response::Body::Status(answer) => Ok(answer),
            _ => Err(Error::Garbled),
        }
    }

    fn call(&self, body: request::Body) -> Result<response::Body, Error> {
        let deadline = Instant::now() + self.timeout;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let deadline_ms = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        let processor = system::processor();
        let request = Request { id, deadline_ms, body: Some(body), processor: Some(processor) };
        let frame = frame::encode(&request).map_err(|_| Error::TooLong { limit: frame::MAX_BODY })?;

        let owner = Owner::current();
        let (answer, connection) = self.exchange(&frame, owner, processor, deadline)?;
        let answer: Response = frame::decode(&answer).map_err(|_| Error::Garbled)?;
        if answer.id != id {
            return Err(Error::Garbled);
        }
        // Only one that has kept in step is worth keeping.
        self.pool.put(owner, processor, connection);
        match (answer.outcome(), answer.body) {
            (Outcome::Done, Some(body)) => Ok(body),
            (Outcome::Done, None) => Err(Error::Garbled),
            (outcome, _) => Err(Error::Refused(outcome)),
        }
    }

    /// Sends a frame and waits for the body of the answer, on a kept connection if there is one.
    fn exchange(
        &self,
        frame: &[u8],
        owner: Owner,
        processor: u32,
        deadline: Instant,
    ) -> Result<(Vec<u8>, Connection), Error> {
        let mut connection = match self.pool.take(owner, processor) {
            Some(kept) => kept,
            None => self.connect(deadline)?,
        };
        let answer = match connection.exchange(frame, self.timeout, deadline) {
            Err(Broken::Lost) => {
                connection = self.connect(deadline)?;
                connection.exchange(frame, self.timeout, deadline)
            }
            first => first,
        };
        match answer {
            Ok(answer) => Ok((answer, connection)),
            Err(Broken::Late) => Err(Error::DeadlineExceeded(self.timeout)),
            Err(Broken::Lost) => Err(Error::Lost(self.address.to_string())),
            Err(Broken::Garbled) => Err(Error::Garbled),
        }
    }

    fn connect(&self, deadline: Instant) -> Result<Connection, Error> {
        Connection::open(&self.address, self.timeout, deadline)
            .map_err(|reason| Error::Unreachable { address: self.address.to_string(), reason })
    }
}

/// What is to be signed.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// The whole message, unhashed; at most [`frame::MAX_WHOLE_MESSAGE`] bytes make sense.
    Message(&'a [u8]),
    /// The digest of a message, by the hash of the scheme.
    Digest(&'a [u8]),
}
