//! The administrators' socket for axum: the caller of each connection, and the limit of
//! connections.
//!
//! Idle connections, such as those of a program that forgot to close them, do not block an
//! administrator: at the limit, a new connection replaces the connection that has been idle
//! longest.
//!
//! Users without a role share a few connections. Each of these connections has a short life, and
//! room for one request without a body.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
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
                Some((Conversation::new(stream, slot), Caller(caller)))
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

/// The connection of a caller. The connection ends when a new connection needs its slot.
pub(super) struct Conversation<S> {
    stream: S,
    slot: Slot,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// `None` for a user with a role.
    allowance: Option<Allowance>,
}

/// Rest of a connection of a user without a role.
struct Allowance {
    /// The connection ends then, whatever it is doing.
    end: Pin<Box<Sleep>>,
    /// Number of bytes that are still read.
    bytes: usize,
}

impl<S> Conversation<S> {
    /// The conversation over a stream. Its slot says whether it is one without a role.
    pub(super) fn new(stream: S, slot: Slot) -> Self {
        let closed = Box::pin(slot.close_token().clone().cancelled_owned());
        let allowance = slot
            .idle_limit()
            .map(|life| Allowance { end: Box::pin(tokio::time::sleep(life)), bytes: MOST_WITHOUT_ROLE });
        Self { stream, slot, closed, allowance }
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
            self.slot.set_idle(Instant::now());
            if let Some(allowance) = &mut self.allowance {
                allowance.bytes = allowance.bytes.saturating_sub(buffer.filled().len() - before);
            }
        } else if self.closed.as_mut().poll(context).is_ready() || self.poll_end(context).is_ready() {
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

/// The process at the other end, if the kernel names it.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Option<Peer>);

impl Connected<IncomingStream<'_, Gate>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Maximum number of bytes that are read of a user without a role: enough for the header of a
/// request. The body of such a request is not read.
const MOST_WITHOUT_ROLE: usize = 16 * 1024;

/// Limits of connections. A command makes one connection; a collector of metrics keeps one open.
pub(super) const LIMITS: ConnectionLimits = ConnectionLimits { total: 128, per_user: 64 };
