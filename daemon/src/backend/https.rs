//! One request over HTTPS to a server, with limits.
//!
//! Each request has a connection of its own, since requests are minutes apart. A pooled client
//! would need a connector over [`TlsClient`], which is longer than the code here.

use std::io;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

use super::network::{self, TlsClient, TlsRefusal};
use crate::config::Endpoint;

/// Form of a request (application/x-www-form-urlencoded). Dropping the form wipes its bytes.
pub(super) struct UrlForm(Zeroizing<String>);

impl UrlForm {
    pub(super) fn new() -> Self {
        // Large enough for the forms here: a string that grows leaves copies in memory.
        Self(Zeroizing::new(String::with_capacity(1024)))
    }

    /// Adds a field to the form.
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

impl AsRef<[u8]> for UrlForm {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Posts a form. Returns the status and the body of the answer, which has at most `most` bytes.
///
/// # Errors
/// [`HttpError`] says which step failed.
pub(super) async fn post(
    server: &Endpoint,
    path: &str,
    tls: &TlsClient,
    form: UrlForm,
    most: usize,
) -> Result<(StatusCode, Bytes), HttpError> {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from_owner(form)));
    let request = request.map_err(|_| HttpError::Path(path.to_owned()))?;
    send(server, Some(tls), request, most).await
}

/// Sends a request for JSON to a server: over TLS, or without TLS to a server on this machine.
/// Follows no redirection. Returns the status and the body of the answer, which has at most `most`
/// bytes. The caller limits the time.
///
/// # Errors
/// [`HttpError`] says which step failed.
pub(crate) async fn send(
    server: &Endpoint,
    tls: Option<&TlsClient>,
    mut request: Request<Full<Bytes>>,
    most: usize,
) -> Result<(StatusCode, Bytes), HttpError> {
    let host = HeaderValue::try_from(server.to_string());
    let host = host.map_err(|error| HttpError::Connect(server.clone(), io::Error::other(error)))?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    let connect = |reason| HttpError::Connect(server.clone(), reason);
    let (stream, _) = network::connect(server).await.map_err(connect)?;
    match tls {
        Some(tls) => {
            let secured = tls.connect(&server.host, stream, &TlsRefusal::default()).await;
            exchange(server, secured.map_err(connect)?, request, most).await
        }
        // The name of a host can lead anywhere: the address decides.
        None => match stream.peer_addr().map_err(connect)?.ip().is_loopback() {
            true => exchange(server, stream, request, most).await,
            false => Err(HttpError::Plain(server.clone())),
        },
    }
}

async fn exchange(
    server: &Endpoint,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    most: usize,
) -> Result<(StatusCode, Bytes), HttpError> {
    let http = |reason| HttpError::Http(server.clone(), reason);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), most).collect().await;
    connection.abort();
    let answer = answer.map_err(|_| HttpError::Answer(server.clone()))?;
    Ok((status, answer.to_bytes()))
}

/// Reason why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    #[error("the answer of {0} is too long or not complete")]
    Answer(Endpoint),
    #[error("cannot connect to {0}: {1}")]
    Connect(Endpoint, #[source] io::Error),
    #[error("HTTP request to {0} failed: {1}")]
    Http(Endpoint, #[source] hyper::Error),
    #[error("{0:?} is not a path of a URL")]
    Path(String),
    #[error("{0} is not on this machine, so it needs TLS")]
    Plain(Endpoint),
}

/// Characters that are encoded in the value of a form.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let form = UrlForm::new().with("first", "aZ0-._ +&=/\u{e4}").with("second", "");
        assert_eq!(form.as_ref(), b"first=aZ0-._%20%2B%26%3D%2F%C3%A4&second=");
    }
}
