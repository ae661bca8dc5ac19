//! The administrators' socket for axum: the caller of each connection, and the limit of
//! connections.
//!
//! Idle connections, such as those of a program that forgot to close them, do not block an
//! administrator: at the limit, a new connection replaces the connection that has been idle
//! longest.
//!
//! Users without a role share a few connections. Each of these connections has a short life, and
//! room for one request without a body. A connection whose request has come is not closed for a new
//! one: while all of them have a request, new ones are refused.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::user_database::UserDatabase;
use crate::daemon::Daemon;
use crate::peers::connections::{Admission, ConnectionLimits, Connections, Slot};
use crate::peers::credentials::credentials_with_groups;
use crate::peers::listener::PAUSE;
use crate::peers::owner::Owner;
use crate::policy::authorise::Peer;

/// The socket.
pub(super) struct Gate {
    listener: UnixListener,
    connections: Arc<Connections>,
    daemon: Arc<Daemon>,
    users: Arc<UserDatabase>,
    /// Token that is never cancelled: requests in progress are answered when the daemon stops.
    never: CancellationToken,
    /// Token that is cancelled when the daemon stops, so that users without a role do not delay the
    /// stop.
    stopping: CancellationToken,
}

impl Gate {
    /// The socket of a daemon. `stopping` closes the connections of users without a role.
    pub(super) fn new(
        listener: UnixListener,
        daemon: Arc<Daemon>,
        users: Arc<UserDatabase>,
        stopping: CancellationToken,
    ) -> Self {
        let (connections, never) = (Arc::new(Connections::new()), CancellationToken::new());
        Self { listener, connections, daemon, users, never, stopping }
    }

    fn admit(&self, stream: UnixStream) -> Option<(Conversation<UnixStream>, Caller)> {
        let caller = credentials_with_groups(&stream);
        let peer = caller.clone().unwrap_or_default();
        // Users without a role get an answer, too: a refusal, or metrics.
        // A look-up would delay the next caller, so a user who is not looked up yet counts as one
        // of the user database. The roles are found again for each request.
        let has_entry = self.users.remembered(peer.uid).unwrap_or(true);
        let has_role = caller.as_ref().is_some_and(|peer| !self.daemon.roles_of(peer, has_entry).is_empty());
        let (owner, stop) = match has_role {
            true => (Owner::Named { uid: peer.uid, service: None }, &self.never),
            false => (Owner::WithoutGrant, &self.stopping),
        };
        match self.connections.admit_for(owner, &peer, false, LIMITS, stop) {
            Admission::Admitted(slot) | Admission::Replaced(_, slot) => {
                let slot = Arc::new(slot);
                let conversation = Conversation::new(stream, Arc::clone(&slot), stop.clone());
                Some((conversation, Caller { peer: caller, slot }))
            }
            Admission::Refused => None,
        }
    }
}

impl Listener for Gate {
    type Io = Conversation<UnixStream>;
    type Addr = Caller;

