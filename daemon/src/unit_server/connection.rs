//! Connections: how many, for how long, and that one can be cut from within a call.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

/// Accepts connections until nobody takes them any more. While there are `most` of them, others wait.
pub(crate) async fn accept(
    listener: TcpListener,
    most: usize,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let places = Arc::new(Semaphore::new(most));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        match accepted.and_then(|(stream, _)| Connection::new(stream, place)) {
            Ok(connection) => {
                if connections.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Most likely there are no descriptors, and there will not be any more in a microsecond.
                sleep(PAUSE).await;
            }
        }
    }
}

/// A TCP connection of a client. Ends if nothing was heard for [`SILENCE`].
pub(crate) struct Connection {
    stream: TcpStream,
    cut: Cut,
    silence: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// # Errors
    /// If there is no descriptor left for the handle to cut it by.
    fn new(stream: TcpStream, place: OwnedSemaphorePermit) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let cut = Cut(Arc::new(stream.as_fd().try_clone_to_owned()?));
        Ok(Self { stream, cut, silence: Box::pin(sleep(SILENCE)), _place: place })
    }
}

/// Cuts a connection. Every call has that of its connection among its extensions.
#[derive(Clone)]
pub(crate) struct Cut(Arc<OwnedFd>);

impl Cut {
    /// Ends the connection at once, in the middle of whatever it carries.
    pub(crate) fn now(&self) {
        // Fails only if the connection is no more.
        let _ = shutdown(&*self.0, Shutdown::Both);
    }
}

impl Connected for Connection {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        self.cut.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.silence.as_mut().reset(Instant::now() + SILENCE);
        } else if self.silence.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
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

const PAUSE: Duration = Duration::from_millis(100);
/// How long nothing may be heard from a client. Once HTTP/2 is spoken a live one answers a ping every 30 seconds, so
/// this ends the others.
const SILENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn accepting(most: usize) -> (core::net::SocketAddr, mpsc::Receiver<io::Result<Connection>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, accepted) = mpsc::channel(1);
        tokio::spawn(accept(listener, most, connections));
        (address, accepted)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection() {
        let (address, mut accepted) = accepting(1).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut connection = accepted.recv().await.unwrap().unwrap();
        client.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        connection.read_exact(&mut word).await.unwrap();
        let start = Instant::now();
        let error = connection.read_exact(&mut word).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= SILENCE, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_next_one_waits_for_a_place() {
        let (address, mut accepted) = accepting(1).await;
        let _first_client = TcpStream::connect(address).await.unwrap();
        let first = accepted.recv().await.unwrap().unwrap();
        let _second_client = TcpStream::connect(address).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), accepted.recv());
        assert!(early.await.is_err(), "accepted while there was no place");
        first.cut.now();
        drop(first);
        accepted.recv().await.unwrap().unwrap();
    }
}
