//! A bound on the memory that requests take, all of them together, while they arrive and until they are answered.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::{Bytes, Frame, SizeHint};
use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::service::status;

/// A service whose requests take no more memory than there is for them.
#[derive(Clone)]
pub(crate) struct Bounded<S> {
    service: S,
    /// In KiB.
    free: Arc<Semaphore>,
}

impl<S> Bounded<S> {
    /// Bounds the requests of a service to as many KiB.
    pub(crate) fn new(service: S, kib: usize) -> Self {
        Self { service, free: Arc::new(Semaphore::new(kib)) }
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Bounded<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let taken = Taken::default();
        let mut request = request.map(|body| {
            Body::new(Counted { body, free: Arc::clone(&self.free), taken: taken.clone(), length: 0 })
        });
        // Held by whoever answers.
        request.extensions_mut().insert(taken);
        self.service.call(request)
    }
}

/// What a request has taken, given back when the last of these goes.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Taken {
    fn add(&self, more: OwnedSemaphorePermit) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
    }
}

/// A body that takes the memory for what it brings.
struct Counted {
    body: Body,
    free: Arc<Semaphore>,
    taken: Taken,
    /// What has come, in bytes.
    length: usize,
}

impl Counted {
    fn count(&mut self, bytes: usize) -> Result<(), Status> {
        let before = self.length.div_ceil(1024);
        self.length += bytes;
        let more = u32::try_from(self.length.div_ceil(1024) - before).unwrap_or(u32::MAX);
        if more > 0 {
            let permit = Arc::clone(&self.free).try_acquire_many_owned(more).map_err(|_| {
                status(&Error::new(ckr::CKR_HOST_MEMORY, "there are too many large requests at a time"))
            })?;
            self.taken.add(permit);
        }
        Ok(())
    }
}

impl hyper::body::Body for Counted {
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

#[cfg(test)]
mod tests {
    use core::convert::Infallible;
    use core::future::Ready;

    use http_body_util::{BodyExt, Full};

    use super::*;

    /// Gives a request back, as one that is at work.
    #[derive(Clone)]
    struct Hold;

    impl Service<http::Request<Body>> for Hold {
        type Response = http::Request<Body>;
        type Error = Infallible;
        type Future = Ready<Result<http::Request<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            core::future::ready(Ok(request))
        }
    }

    /// Sends that many bytes; holds what was taken until the outcome is dropped.
    async fn send(service: &mut Bounded<Hold>, bytes: usize) -> Result<http::Extensions, Status> {
        let body = Body::new(Full::new(Bytes::from(vec![0; bytes])));
        let Ok(request) = service.call(http::Request::new(body)).await;
        let (parts, body) = request.into_parts();
        body.collect().await?;
        Ok(parts.extensions)
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_given_back() {
        let mut service = Bounded::new(Hold, 10);
        let first = send(&mut service, 6 * 1024).await.unwrap();
        let second = send(&mut service, 3 * 1024 + 1).await.unwrap();
        let refused = send(&mut service, 1).await.unwrap_err();
        assert!(refused.message().starts_with("CKR_HOST_MEMORY: "), "{refused}");
        drop(second);
        let third = send(&mut service, 4 * 1024).await.unwrap();
        assert!(send(&mut service, 1).await.is_err());
        drop((first, third));
        send(&mut service, 10 * 1024).await.unwrap();
    }
}