    async fn accept(&mut self) -> (Conversation<UnixStream>, Caller) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    read_others().await;
                    if let Some(admitted) = self.admit(stream) {
                        return admitted;
                    }
                }
                Err(error) => {
                    tracing::debug!("cannot accept an administrator: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Lets the requests of earlier connections be read, before a new connection may close one of them:
/// a connection whose request has arrived is not idle.
pub(super) async fn read_others() {
    // Tokio polls the sockets before it goes on with a task that yields.
    tokio::task::yield_now().await;
}

/// The connection of a caller. The connection ends when a new connection needs its slot, unless a
/// request is in progress.
pub(super) struct Conversation<S> {
    stream: S,
    slot: Arc<Slot>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// End of the daemon, which ends requests in progress, too.
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` for a user with a role.
    allowance: Option<Allowance>,
}

/// Rest of a connection of a user without a role.
struct Allowance {
    /// The connection ends then, if no request has come.
    without_request: Pin<Box<Sleep>>,
    /// The connection ends then, whatever it is doing.
    end: Pin<Box<Sleep>>,
    /// Number of bytes that are still read.
    bytes: usize,
}

impl<S> Conversation<S> {
    /// The conversation over a stream until `stop`. Its slot says whether it is one without a role.
    pub(super) fn new(stream: S, slot: Arc<Slot>, stop: CancellationToken) -> Self {
        let closed = Box::pin(slot.close_token().clone().cancelled_owned());
        let allowance = slot.idle_limit().map(|life| Allowance {
            without_request: Box::pin(tokio::time::sleep(REQUEST_WITHIN)),
            end: Box::pin(tokio::time::sleep(life)),
            bytes: MOST_WITHOUT_ROLE,
        });
        Self { stream, slot, closed, stopped: Box::pin(stop.cancelled_owned()), allowance }
    }

    /// Ready when nothing more is to be read.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let is_idle = !self.slot.is_busy();
        let closed = if is_idle { &mut self.closed } else { &mut self.stopped };
        if closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if let Some(allowance) = self.allowance.as_mut().filter(|_| is_idle)
            && allowance.without_request.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(());
        }
        self.poll_end(context)
    }

    /// Ready when the time of a user without a role is over.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.allowance {
            Some(allowance) => allowance.end.as_mut().poll(context),
            None => Poll::Pending,
        }
    }

    /// The result of writing, or an error if the time of a user without a role ends meanwhile.
    fn in_time<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match done {
            Poll::Pending => {
                ready!(self.poll_end(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            done => done,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Conversation<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // An end of file, as if the caller had closed the connection.
        let end_of_file = Poll::Ready(Ok(()));
        if self.allowance.as_ref().is_some_and(|allowance| allowance.bytes == 0) {
            return end_of_file;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            if !self.slot.is_busy() {
                self.slot.set_idle(Instant::now());
            }
            if let Some(allowance) = &mut self.allowance {
                allowance.bytes = allowance.bytes.saturating_sub(buffer.filled().len() - before);
            }
        } else if self.poll_closed(context).is_ready() {
            return end_of_file;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Conversation<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, data);
        self.in_time(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.in_time(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The process, if the kernel names it.
    pub(super) peer: Option<Peer>,
    pub(super) slot: Arc<Slot>,
}

impl Connected<IncomingStream<'_, Gate>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Maximum number of bytes that are read of a user without a role: enough for the header of a
/// request. The body of such a request is not read.
const MOST_WITHOUT_ROLE: usize = 16 * 1024;

/// Longest time from the start of a connection of a user without a role to the end of its request.
/// Programs send their request at once.
const REQUEST_WITHIN: Duration = Duration::from_secs(1);

/// Limits of connections. A command makes one connection; a collector of metrics keeps one open.
pub(super) const LIMITS: ConnectionLimits = ConnectionLimits { total: 128, per_user: 64 };

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{Instant as Clock, timeout};

    use super::*;

    struct Port {
        connections: Arc<Connections>,
        stop: CancellationToken,
    }

    impl Port {
        fn new() -> Self {
            Self { connections: Arc::new(Connections::new()), stop: CancellationToken::new() }
        }

        /// A connection of a user without a role: this end, and the end of the caller.
        fn connect(&self) -> Option<(Conversation<DuplexStream>, DuplexStream)> {
            let nobody = Peer::default();
            let admission =
                self.connections.admit_for(Owner::WithoutGrant, &nobody, false, LIMITS, &self.stop);
            let (Admission::Admitted(slot) | Admission::Replaced(_, slot)) = admission else { return None };
            let (own, of_caller) = duplex(64);
            Some((Conversation::new(own, Arc::new(slot), self.stop.clone()), of_caller))
        }
    }

    /// True if the connection ends before the clock moves on.
    async fn ends_now(conversation: &mut Conversation<DuplexStream>) -> bool {
        let read = timeout(Duration::ZERO, conversation.read_u8()).await;
        read.is_ok_and(|read| read.is_err())
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_closes_no_connection_with_a_request_and_then_finds_no_place() {
        let port = Port::new();
        let (mut scrape, mut collector) = port.connect().unwrap();
        collector.write_all(b"G").await.unwrap();
        assert_eq!(scrape.read_u8().await.unwrap(), b'G');
        scrape.slot.set_busy();
        let mut flood: Vec<_> = (0..200).map(|_| port.connect().unwrap()).collect();
        assert!(!ends_now(&mut scrape).await, "its request is in progress");
        assert!(ends_now(&mut flood[0].0).await && !ends_now(&mut flood[199].0).await, "the oldest idle one");
        scrape.write_all(b"page").await.unwrap();
        flood.drain(..137).for_each(drop);
        flood.iter().for_each(|(one, _)| one.slot.set_busy());
        assert!(port.connect().is_none(), "each of them has a request");
        assert!(!ends_now(&mut scrape).await);
        port.stop.cancel();
        assert!(ends_now(&mut scrape).await, "the daemon stops");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_soon_and_every_one_ends() {
        let (port, start) = (Port::new(), Clock::now());
        let (mut idle, _caller) = port.connect().unwrap();
        let (mut busy, _other) = port.connect().unwrap();
        busy.slot.set_busy();
        assert!(idle.read_u8().await.is_err());
        assert_eq!(start.elapsed().as_secs(), REQUEST_WITHIN.as_secs());
        assert!(busy.read_u8().await.is_err());
        assert_eq!(start.elapsed().as_secs(), 5, "also if the caller does not read the answer");
    }
}
