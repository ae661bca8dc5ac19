//! Handshakes that do not keep a tokio runtime from its other work.
//!
//! rustls asks for a signature and waits for it, in the middle of a task. With a key in the daemon itself that takes as long
//! as the signature does, and some tens of microseconds; with one in a unit elsewhere it can be many milliseconds, in which
//! every other connection of that thread would wait too.
//!
//! On the worker threads of a multi-thread runtime such a signature therefore gives its thread up for the time
//! ([`block_in_place`](::tokio::task::block_in_place)), whoever makes the handshake: at once if the signature before by this
//! key took more than 2 ms, otherwise after 5 ms. Everywhere else, that is on a current-thread runtime, in a
//! [`LocalSet`](::tokio::task::LocalSet) and in the future that [`block_on`](::tokio::runtime::Runtime::block_on) is given, it
//! cannot. [`Acceptor`] and [`Connector`] make handshakes as [`TlsAcceptor`] and [`TlsConnector`] do, and from there as a task
//! on a worker thread: of the same runtime if it has some, otherwise of one that this crate keeps for them.
//!
//! A signature under way takes one thread of those for blocking tasks, of which a runtime has 512
//! ([`max_blocking_threads`](::tokio::runtime::Builder::max_blocking_threads)) if nothing else is said. As many can wait at
//! once; one more, and the runtime stands still until one of them has its signature or gives up. What so many take is the rate
//! of handshakes times the time of a signature: 512 are 25,000 in a second at 20 ms, and 100 at the 5 seconds that a daemon that
//! hangs is given by default ([`Daemon::with_timeout`](crate::Daemon::with_timeout)).

use core::fmt;
use core::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};

use ::tokio::io::{AsyncRead, AsyncWrite};
use ::tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor, worker_index};
use ::tokio::task::JoinHandle;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Makes the handshakes of a server. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// One for servers of a configuration.
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(TlsAcceptor::from(config))
    }

    /// Shakes hands with a client that has connected. Dropping the future gives the handshake up.
    ///
    /// # Errors
    /// Those of the stream, and those of rustls with [`io::ErrorKind::InvalidData`]; [`io::ErrorKind::Other`] if the runtime
    /// shuts down, or one is needed and the system gives no threads.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn accept<IO>(&self, stream: IO) -> io::Result<server::TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        out_of_the_way(self.0.accept(stream)).await
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// Makes the handshakes of a client. Cheap to clone.
#[derive(Clone)]
pub struct Connector(TlsConnector);

impl Connector {
    /// One for clients of a configuration.
    pub fn new(config: Arc<ClientConfig>) -> Self {
        Self(TlsConnector::from(config))
    }

    /// Shakes hands with the server of that name, to which `stream` is connected. Dropping the future gives the handshake up.
    ///
    /// # Errors
    /// Those of the stream, and those of rustls with [`io::ErrorKind::InvalidData`]; [`io::ErrorKind::Other`] if the runtime
    /// shuts down, or one is needed and the system gives no threads.
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
        out_of_the_way(self.0.connect(name, stream)).await
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// Runs a handshake on a worker thread of a multi-thread runtime, where signatures may block in place. Most are there already.
async fn out_of_the_way<T: Send + 'static>(
    handshake: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    if is_on_worker() {
        return handshake.await;
    }
    let here = Handle::current();
    let runtime = match here.runtime_flavor() {
        RuntimeFlavor::MultiThread => &here,
        _ => pool()?,
    };
    let mut task = Task(runtime.spawn(handshake));
    match (&mut task.0).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(io::Error::other("the runtime is shutting down")),
    }
}

/// A task that ends when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether this is a worker thread of a multi-thread runtime. Tasks on it may block in place, those of a
/// [`LocalSet`](::tokio::task::LocalSet) are never there.
pub(crate) fn is_on_worker() -> bool {
    // A current-thread runtime calls its only thread a worker, too.
    worker_index().is_some()
        && Handle::try_current().is_ok_and(|here| here.runtime_flavor() == RuntimeFlavor::MultiThread)
}

/// The runtime of the handshakes of current-thread runtimes: a thread for each processor, and those that wait.
fn pool() -> io::Result<&'static Handle> {
    static POOL: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let made = POOL.get_or_init(|| {
        // With timers, for streams that have some.
        Builder::new_multi_thread().enable_all().thread_name("keyward-handshakes").build()
    });
    made.as_ref().map(Runtime::handle).map_err(|error| io::Error::new(error.kind(), error.to_string()))
}
