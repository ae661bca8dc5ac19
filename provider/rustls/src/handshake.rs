//! Handshakes that let a tokio runtime do other work while a signature takes its time.
//!
//! rustls asks for a signature in the middle of a handshake, and waits for it on the thread that
//! makes the handshake. With a key in the daemon's own crypto unit this takes as long as the
//! signature, and some tens of microseconds. With a key in a remote unit it can take many
//! milliseconds, and every other connection of that thread would wait too.
//!
//! # On a multi-thread runtime
//!
//! On a worker thread of a multi-thread runtime, a slow signature gives its thread up
//! ([`block_in_place`](tokio::task::block_in_place)), whichever library makes the handshake. A
//! signature is taken for slow from the beginning if the previous signature by this key took more
//! than 2 ms, otherwise after 5 ms.
//!
//! tokio allows that on worker threads only. It does not allow it in a
//! [`LocalSet`](tokio::task::LocalSet), nor in the future that is given to
//! [`block_on`](tokio::runtime::Runtime::block_on). [`Acceptor`] and [`Connector`] work like
//! [`TlsAcceptor`] and [`TlsConnector`], and make the handshake as a task on a worker thread if
//! they are used in such a place.
//!
//! # On a current-thread runtime
//!
//! If that is too long, give [`Acceptor::with_runtime`] or [`Connector::with_runtime`] a
//! multi-thread runtime for the handshakes:
//!
//! ```no_run
//! # fn f(config: std::sync::Arc<rustls::ServerConfig>) -> std::io::Result<()> {
//! use keyward_rustls::handshake::Acceptor;
//!
//! // Kept as long as there are handshakes.
//! let handshakes = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
//! let acceptor = Acceptor::new(config).with_runtime(handshakes.handle().clone());
//! # Ok(())
//! # }
//! ```
//!
//! # Limit
//!
//! A slow signature in progress takes one blocking thread of its runtime, which has 512 unless
//! [`max_blocking_threads`](tokio::runtime::Builder::max_blocking_threads) sets another number.
//! With one more signature, the runtime stands still until a signature ends. The number of
//! signatures in progress is the rate of handshakes times the time of a signature. 512 threads are
//! enough for 25,000 handshakes a second at 20 ms each, or for 100 a second if the daemon hangs and
//! each request takes the default limit of 5 seconds
//! ([`Keyward::with_timeout`](crate::Keyward::with_timeout)).

use core::fmt;
use core::future::Future;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Handle, RuntimeFlavor, worker_index};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Makes the handshakes of a server. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    acceptor: TlsAcceptor,
    runtime: Option<Handle>,
}

impl Acceptor {
    /// An acceptor for a configuration. Handshakes stay in the runtime that they are made in.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self { acceptor: TlsAcceptor::from(config), runtime: None }
    }

    /// Makes handshakes on the worker threads of this multi-thread runtime, unless a handshake is
    /// on a worker thread already.
    #[must_use]
    pub fn with_runtime(self, runtime: Handle) -> Self {
        Self { runtime: Some(runtime), ..self }
    }

    /// Makes the handshake with a client that has connected. Dropping the future abandons the
    /// handshake.
    ///
    /// # Errors
    /// Errors of the stream; errors of rustls with [`io::ErrorKind::InvalidData`];
    /// [`io::ErrorKind::Other`] if the runtime shuts down.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn accept<IO>(&self, stream: IO) -> io::Result<server::TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        on_worker(self.runtime.as_ref(), self.acceptor.accept(stream)).await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// Makes the handshakes of a client. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    connector: TlsConnector,
    runtime: Option<Handle>,
}

impl Connector {
    /// A connector for a configuration. Handshakes stay in the runtime that they are made in.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self { connector: TlsConnector::from(config), runtime: None }
    }

    /// Makes handshakes on the worker threads of this multi-thread runtime, unless a handshake is
    /// on a worker thread already.
    #[must_use]
    pub fn with_runtime(self, runtime: Handle) -> Self {
        Self { runtime: Some(runtime), ..self }
    }

    /// Makes the handshake with the server of that name, to which `stream` is connected. Dropping
    /// the future abandons the handshake.
    ///
    /// # Errors
    /// Errors of the stream; errors of rustls with [`io::ErrorKind::InvalidData`];
    /// [`io::ErrorKind::Other`] if the runtime shuts down.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect<IO>(
        &self,
        name: ServerName<'static>,
        stream: IO,
    ) -> io::Result<client::TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        on_worker(self.runtime.as_ref(), self.connector.connect(name, stream)).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

/// Runs a handshake on a worker thread of a multi-thread runtime, where signatures may block in
/// place. Most handshakes are there already. Without such a runtime the handshake runs here.
async fn on_worker<T: Send + 'static>(
    runtime: Option<&Handle>,
    handshake: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    if is_on_worker() {
        return handshake.await;
    }
    let here = Handle::current();
    let runtime = match runtime {
        Some(runtime) => runtime,
        None if here.runtime_flavor() == RuntimeFlavor::MultiThread => &here,
        None => return handshake.await,
    };
    let mut task = Task(runtime.spawn(handshake));
    match (&mut task.0).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::other("the runtime is shutting down")),
    }
}

/// A task that ends when it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// True on a worker thread of a multi-thread runtime, where a task may block in place. A task of a
/// [`LocalSet`](tokio::task::LocalSet) is never on such a thread.
pub(crate) fn is_on_worker() -> bool {
    // A current-thread runtime calls its only thread a worker, too.
    worker_index().is_some()
        && Handle::try_current().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread)
}
