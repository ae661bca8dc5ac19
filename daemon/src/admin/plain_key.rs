//! A private key in the clear on its way to the unit.

use core::time::Duration;

use axum::RequestExt;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use http_body_util::BodyExt;
use tokio::runtime::Handle;
use zeroize::{Zeroize, Zeroizing};

use super::AdminError;
use crate::admin::api::MAX_KEY_FILE;

/// The key file in the body of a request. This copy is wiped when the value is dropped. The parts
/// that the HTTP server has read are wiped a moment later: they share a buffer with the connection
/// until the connection is closed.
pub(super) struct PlainKey {
    file: Zeroizing<Vec<u8>>,
    read: Read,
}

impl<S: Sync> FromRequest<S> for PlainKey {
    type Rejection = AdminError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AdminError> {
        let mut body = request.into_limited_body();
        // The full capacity at once, since a vector that grows leaves copies of its bytes in
        // memory.
        let file = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE));
        let mut key = Self { file, read: Read { parts: Vec::new(), runtime: Handle::current() } };
        while let Some(frame) = body.frame().await {
            let Ok(part) = frame.map_err(|_| AdminError::TooLong)?.into_data() else { continue };
            key.read.parts.push(part.clone());
            if key.file.len() + part.len() > MAX_KEY_FILE {
                return Err(AdminError::TooLong);
            }
            key.file.extend_from_slice(&part);
        }
        Ok(key)
    }
}

impl AsRef<[u8]> for PlainKey {
    fn as_ref(&self) -> &[u8] {
        &self.file
    }
}

/// The parts of the body, as the HTTP server has read them.
struct Read {
    parts: Vec<Bytes>,
    /// Runtime that wipes the parts. The thread that drops the key may have another runtime, or
    /// none.
    runtime: Handle,
}

impl Drop for Read {
    fn drop(&mut self) {
        let mut parts = core::mem::take(&mut self.parts);
        drop(self.runtime.spawn(async move {
            for _ in 0..ATTEMPTS {
                parts = parts.into_iter().filter_map(wiped).collect();
                if parts.is_empty() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }));
    }
}

/// Wipes bytes that nobody else holds. Returns bytes that somebody else still holds.
fn wiped(bytes: Bytes) -> Option<Bytes> {
    bytes.try_into_mut().map(|mut bytes| bytes.zeroize()).err()
}

/// Time between attempts. The connection closes after the answer, so one attempt soon succeeds.
const PAUSE: Duration = Duration::from_millis(20);
const ATTEMPTS: usize = 500;
