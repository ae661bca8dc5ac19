//! HTTP/2 for requests that are complete when they are sent.
//!
//! A general client sends the head of a request, its body and its end one after the other, since it cannot know what
//! comes. Here all is known: it goes in one piece, which spares the unit being woken three times for one call.

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

/// Begins to speak HTTP/2, and goes on in a task of this thread until the connection ends.
///
/// # Errors
/// The other end speaks something else.
pub(super) async fn speak<S>(stream: S, keepalive: Duration) -> Result<Sender, h2::Error>
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
        // It ends with an error that those learn who have calls under way.
        tokio::select! {
            _ = connection => {}
            () = silent => {}
        }
        ended.tell();
    });
    Ok(Sender { sender, end })
}

/// Asks the other end again and again whether it is still there; returns when it is not.
async fn until_silent(mut pings: PingPong, keepalive: Duration) {
    loop {
        sleep(keepalive).await;
        match timeout(KEEPALIVE_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Sends requests over a connection.
#[derive(Clone)]
pub(super) struct Sender {
    sender: SendRequest<Bytes>,
    end: Arc<End>,
}

impl Sender {
    /// Whether it takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.end.has_come()
    }

    /// Waits until it takes no more requests.
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
            // It may live on for those who have calls under way, and is of no use to others.
            end.tell();
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

/// The end of a connection, for those who wait for it.
#[derive(Default)]
struct End {
    come: AtomicBool,
    told: Notify,
}

impl End {
    fn tell(&self) {
        self.come.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    fn has_come(&self) -> bool {
        self.come.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        let mut told = pin!(self.told.notified());
        // From here on it is not missed.
        told.as_mut().enable();
        if !self.has_come() {
            told.await;
        }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error("the request cannot be encoded")]
    Body,
    #[error(transparent)]
    Http(#[from] h2::Error),
}

/// The body of an answer, with its trailers, in which gRPC says what came of the call.
pub(super) struct Answer {
    body: RecvStream,
    /// Whether these come next.
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
                    // Room for as much again.
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

/// How long the other end may take to say that it is still there.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
