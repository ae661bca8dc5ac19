//! HTTP on the administrators' socket, for the agent and the deployer.

use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ETAG, HOST, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;

/// A client of the daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The client of the daemon with this runtime directory.
    pub fn new(runtime_dir: &Path) -> Self {
        Self { socket: runtime_dir.join("admin.sock") }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`ClientError`] says why there is no answer.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Reads an answer, unless it is the one with this tag (RFC 9110, 13.1.2). Returns the answer
    /// and its tag; none if the answer is the same.
    ///
    /// # Errors
    /// [`ClientError`] says why there is no answer.
    pub async fn get_new<T: DeserializeOwned>(
        &self,
        path: &str,
        tag: &str,
    ) -> Result<Option<(T, String)>, ClientError> {
        let answer = self.limited(Method::GET, path, Bytes::new(), Some(tag)).await?;
        if answer.status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let tag = answer.tag.clone();
        Ok(Some((self.read(answer)?, tag)))
    }

    /// Sends a value, and reads an answer.
    ///
    /// # Errors
    /// [`ClientError`] says why there is no answer.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(value).map_err(|error| ClientError::Garbled(self.socket.clone(), error))?;
        self.call(Method::POST, path, body.into()).await
    }

    /// Sends bytes, and reads an answer.
    ///
    /// # Errors
    /// [`ClientError`] says why there is no answer.
    pub async fn send<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Result<T, ClientError> {
        self.call(Method::POST, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let answer = self.limited(method, path, body, None).await?;
        self.read(answer)
    }

    fn read<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, ClientError> {
        let garbled = |error| ClientError::Garbled(self.socket.clone(), error);
        if answer.status.is_success() {
            return serde_json::from_slice(&answer.body).map_err(garbled);
        }
        let refusal: serde_json::Value = serde_json::from_slice(&answer.body).map_err(garbled)?;
        let reason = refusal["error"].as_str().unwrap_or("refused without a reason").to_owned();
        Err(match answer.status {
            StatusCode::LOCKED => ClientError::NotNow(reason),
            status if AWAY.contains(&status) => ClientError::Away(reason),
            _ => ClientError::Refused(reason),
        })
    }

    async fn limited(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        tag: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let limited = tokio::time::timeout(LIMIT, self.exchange(method, path, body, tag)).await;
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        limited.map_err(|_| ClientError::Connect(self.socket.clone(), late()))?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        tag: Option<&str>,
    ) -> Result<Answer, ClientError> {
        let connect = |error| ClientError::Connect(self.socket.clone(), error);
        let http = |error| ClientError::Http(self.socket.clone(), error);
        let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(tag) = tag {
            request = request.header(IF_NONE_MATCH, tag);
        }
        let request = request.body(Full::new(body)).map_err(|error| connect(io::Error::other(error)))?;
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let tag =
            response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        let body = body.map_err(|error| connect(io::Error::other(error)))?.to_bytes();
        Ok(Answer { status, tag, body })
    }
}

struct Answer {
    status: StatusCode,
    /// Tag of the answer (ETag); empty without one.
    tag: String,
    body: Bytes,
}

/// Reason why the daemon did not do it.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No daemon answers at the socket.
    #[error("cannot reach the daemon at {}: {}; is it running? see: keyward status", .0.display(), .1)]
    Connect(PathBuf, #[source] io::Error),
    /// The connection broke.
    #[error("the daemon at {} did not answer: {}", .0.display(), .1)]
    Http(PathBuf, #[source] hyper::Error),
    /// The answer is of another version.
    #[error("the daemon at {} has another version, whose answer cannot be read: {}", .0.display(), .1)]
    Garbled(PathBuf, #[source] serde_json::Error),
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
    /// Another agent does it, or has done it.
    #[error("{0}")]
    NotNow(String),
    /// The daemon cannot do it now: its unit is sealed or away, or its disk is full.
    #[error("{0}")]
    Away(String),
}

/// Answers of a daemon whose unit or disk is not there now; see the table of statuses in
/// docs/admin-api.md.
const AWAY: [StatusCode; 3] =
    [StatusCode::FAILED_DEPENDENCY, StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE];
/// Longest time for an answer. A unit can take seconds to make an RSA key.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer, in bytes (16 MiB).
const MAX_ANSWER: usize = 16 << 20;
