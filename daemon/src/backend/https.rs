//! One request over HTTPS to a server outside of this machine, with limits.
//!
//! The connection is made for the request and closed after it: requests are minutes apart. A pooled
//! client would need a connector over [`TlsClient`], which is longer than the handshake here.

use std::io;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;
use zeroize::Zeroizing;

use super::network::{self, Refusal, TlsClient};
use crate::config::Endpoint;

/// Form of a request (application/x-www-form-urlencoded), wiped when it is dropped.
pub(super) struct Form(Zeroizing<String>);

impl Form {
    pub(super) fn new() -> Self {
        // Large enough for the forms here, so that growing leaves no copy behind.
        Self(Zeroizing::new(String::with_capacity(1024)))
    }

    /// The form with one more field.
    #[must_use]
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, ENCODED));
        self
    }
}

impl AsRef<[u8]> for Form {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Posts a form, and returns the status and the body of the answer, which is at most `most` bytes.
///
/// # Errors
/// [`HttpError`] says how far it came.
pub(super) async fn post(
    server: &Endpoint,
    path: &str,
    tls: &TlsClient,
    form: Form,
    most: usize,
) -> Result<(StatusCode, Bytes), HttpError> {
    let connect = |reason| HttpError::Connect(server.clone(), reason);
    let (stream, _) = network::connect(server).await.map_err(connect)?;
    let stream = tls.connect(&server.host, stream, &Refusal::default()).await.map_err(connect)?;
    let http = |reason| HttpError::Http(server.clone(), reason);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", server.to_string())
        .header("accept", "application/json")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from_owner(form)));
    let request = request.map_err(|_| HttpError::Path(path.to_owned()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), most).collect().await;
    connection.abort();
    let answer = answer.map_err(|_| HttpError::Answer(server.clone()))?;
    Ok((status, answer.to_bytes()))
}

/// Reason why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error("the answer of {0} is too long or cut off")]
    Answer(Endpoint),
    #[error("cannot connect to {0}: {1}")]
    Connect(Endpoint, #[source] io::Error),
    #[error("cannot speak with {0}: {1}")]
    Http(Endpoint, #[source] hyper::Error),
    #[error("{0:?} is not a path")]
    Path(String),
}

/// Characters that a value of a form has in encoded form.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let form = Form::new().with("first", "aZ0-._ +&=/\u{e4}").with("second", "");
        assert_eq!(form.as_ref(), b"first=aZ0-._%20%2B%26%3D%2F%C3%A4&second=");
    }
}
