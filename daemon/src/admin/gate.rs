//! The administrators' socket as axum takes it: who is calling, and how many may.
//!
//! Connections that nobody uses any more, of a program that forgot to close them for example, do not keep an
//! administrator out: the one that has been silent longest is closed for a new one.

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
use crate::peers::connections::{Connections, Entry, Limits, Name, Place};
use crate::peers::credentials::credentials;
use crate::peers::listener::PAUSE;
use crate::policy::authorise::Peer;

/// The socket.
pub(super) struct Gate {
    listener: UnixListener,
    connections: Arc<Connections>,
    /// Never cancelled: requests that are under way when the daemon stops are answered.
    never: CancellationToken,
}

impl Gate {
    pub(super) fn new(listener: UnixListener) -> Self {
        Self { listener, connections: Arc::new(Connections::new()), never: CancellationToken::new() }
    }

    fn admit(&self, stream: UnixStream) -> Option<(Conversation, Caller)> {
        let caller = credentials(&stream);
        let peer = caller.clone().unwrap_or_default();
        // Others are told that they may not do anything here; the mode of the socket keeps them out in any case.
        let name = match caller.as_ref().is_some_and(is_administrator) {
            true => Name::User { uid: peer.uid, service: None },
            false => Name::Stranger,
        };
        match self.connections.enter_as(name, &peer, false, LIMITS, &self.never) {
            Entry::Admitted(place) | Entry::InPlaceOf(_, place) => {
                let closed = Box::pin(place.close().clone().cancelled_owned());
                Some((Conversation { stream, place, closed }, Caller(caller)))
            }
            Entry::Refused => None,
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

/// The connection of a caller. Ends when its place is needed.
pub(super) struct Conversation {
    stream: UnixStream,
    place: Place,
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
            self.place.idle(Instant::now());
        } else if self.closed.as_mut().poll(context).is_ready() {
            // As if the caller had closed it.
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

/// Who is on the other end, if the kernel says so.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Option<Peer>);

impl Connected<IncomingStream<'_, Gate>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        stream.remote_addr().clone()
    }
}

/// An administrator makes a connection for each command; a collector of metrics keeps one.
const LIMITS: Limits = Limits { total: 128, per_user: 64 };
