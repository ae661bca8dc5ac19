use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use keyward_proto::message::{self, request};
use keyward_proto::{Input, Label, Scheme};

use crate::answer::Answer;
use crate::call::Exchange;
use crate::connection::{Broken, Connection};
use crate::pool::Pool;
use crate::{Address, Call, Changes, Description, Error, KeyId, Premaster, Signature, Status};

/// A client of the daemon. Cheap to clone; clones share their connections. Threads may share a
/// client too.
///
/// Making a client does no I/O: the first request connects.
///
/// ```no_run
/// use keyward_client::{Address, Client, Input, Label, Scheme};
///
/// let client = Client::new(Address::DEFAULT, Client::DEFAULT_TIMEOUT);
/// let shop: Label = "shop".parse()?;
/// let described = client.describe(&shop, 0)?;
/// println!("version {} of {shop} is {:?}", described.version, described.state);
///
/// // The message that a TLS server signs in TLS 1.3 (RFC 8446, 4.4.3).
/// let context = b"TLS 1.3, server CertificateVerify\0";
/// let message = [&[0x20; 64][..], context, &[0; 32]].concat();
/// let signature = client.sign(&shop, Scheme::EcdsaSecp256r1Sha256, Input::Message(&message))?;
/// println!("{} bytes", signature.as_ref().len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Time limit of a request if the program sets none: 5 seconds.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

    const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

    /// A client of the daemon at `address`, whose requests take at most `timeout` each, connecting
    /// included. A timeout longer than an hour counts as one hour.
    pub fn new(address: Address, timeout: Duration) -> Self {
        // A deadline must be a moment that the clock can show.
        let timeout = timeout.min(Self::MAX_TIMEOUT);
        let shared = Shared { address, timeout, pool: Pool::new(), next_id: AtomicU64::new(1) };
        Self { shared: Arc::new(shared) }
    }

    /// Address of the daemon.
    pub fn address(&self) -> &Address {
        &self.shared.address
    }

    /// Signs with a key, and waits for the signature.
    ///
    /// # Errors
    /// [`Error::Refused`] if the daemon does not sign this input with this key for this process, or
    /// its crypto unit fails. [`Error::TooLong`] if the input does not fit a request.
    /// [`Error::Unreachable`], [`Error::Lost`], [`Error::DeadlineExceeded`] or [`Error::Garbled`]
    /// if no answer came.
    pub fn sign<'a>(
        &self,
        key: impl Into<KeyId<'a>>,
        scheme: Scheme,
        input: Input<'_>,
    ) -> Result<Signature, Error> {
        self.start_sign(key, scheme, input)?.finish()
    }

    /// Asks for a signature without waiting for it; see [`Call`].
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Unreachable`], [`Error::Lost`] or [`Error::DeadlineExceeded`]
    /// if the request cannot be sent.
    pub fn start_sign<'a>(
        &self,
        key: impl Into<KeyId<'a>>,
        scheme: Scheme,
        input: Input<'_>,
    ) -> Result<Call<Signature>, Error> {
        let key = key.into();
        self.start(request::Body::Sign(message::Sign {
            label: key.label.as_str().to_owned(),
            version: key.version,
            scheme: u32::from(scheme.code()),
            input: Some(input.into()),
            public_key_fingerprint: key.public_key.map(|public_key| public_key.number()),
        }))
    }

    /// Asks for the premaster secret of an RSA key exchange (RFC 5246, 7.4.7.1) without waiting for
    /// it; see [`Call`]. `client_version` is the version in the ClientHello, as in 0x0303.
    ///
    /// The secret begins with `client_version` even if the client encrypted another version or the
    /// padding is wrong: nothing tells the difference.
    ///
    /// # Errors
    /// [`Error::TooLong`], [`Error::Unreachable`], [`Error::Lost`] or [`Error::DeadlineExceeded`]
    /// if the request cannot be sent.
    pub fn start_decrypt<'a>(
        &self,
        key: impl Into<KeyId<'a>>,
        ciphertext: &[u8],
        client_version: u16,
    ) -> Result<Call<Premaster>, Error> {
        let key = key.into();
        self.start(request::Body::Decrypt(message::Decrypt {
            label: key.label.as_str().to_owned(),
            version: key.version,
            ciphertext: ciphertext.to_vec(),
            client_version: client_version.into(),
            public_key_fingerprint: key.public_key.map(|public_key| public_key.number()),
        }))
    }

    /// Asks for the public half of a version of a key, and waits for the answer. Version 0 is the
    /// current version.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such key or version, or no grant for it.
    /// [`Error::Unreachable`], [`Error::Lost`], [`Error::DeadlineExceeded`] or [`Error::Garbled`]
    /// if no answer came.
    pub fn describe(&self, label: &Label, version: u32) -> Result<Description, Error> {
        self.description(message::Describe { label: label.to_string(), version, certified: false })
    }

    /// Asks for the newest version that has certificates in the daemon, and waits for the answer.
    /// If no version has certificates, the current version is described.
    ///
    /// # Errors
    /// The errors of [`Client::describe`].
    pub fn describe_certified(&self, label: &Label) -> Result<Description, Error> {
        self.description(message::Describe { label: label.to_string(), version: 0, certified: true })
    }

    fn description(&self, body: message::Describe) -> Result<Description, Error> {
        self.start(request::Body::Describe(body))?.finish()
    }

    /// Asks for the changes of keys after a revision without waiting for them; see [`Call`]. Pass
    /// revision 0 the first time.
    ///
    /// The daemon answers when there are changes, after `time` without any, and when the daemon
    /// stops. A time longer than an hour counts as one hour.
    ///
    /// ```no_run
    /// # use core::time::Duration;
    /// # let client = keyward_client::Client::new(Default::default(), Duration::from_secs(5));
    /// let mut revision = 0;
    /// loop {
    ///     let changes = client.start_watch(revision, Duration::from_secs(60))?.finish()?;
    ///     for label in &changes.labels {
    ///         println!("{label} has changed");
    ///     }
    ///     revision = changes.revision;
    /// }
    /// # Ok::<(), keyward_client::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Lost`] or [`Error::DeadlineExceeded`] if the request cannot
    /// be sent.
    pub fn start_watch(&self, after: u64, time: Duration) -> Result<Call<Changes>, Error> {
        let body = request::Body::Watch(message::Watch { after });
        let time = time.min(Self::MAX_TIMEOUT);
        // The request has the time `time` plus the timeout: the daemon may answer only after
        // `time`.
        let deadline = Instant::now() + time + self.shared.timeout;
        Exchange::start(&self.shared, body, time, deadline).map(Call::new)
    }

    /// Asks for the identity of the daemon and of this process, and waits for the answer. The
    /// daemon answers every peer, with or without a grant.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Lost`], [`Error::DeadlineExceeded`] or [`Error::Garbled`]
    /// if no answer came.
    pub fn status(&self) -> Result<Status, Error> {
        self.start(request::Body::GetStatus(message::GetStatus {}))?.finish()
    }

    fn start<T: Answer>(&self, body: request::Body) -> Result<Call<T>, Error> {
        let time = self.shared.timeout;
        Exchange::start(&self.shared, body, time, Instant::now() + time).map(Call::new)
    }
}

/// State that all clones of a client share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) address: Address,
    pub(crate) timeout: Duration,
    pub(crate) pool: Pool,
    next_id: AtomicU64,
}

impl Shared {
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn connect(&self, deadline: Instant) -> Result<Connection, Error> {
        Connection::open(&self.address, self.timeout, deadline)
            .map_err(|errno| Error::Unreachable { address: self.address.clone(), source: errno.into() })
    }

    pub(crate) fn error(&self, broken: Broken) -> Error {
        match broken {
            Broken::Garbled => Error::Garbled,
            Broken::Late => Error::DeadlineExceeded(self.timeout),
            Broken::Lost => Error::Lost(self.address.clone()),
        }
    }
}
