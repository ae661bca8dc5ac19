//! Connections. Each connection is accepted at once, and does its TLS handshake in a task of its
//! own. A silent connection is closed.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tonic::transport::server::Connected;

use super::admission::Admission;
use super::limits::{ConnectionSlot, Handle};
use super::turns::Handshakes;
use keyward_ground::renewed::Renewed;
use keyward_ground::text::printable;
use keyward_ground::throttle::Throttle;

/// Accepts connections until the receiver of `connections` is closed. A slow handshake does not
/// delay other connections.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Renewed<TlsAcceptor>>>,
    admission: Arc<Admission>,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let (handshakes, refused) = (Arc::new(Handshakes::new()), Throttle::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        let entered = accepted.and_then(|(stream, address)| {
            let slot = admission.limits.enter(&stream, address.ip())?;
            Ok((stream, slot))
        });
        match entered {
            Ok((stream, slot)) => {
                let tls = tls.as_ref().map(|tls| tls.get());
                let (admission, connections) = (Arc::clone(&admission), connections.clone());
                let handshakes = Arc::clone(&handshakes);
                tokio::spawn(async move {
                    if let Some(connection) = open(stream, slot, tls, &admission, &handshakes).await {
                        // Fails only when the server stops.
                        let _ = connections.send(Ok(connection)).await;
                    }
                });
            }
            // The client has closed the connection already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(times) = refused.admit() {
                    tracing::warn!(%error, times, "cannot accept a connection");
                }
                // The most likely reason is that no descriptor is left.
                admission.limits.make_room();
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Does the TLS handshake, unless the connection is plaintext. `None` if the handshake fails.
async fn open(
    stream: TcpStream,
    slot: ConnectionSlot,
    tls: Option<Arc<TlsAcceptor>>,
    admission: &Admission,
    handshakes: &Handshakes,
) -> Option<Connection> {
    stream.set_nodelay(true).ok()?;
    let stream = match tls {
        None => Either::Left(stream),
        Some(tls) => {
            let source = slot.handle.source();
            let client = admission.client_of_address(source);
            let handshake = handshakes.in_turn(client.number, tls.accept(stream));
            match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Some(Ok(stream))) => Either::Right(Box::new(stream)),
                Ok(Some(Err(error))) => {
                    // No log line for a client that only probes the port and closes the connection.
                    if let Some(reason) = refusal(&error)
                        && let Some(times) = client.refusals.admit("handshake", 0)
                    {
                        tracing::warn!(times, from = %source, "the TLS handshake failed: {reason}");
                    }
                    return None;
                }
                Ok(None) | Err(_) => return None,
            }
        }
    };
    if let Either::Right(stream) = &stream
        && let Some([certificate, ..]) = stream.get_ref().1.peer_certificates()
    {
        slot.handle.set_certificate(Sha256::digest(certificate).into());
        if !admission.connect(&slot.handle) {
            return None;
        }
    }
    Some(Connection { stream, silence: Box::pin(sleep(MAX_SILENCE)), slot })
}

/// Reason why a handshake failed. `None` for an error of the connection, not of TLS.
fn refusal(error: &io::Error) -> Option<String> {
    Some(match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::NoCertificatesPresented => {
            "the client has no certificate, and --client-ca requires one".into()
        }
        rustls::Error::InvalidCertificate(reason) => {
            format!("the certificate of the client is not valid for --client-ca: {reason}")
        }
        rustls::Error::AlertReceived(alert) => format!("the client refused this server: {alert:?}"),
        other => printable(&other.to_string()),
    })
}

/// Connection of a client. Fails if no byte arrives for [`MAX_SILENCE`].
pub(crate) struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    silence: Pin<Box<Sleep>>,
    slot: ConnectionSlot,
}

impl Connected for Connection {
    type ConnectInfo = Handle;

    fn connect_info(&self) -> Handle {
        self.slot.handle.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            if !self.slot.handle.allows_bytes(buffer.filled().len() - before) {
                self.slot.handle.close_over_allowance();
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            self.silence.as_mut().reset(Instant::now() + MAX_SILENCE);
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

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time without a byte from a client. A live HTTP/2 client answers a ping every 30 seconds,
/// so only other connections reach this limit.
const MAX_SILENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn accepting() -> (core::net::SocketAddr, mpsc::Receiver<io::Result<Connection>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, accepted) = mpsc::channel(1);
        tokio::spawn(accept(listener, None, Arc::new(Admission::new(None)), connections));
        (address, accepted)
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection() {
        let (address, mut accepted) = accepting().await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut connection = accepted.recv().await.unwrap().unwrap();
        client.write_all(b"data").await.unwrap();
        let mut data = [0; 4];
        connection.read_exact(&mut data).await.unwrap();
        let start = Instant::now();
        let error = connection.read_exact(&mut data).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= MAX_SILENCE, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn one_connection_is_closed_and_others_are_accepted() {
        let (address, mut accepted) = accepting().await;
        let mut first_client = TcpStream::connect(address).await.unwrap();
        let first = accepted.recv().await.unwrap().unwrap();
        first.connect_info().close();
        assert_eq!(first_client.read(&mut [0]).await.unwrap(), 0);
        let _second_client = TcpStream::connect(address).await.unwrap();
        accepted.recv().await.unwrap().unwrap();
    }
}
