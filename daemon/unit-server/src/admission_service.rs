//! Admission of each call: a call is refused before its message is read, or admitted and counted
//! until it ends.

use core::future::{Future, ready};
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use hyper::body::{Bytes, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::admission::Admission;
use super::limits::AnonymousCall;

/// Service that passes admitted calls to another service.
#[derive(Clone)]
pub(crate) struct AdmissionService<S> {
    service: S,
    admission: Arc<Admission>,
}

impl<S> AdmissionService<S> {
    pub(crate) fn new(service: S, admission: Arc<Admission>) -> Self {
        Self { service, admission }
    }
}

impl<S> Service<http::Request<Body>> for AdmissionService<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error: Send + 'static,
            Future: Send + 'static,
        >,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    /// Decides before the future is polled, so the next call of the connection finds its client
    /// known.
    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.admission.check(&mut request) {
            Ok(None) => Box::pin(self.service.call(request)),
            Ok(Some(call)) => {
                let answered = self.service.call(request);
                Box::pin(async move {
                    Ok(answered.await?.map(|body| Body::new(CountedBody { body, _call: call })))
                })
            }
            Err(status) => Box::pin(ready(Ok(status.into_http()))),
        }
    }
}

/// Body of a response. The call counts until the body is dropped.
struct CountedBody {
    body: Body,
    _call: AnonymousCall,
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
