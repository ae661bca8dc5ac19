//! HTTP/2 over one connection, for requests whose body is complete before they are sent.
//!
//! A general client such as `tonic::transport::Channel` differs in two ways. It sends head, body
//! and end of a request one after the other: three writes for a signature, each of which wakes the
//! unit. Here a call is one write. And a general client reconnects by itself. But the pool must
//! know the end of a connection, since it asks for the master key of the unit once per connection.

use core::future::Future;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::sync::Arc;

use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tonic::codegen::{Service, http};

/// Makes an HTTP/2 handshake on a stream. A task of this thread serves the connection until it
/// ends.
///
/// # Errors
/// The error of h2 if the other end does not use HTTP/2.
pub(super) async fn handshake<S>(stream: S, keepalive: Duration) -> Result<Sender, h2::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, mut connection) = Builder::new().enable_push(false).handshake(stream).await?;
    let end = Arc::new(End::default());
    let (pings, ended) = (connection.ping_pong(), Arc::clone(&end));
    tokio::spawn(async move {
        let silent = async {
            match pings {
                Some(pings) => until_silent(pings, keepalive).await,
                None => core::future::pending().await,
            }
        };
        // Calls in progress get the error of the connection.
        tokio::select! {
            _ = connection => {}
            () = silent => {}
        }
        ended.set();
    });
    Ok(Sender { sender, end })
}

/// Pings the other end; returns when a ping is not answered in time.
async fn until_silent(mut pings: PingPong, keepalive: Duration) {
    loop {
        sleep(keepalive).await;
        match timeout(KEEPALIVE_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Sender of requests over a connection.
#[derive(Clone)]
pub(super) struct Sender {
    sender: SendRequest<Bytes>,
    end: Arc<End>,
}

impl Sender {
    /// True if the connection takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.end.has_come()
    }

    /// Waits until the connection takes no more requests.
    pub(super) async fn closed(&self) {
        self.end.wait().await;
    }

    async fn send(
        self,
        request: http::Request<tonic::body::Body>,
    ) -> Result<http::Response<Answer>, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| HttpError::Body)?.to_bytes();
        let head = http::Request::from_parts(head, ());
        let end = Arc::clone(&self.end);
        let end = |error| {
            // Calls in progress may still be answered. New calls use another connection.
            end.set();
            HttpError::Http(error)
        };
        let mut sender = self.sender.ready().await.map_err(end)?;
        let (response, mut stream) = sender.send_request(head, false).map_err(end)?;
        stream.send_data(body, true)?;
        Ok(response.await?.map(|body| Answer { body, trailers: false }))
    }
}

impl Service<http::Request<tonic::body::Body>> for Sender {
    type Response = http::Response<Answer>;
    type Error = HttpError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, HttpError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

/// End of a connection.
#[derive(Default)]
struct End {
    has_come: AtomicBool,
    notify: Notify,
}

impl End {
    fn set(&self) {
        self.has_come.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    fn has_come(&self) -> bool {
        self.has_come.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        let mut notified = pin!(self.notify.notified());
        // Registers the waiter before the check, so no notification is missed.
        notified.as_mut().enable();
        if !self.has_come() {
            notified.await;
        }
    }
}

/// Reason why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error("the request cannot be encoded")]
    Body,
    #[error(transparent)]
    Http(#[from] h2::Error),
}

/// Body of an answer, and the trailers with the status of gRPC.
pub(super) struct Answer {
    body: RecvStream,
    /// True if the trailers come next.
    trailers: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.trailers {
            match ready!(self.body.poll_data(context)) {
                Some(Ok(data)) => {
                    // Allows the other end to send the same number of bytes again.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.trailers = true,
            }
        }
        let trailers = ready!(self.body.poll_trailers(context))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Time limit for the answer to a ping.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
