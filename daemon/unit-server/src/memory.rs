//! Limit on the memory of all requests and responses together. A request counts from its arrival
//! until its answer. A response counts until it is sent, because a client may leave it unread.
//!
//! A client may take at most as much memory as it leaves free. So a single client may have half of
//! the memory, each of n greedy clients the (n + 1)th part, and a part is left for the next client.

use core::pin::Pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::{Bytes, Frame, SizeHint};
use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::admission::Caller;
use super::clients::Client;
use super::status::status;

/// Service whose requests and responses have a limit on their memory.
#[derive(Clone)]
pub(crate) struct MemoryLimit<S> {
    service: S,
    /// Free memory, in KiB.
    free: Arc<Semaphore>,
}

impl<S> MemoryLimit<S> {
    /// Limits the requests and responses of a service to `kib` KiB.
    pub(crate) fn new(service: S, kib: usize) -> Self {
        Self { service, free: Arc::new(Semaphore::new(kib)) }
    }
}

impl<S: NamedService> NamedService for MemoryLimit<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for MemoryLimit<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = request.extensions().get::<Caller>().map(|caller| Arc::clone(&caller.client));
        let reservation =
            SharedReservation(Arc::new(Reservation { client: client.clone(), permit: Mutex::default() }));
        let mut request = request.map(|body| {
            let (free, reservation) = (Arc::clone(&self.free), reservation.clone());
            Body::new(RequestBody { body, free, reservation, length: 0 })
        });
        // The code that answers the call holds the extensions, and with them the memory.
        request.extensions_mut().insert(reservation);
        let (answer, free) = (self.service.call(request), Arc::clone(&self.free));
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(ResponseBody { body, free, client, refused: false })))
        })
    }
}

/// Reservation of a request. The drop of the last clone frees the memory.
#[derive(Clone)]
struct SharedReservation(Arc<Reservation>);

