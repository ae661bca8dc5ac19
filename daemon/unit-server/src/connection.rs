//! Connections: accepted at once, each proving itself on its own and in turn, and ended if nothing
//! is heard.

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
use super::limits::{Handle, Place};
use super::turns::Handshakes;
use keyward_ground::renewed::Renewed;
use keyward_ground::text::printable;
use keyward_ground::throttle::Throttle;

/// Accepts connections until nobody takes them any more. It waits for none of them.
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
            let place = admission.limits.enter(&stream, address.ip())?;
            Ok((stream, place))
        });
        match entered {
            Ok((stream, place)) => {
                let tls = tls.as_ref().map(|tls| tls.get());
                let (admission, connections) = (Arc::clone(&admission), connections.clone());
                let handshakes = Arc::clone(&handshakes);
                tokio::spawn(async move {
                    if let Some(connection) = open(stream, place, tls, &admission, &handshakes).await {
                        // Fails only if the server stops.
                        let _ = connections.send(Ok(connection)).await;
                    }
                });
            }
            // Its client has given up already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if let Some(times) = refused.admit() {
                    tracing::warn!(%error, times, "cannot accept a connection");
                }
                // Most likely there are no descriptors.
                admission.limits.make_room();
                sleep(PAUSE).await;
            }
        }
    }
}

/// Does the handshake of TLS, if there is one to do. `None` if it came to nothing.
async fn open(
    stream: TcpStream,
    place: Place,
    tls: Option<Arc<TlsAcceptor>>,
    admission: &Admission,
    handshakes: &Handshakes,
) -> Option<Connection> {
    stream.set_nodelay(true).ok()?;
    let stream = match tls {
        None => Either::Left(stream),
        Some(tls) => {
            let source = place.handle.source();
            let stranger = admission.stranger(source);
            let handshake = handshakes.in_turn(stranger.number, tls.accept(stream));
            match timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Some(Ok(stream))) => Either::Right(Box::new(stream)),
                Ok(Some(Err(error))) => {
                    // Who only looks whether somebody listens hangs up without a word.
                    if let Some(reason) = refusal(&error)
                        && let Some(times) = stranger.refusals.admit("handshake", 0)
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
        place.handle.set_certificate(Sha256::digest(certificate).into());
        if !admission.connect(&place.handle) {
            return None;
        }
    }
    Some(Connection { stream, silence: Box::pin(sleep(SILENCE)), place })
}

/// Why a handshake failed, if that was for what TLS has to say.
fn refusal(error: &io::Error) -> Option<String> {
    Some(match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::NoCertificatesPresented => {
            "the client has no certificate, and --client-ca asks for one".into()
        }
        rustls::Error::InvalidCertificate(reason) => {
            format!("the certificate of the client is none that --client-ca stands for: {reason}")
        }
        rustls::Error::AlertReceived(alert) => format!("the client refused this server: {alert:?}"),
        other => printable(&other.to_string()),
    })
}

/// A connection of a client. Ends if nothing was heard for [`SILENCE`].
pub(crate) struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    silence: Pin<Box<Sleep>>,
    place: Place,
}

impl Connected for Connection {
    type ConnectInfo = Handle;

    fn connect_info(&self) -> Handle {
        self.place.handle.clone()
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
            if !self.place.handle.allows_bytes(buffer.filled().len() - before) {
                self.place.handle.cut_stranger();
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
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
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nothing may be heard from a client. Once HTTP/2 is spoken a live one answers a ping every 30 seconds, so
/// this ends the others.
const SILENCE: Duration = Duration::from_secs(60);

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
        client.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        connection.read_exact(&mut word).await.unwrap();
        let start = Instant::now();
        let error = connection.read_exact(&mut word).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(start.elapsed() >= SILENCE, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_connection_is_cut_and_others_come() {
        let (address, mut accepted) = accepting().await;
        let mut first_client = TcpStream::connect(address).await.unwrap();
        let first = accepted.recv().await.unwrap().unwrap();
        first.connect_info().cut();
        assert_eq!(first_client.read(&mut [0]).await.unwrap(), 0);
        let _second_client = TcpStream::connect(address).await.unwrap();
        accepted.recv().await.unwrap().unwrap();
    }
}
