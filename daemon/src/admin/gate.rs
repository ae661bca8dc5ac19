//! The administrators' socket for axum: the caller of each connection, and the limit of
//! connections.
//!
//! Idle connections, such as those of a program that forgot to close them, do not block an
//! administrator: at the limit, a new connection replaces the connection that has been idle
//! longest.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::is_administrator;
use crate::peers::connections::{Admission, ConnectionLimits, Connections, Slot};
use crate::peers::credentials::credentials;
use crate::peers::listener::PAUSE;
use crate::peers::owner::Owner;
use crate::policy::authorise::Peer;

/// The socket.
pub(super) struct Gate {
    listener: UnixListener,
    connections: Arc<Connections>,
    /// Token that is never cancelled: requests in progress are answered when the daemon stops.
    never: CancellationToken,
}

impl Gate {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, connections: Arc::new(Connections::new()), never: CancellationToken::new() }
    }

    fn admit(&self, stream: UnixStream) -> Option<(Conversation, Caller)> {
        let caller = credentials(&stream);
        let peer = caller.clone().unwrap_or_default();
        // Other users get an answer that refuses them. The mode of the socket stops most of them
        // earlier.
        let owner = match caller.as_ref().is_some_and(is_administrator) {
            true => Owner::Named { uid: peer.uid, service: None },
            false => Owner::WithoutGrant,
        };
        match self.connections.admit_for(owner, &peer, false, LIMITS, &self.never) {
            Admission::Admitted(slot) | Admission::Replaced(_, slot) => {
                let closed = Box::pin(slot.close_token().clone().cancelled_owned());
                Some((Conversation { stream, slot, closed }, Caller(caller)))
            }
            Admission::Refused => None,
        }
    }
}

impl Listener for Gate {
    type Io = Conversation;
    type Addr = Caller;

    async fn accept(&mut self) -> (Conversation, Caller) {
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
pub(super) struct Conversation {
    stream: UnixStream,
    slot: Slot,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl AsyncRead for Conversation {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.slot.set_idle(Instant::now());
        } else if self.closed.as_mut().poll(context).is_ready() {
            // An end of file, as if the caller had closed the connection.
            return Poll::Ready(Ok(()));
        }
        read
    }
}

impl AsyncWrite for Conversation {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
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

/// Limits of connections. A command makes one connection; a collector of metrics keeps one open.
const LIMITS: ConnectionLimits = ConnectionLimits { total: 128, per_user: 64 };
