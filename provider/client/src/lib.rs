//! Blocking client of the Keyward daemon, made to live inside other people's processes.
//!
//! It starts no thread, keeps no runtime, installs no handler, and does no I/O before the first request.
//! Connections are kept between requests and belong to the process that opened them: after a fork the
//! child opens its own, so the daemon sees each process with its own credentials. Every request has an
//! absolute deadline. A connection that turns out to be dead costs one second attempt on a fresh one, which
//! is safe because every request of the protocol may be repeated.

#![deny(unsafe_code)]

mod address;
mod call;
mod connection;
mod error;
mod pool;
mod system;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::time::Instant;

pub use address::{Address, InvalidAddress};
pub use call::Call;
pub use connection::above_standard_streams;
pub use error::Error;
use keyward_proto::message::{self, request, response};
use keyward_proto::{Fingerprint, Label, Reference, Scheme};
use zeroize::Zeroizing;

use crate::pool::Pool;

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

    const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

    /// A client that will connect to `address` when it is first used, and waits at most `timeout` for each
    /// answer, connecting included, and an hour at most.
    pub fn new(address: Address, timeout: Duration) -> Self {
        // A deadline must be a moment that the clock can show.
        let timeout = timeout.min(Self::MAX_TIMEOUT);
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
        let wanted = Wanted { label, version, public_key: None };
        signature_of(self.finish(self.start_to_sign(wanted, scheme, input)?)?)
    }

    /// As [`Client::sign`], with the very key that is wanted, and without waiting for the
    /// signature; see [`Call`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_to_sign(&self, wanted: Wanted<'_>, scheme: Scheme, input: Input<'_>) -> Result<Call, Error> {
        let input = match input {
            Input::Message(message) => message::sign::Input::Message(message.to_vec()),
            Input::Digest(digest) => message::sign::Input::Digest(digest.to_vec()),
        };
        let body = message::Sign {
            label: wanted.label.to_string(),
            version: wanted.version,
            scheme: u32::from(scheme.code()),
            input: Some(input),
            public_key_fingerprint: wanted.public_key.map(|public_key| public_key.number()),
        };
        self.send(request::Body::Sign(body))
    }

    /// Asks for the premaster secret of an RSA key exchange (RFC 5246, 7.4.7.1), which begins with the version of the
    /// client whatever that encrypted; without waiting for the answer, see [`Call`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_to_decrypt(
        &self,
        wanted: Wanted<'_>,
        ciphertext: &[u8],
        client_version: u16,
    ) -> Result<Call, Error> {
        self.send(request::Body::Decrypt(message::Decrypt {
            label: wanted.label.to_string(),
            version: wanted.version,
            ciphertext: ciphertext.to_vec(),
            client_version: client_version.into(),
            public_key_fingerprint: wanted.public_key.map(|public_key| public_key.number()),
        }))
    }

    /// Asks for the public half of a version of a key; version 0 is the current one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn describe(&self, label: &Label, version: u32) -> Result<message::Description, Error> {
        self.description(message::Describe { label: label.to_string(), version, certified: false })
    }

    /// As [`Client::describe`], for the newest version that has certificates in the daemon; if none has, for the current one.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn describe_certified(&self, label: &Label) -> Result<message::Description, Error> {
        self.description(message::Describe { label: label.to_string(), version: 0, certified: true })
    }

    fn description(&self, body: message::Describe) -> Result<message::Description, Error> {
        match self.call(request::Body::Describe(body))? {
            response::Body::Description(answer) => Ok(answer),
            _ => Err(Error::Garbled),
        }
    }

    /// Asks to be told when keys change behind a revision, 0 for the first time; without waiting for the answer, see [`Call`]
    /// and [`changes_of`]. It comes when there are changes, after `time` without any, and when the daemon stops.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start_to_watch(&self, after: u64, time: Duration) -> Result<Call, Error> {
        // The daemon is given the time of a request for an answer that is due then.
        let deadline = Instant::now() + time + self.timeout;
        self.send_for(request::Body::Watch(message::Watch { after }), time, deadline)
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
        self.finish(self.send(body)?)
    }

    /// Waits for the answer to a call where we are.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn finish(&self, mut call: Call) -> Result<response::Body, Error> {
        loop {
            if let Some(answer) = self.finish_soon(&mut call, self.timeout)? {
                return Ok(answer);
            }
        }
    }

    /// As [`Client::finish`], for a time at most: `None` if there is no answer by then. The call must have been made by this
    /// very process, and not be asked for again after an end, good or bad.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn finish_soon(&self, call: &mut Call, at_most: Duration) -> Result<Option<response::Body>, Error> {
        self.wait(call, at_most)?;
        self.take(call)
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// Which key a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The label of the key.
    pub label: &'a Label,
    /// The version of the key; 0 is the current one.
    pub version: u32,
    /// The public key that the version must have; without it any key under this label will do.
    pub public_key: Option<Fingerprint>,
}

impl<'a> From<&'a Reference> for Wanted<'a> {
    fn from(reference: &'a Reference) -> Self {
        let (label, version) = (reference.label(), reference.version());
        Self { label, version, public_key: Some(reference.fingerprint()) }
    }
}

/// The signature in the answer to [`Client::start_to_sign`].
///
/// # Errors
/// [`Error::Garbled`] if it is another answer.
pub fn signature_of(answer: response::Body) -> Result<Vec<u8>, Error> {
    match answer {
        response::Body::Signature(answer) => Ok(answer.signature),
        _ => Err(Error::Garbled),
    }
}

/// The changes in the answer to [`Client::start_to_watch`].
///
/// # Errors
/// [`Error::Garbled`] if it is another answer.
pub fn changes_of(answer: response::Body) -> Result<message::Changes, Error> {
    match answer {
        response::Body::Changes(answer) => Ok(answer),
        _ => Err(Error::Garbled),
    }
}

/// The premaster secret in the answer to [`Client::start_to_decrypt`]: 48 bytes.
///
/// # Errors
/// [`Error::Garbled`] if it is another answer.
pub fn premaster_of(answer: response::Body) -> Result<Zeroizing<Vec<u8>>, Error> {
    let response::Body::Plaintext(answer) = answer else { return Err(Error::Garbled) };
    let premaster = Zeroizing::new(answer.plaintext);
    if premaster.len() == 48 { Ok(premaster) } else { Err(Error::Garbled) }
}

/// What is to be signed.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// The whole message, unhashed; at most [`keyward_proto::frame::MAX_WHOLE_MESSAGE`] bytes make sense.
    Message(&'a [u8]),
    /// The digest of a message, by the hash of the scheme.
    Digest(&'a [u8]),
}
