//! HTTP on the administrators' socket, for the agent and the deployer.

use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request};
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
        let limited = tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await;
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let (is_done, answer) = limited.map_err(|_| ClientError::Connect(self.socket.clone(), late()))??;
        let garbled = |error| ClientError::Garbled(self.socket.clone(), error);
        if is_done {
            return serde_json::from_slice(&answer).map_err(garbled);
        }
        let refusal: serde_json::Value = serde_json::from_slice(&answer).map_err(garbled)?;
        let reason = refusal["error"].as_str().unwrap_or("refused without a reason");
        Err(ClientError::Refused(reason.to_owned()))
    }

    /// True if the daemon has done it, and the body of the answer.
    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(bool, Bytes), ClientError> {
        let connect = |error| ClientError::Connect(self.socket.clone(), error);
        let http = |error| ClientError::Http(self.socket.clone(), error);
        let stream = UnixStream::connect(&self.socket).await.map_err(connect)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let connection = tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header(HOST, "keyward").body(Full::new(body));
        let request = request.map_err(|error| connect(io::Error::other(error)))?;
        let response = sender.send_request(request).await.map_err(http)?;
        let is_done = response.status().is_success();
        let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        let answer = answer.map_err(|error| connect(io::Error::other(error)))?;
        Ok((is_done, answer.to_bytes()))
    }
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
}

/// Longest time for an answer. A unit can take seconds to make an RSA key.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer, in bytes (16 MiB).
const MAX_ANSWER: usize = 16 << 20;