/// Memory that a request or response has taken for its client.
struct Reservation {
    client: Option<Arc<Client>>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Reservation {
    fn permit(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `kib` KiB more. `None` if less is free, or the client would have more than it leaves
    /// free.
    fn take(&self, kib: usize, free: &Arc<Semaphore>) -> Option<()> {
        let more = Arc::clone(free).try_acquire_many_owned(u32::try_from(kib).ok()?).ok()?;
        if let Some(client) = &self.client {
            let before = client.memory.fetch_add(kib, Ordering::Relaxed);
            if before + kib > free.available_permits() {
                client.memory.fetch_sub(kib, Ordering::Relaxed);
                return None;
            }
        }
        let mut held = self.permit();
        match held.as_mut() {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Some(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let kib = self.permit().as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if let Some(client) = &self.client {
            client.memory.fetch_sub(kib, Ordering::Relaxed);
        }
    }
}

/// Body of a request. The body takes memory for each received frame.
struct RequestBody {
    body: Body,
    free: Arc<Semaphore>,
    reservation: SharedReservation,
    /// Received bytes.
    length: usize,
}

impl RequestBody {
    fn count(&mut self, bytes: usize) -> Result<(), Status> {
        let before = self.length.div_ceil(1024);
        self.length += bytes;
        let more = self.length.div_ceil(1024) - before;
        if more == 0 {
            return Ok(());
        }
        self.reservation.0.take(more, &self.free).ok_or_else(|| {
            status(&Error::new(ckr::CKR_HOST_MEMORY, "too many large requests are under way; try again"))
        })
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.count(data.len())?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Body of a response. Its bytes hold their memory until they are sent.
struct ResponseBody {
    body: Body,
    free: Arc<Semaphore>,
    client: Option<Arc<Client>>,
    /// True after a refusal for lack of memory.
    refused: bool,
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.refused {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            end => return Poll::Ready(end),
        };
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
        };
        let held = Reservation { client: self.client.clone(), permit: Mutex::default() };
        let frame = match held.take(data.len().div_ceil(1024), &self.free) {
            Some(()) => Frame::data(Bytes::from_owner(UnsentBytes { data, _held: held })),
            None => {
                self.refused = true;
                let reason = "too many large responses are unread; read them, and try again";
                let mut trailers = http::HeaderMap::new();
                status(&Error::new(ckr::CKR_HOST_MEMORY, reason)).add_header(&mut trailers)?;
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.refused || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that are not sent yet, with their reservation.
struct UnsentBytes {
    data: Bytes,
    _held: Reservation,
}

impl AsRef<[u8]> for UnsentBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use http_body_util::{BodyExt, Full};

    use super::*;

    /// Service that answers a request with `answer` bytes. The response holds the extensions of the
    /// request, as a call under way does.
    #[derive(Clone)]
    struct Example {
        answer: usize,
    }

    impl Service<http::Request<Body>> for Example {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let (parts, body) = request.into_parts();
            let answer = self.answer;
            Box::pin(async move {
                let collected = body.collect().await;
                let mut answer = match collected {
                    Ok(_) => http::Response::new(Body::new(Full::new(Bytes::from(vec![7; answer])))),
                    Err(status) => status.into_http(),
                };
                *answer.extensions_mut() = parts.extensions;
                Ok(answer)
            })
        }
    }

    async fn ask(
        service: &mut MemoryLimit<Example>,
        caller: Option<&Caller>,
        bytes: usize,
    ) -> http::Response<Body> {
        let mut request = http::Request::new(Body::new(Full::new(Bytes::from(vec![0; bytes]))));
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller.clone());
        }
        let Ok(answer) = service.call(request).await;
        answer
    }

    /// Sends `bytes` bytes. The result holds the reservation until it is dropped.
    async fn send(
        service: &mut MemoryLimit<Example>,
        caller: Option<&Caller>,
        bytes: usize,
    ) -> Result<http::Extensions, Status> {
        let answer = ask(service, caller, bytes).await;
        Status::from_header_map(answer.headers()).map_or(Ok(answer.into_parts().0.extensions), Err)
    }

    #[tokio::test]
    async fn responses_hold_their_memory_until_they_are_sent() {
        let mut service = MemoryLimit::new(Example { answer: 2 * 1024 }, 10);
        let free = Arc::clone(&service.free);
        let mut answer = ask(&mut service, None, 0).await;
        let data = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(data.len(), 2 * 1024);
        drop(answer);
        assert_eq!(free.available_permits(), 8, "the call has ended, and its response is not sent");
        let part = data.slice(5..6);
        drop(data);
        assert_eq!(free.available_permits(), 8);
        drop(part);
        assert_eq!(free.available_permits(), 10);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_refused_and_others_are_answered() {
        let mut service = MemoryLimit::new(Example { answer: 2 * 1024 }, 10);
        let [one, other] = Caller::examples();
        let mut unread = Vec::new();
        let refused = loop {
            let mut answer = ask(&mut service, Some(&one), 0).await;
            let frame = answer.body_mut().frame().await.unwrap().unwrap();
            match frame.into_data() {
                Ok(data) => unread.push(data),
                Err(frame) => {
                    assert!(answer.body_mut().frame().await.is_none());
                    break Status::from_header_map(frame.trailers_ref().unwrap()).unwrap();
                }
            }
        };
        assert!(refused.message().starts_with("CKR_HOST_MEMORY: "), "{refused}");
        assert_eq!(unread.len(), 2, "a client may have as much as it leaves free");
        let mut answer = ask(&mut service, Some(&other), 0).await;
        assert!(answer.body_mut().frame().await.unwrap().unwrap().is_data());
    }

    #[tokio::test]
    async fn reservations_are_bounded_and_freed() {
        let mut service = MemoryLimit::new(Example { answer: 0 }, 10);
        let first = send(&mut service, None, 6 * 1024).await.unwrap();
        let second = send(&mut service, None, 3 * 1024 + 1).await.unwrap();
        let refused = send(&mut service, None, 1).await.unwrap_err();
        assert!(refused.message().starts_with("CKR_HOST_MEMORY: "), "{refused}");
        drop(second);
        let third = send(&mut service, None, 4 * 1024).await.unwrap();
        assert!(send(&mut service, None, 1).await.is_err());
        drop((first, third));
        send(&mut service, None, 10 * 1024).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_leaves_memory_to_others() {
        let mut service = MemoryLimit::new(Example { answer: 0 }, 12);
        let [one, other] = Caller::examples();
        let first = send(&mut service, Some(&one), 6 * 1024).await.unwrap();
        assert!(send(&mut service, Some(&one), 1).await.is_err());
        let second = send(&mut service, Some(&other), 3 * 1024).await.unwrap();
        assert!(send(&mut service, Some(&other), 1).await.is_err());
        assert!(send(&mut service, Some(&one), 1).await.is_err());
        drop(second);
        drop(first);
        assert_eq!(one.client.memory.load(Ordering::Relaxed), 0);
        send(&mut service, Some(&one), 6 * 1024).await.unwrap();
    }
}
