//! A bound on the memory that requests take, all of them together, while they arrive and until they are answered.
//!
//! A client may take as much as it leaves free. So one client alone may have half of the memory, and each of n that
//! want as much as they can get, the (n + 1)th part, and something is left for the next one.

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
        let client = request.extensions().get::<Caller>().map(|caller| Arc::clone(&caller.client));
        let taken = Taken(Arc::new(Held { client, permit: Mutex::default() }));
        let mut request = request.map(|body| {
            Body::new(Counted { body, free: Arc::clone(&self.free), taken: taken.clone(), length: 0 })
        });
        // Held by whoever answers.
        request.extensions_mut().insert(taken);
        self.service.call(request)
    }
}

/// What a request has taken, given back when the last of these goes.
#[derive(Clone)]
struct Taken(Arc<Held>);

struct Held {
    client: Option<Arc<Client>>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Held {
    fn permit(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes as many KiB more. `None` if there are not as many, or the client would have more than it leaves.
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

impl Drop for Held {
    fn drop(&mut self) {
        let kib = self.permit().as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if let Some(client) = &self.client {
            client.memory.fetch_sub(kib, Ordering::Relaxed);
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
        let more = self.length.div_ceil(1024) - before;
        if more == 0 {
            return Ok(());
        }
        self.taken.0.take(more, &self.free).ok_or_else(|| {
            status(&Error::new(ckr::CKR_HOST_MEMORY, "there are too many large requests at a time"))
        })
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
    async fn send(
        service: &mut Bounded<Hold>,
        caller: Option<&Caller>,
        bytes: usize,
    ) -> Result<http::Extensions, Status> {
        let mut request = http::Request::new(Body::new(Full::new(Bytes::from(vec![0; bytes]))));
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller.clone());
        }
        let Ok(request) = service.call(request).await;
        let (parts, body) = request.into_parts();
        body.collect().await?;
        Ok(parts.extensions)
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_given_back() {
        let mut service = Bounded::new(Hold, 10);
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
    async fn a_client_leaves_something_to_others() {
        let mut service = Bounded::new(Hold, 12);
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
