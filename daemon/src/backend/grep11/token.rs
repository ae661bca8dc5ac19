//! Bearer tokens: from a file, or from IBM Cloud IAM for an API key.
//!
//! A token of IAM is fetched anew long before it expires, by one task and not by requests. A token that a unit
//! refuses is replaced at once, by whoever meets the refusal first.

use core::time::Duration;
use std::env;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use crate::backend::network::{self, Refusal, TlsClient, TlsError};
use crate::config::{Auth, Endpoint, Tls};
use crate::ground::ownership::{self, OwnershipError};
use crate::ground::text::{printable, quoted};

/// Where the tokens of a backend come from, and the one in use.
pub(super) struct Tokens {
    source: Source,
    current: ArcSwapOption<Token>,
    backend: String,
    /// Held by whoever is fetching one.
    fetching: tokio::sync::Mutex<()>,
    trouble: Mutex<Trouble>,
}

/// Attempts that failed since the last one that did not.
#[derive(Default)]
struct Trouble {
    failures: u32,
    /// Why the last one failed.
    problem: Option<String>,
    /// Until then nobody tries again.
    pause: Option<Instant>,
}

/// A token, as it stands in metadata.
pub(super) struct Token {
    pub(super) header: MetadataValue<Ascii>,
    since: Instant,
    /// `None` for one that nothing is known of.
    pub(super) expires: Option<Instant>,
    /// When to look for a newer one.
    renew: Option<Instant>,
}

enum Source {
    None,
    File(PathBuf),
    Iam { api_key: PathBuf, server: Endpoint, path: String, tls: TlsClient },
}

impl Tokens {
    /// The tokens of a backend, none of which is read or fetched yet.
    ///
    /// # Errors
    /// [`TokenError`] if the settings lead nowhere.
    pub(crate) fn new(backend: &str, auth: &Auth) -> Result<Self, TokenError> {
        let source = match auth {
            Auth::None => Source::None,
            Auth::Token { file } => Source::File(file_or_credential(file.as_deref(), backend, "token")?),
            Auth::Iam { api_key_file, url } => {
                let api_key = file_or_credential(api_key_file.as_deref(), backend, "api-key")?;
                let invalid = || TokenError::Url(url.clone());
                let uri: Uri = url.parse().map_err(|_| invalid())?;
                let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']).to_owned();
                let server = Endpoint { host, port: uri.port_u16().unwrap_or(443) };
                let tls = TlsClient::new(&Tls::default(), b"http/1.1")?;
                Source::Iam { api_key, server, path: uri.path().to_owned(), tls }
            }
        };
        Ok(Self {
            source,
            current: ArcSwapOption::empty(),
            backend: backend.to_owned(),
            fetching: tokio::sync::Mutex::new(()),
            trouble: Mutex::default(),
        })
    }

    /// Reads what is in a file, and keeps nothing of it.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with the file.
    pub(super) fn check(&self) -> Result<(), TokenError> {
        match &self.source {
            Source::None => Ok(()),
            Source::File(path) => read_token(path).map(drop),
            Source::Iam { api_key, .. } => read_line(api_key).map(drop),
        }
    }

    /// The token to send now; `None` if none is needed.
    ///
    /// # Errors
    /// [`TokenError::Missing`] if one is needed and there is none that still holds.
    pub(super) fn current(&self) -> Result<Option<Arc<Token>>, TokenError> {
        if matches!(self.source, Source::None) {
            return Ok(None);
        }
        let now = Instant::now();
        let current = self.current.load_full();
        let current = current.filter(|token| token.expires.is_none_or(|expires| now < expires));
        current.map(Some).ok_or_else(|| TokenError::Missing(self.problem().unwrap_or_default()))
    }

    /// Gets a token in the place of one that was refused, unless someone else has already.
    ///
    /// # Errors
    /// [`TokenError`] says why there is no other one.
    pub(super) async fn replace(self: &Arc<Self>, refused: Option<&Arc<Token>>) -> Result<(), TokenError> {
        // One that was made a moment ago is not refused for its age, and IAM would make another one each time.
        let fresh = |token: &Arc<Token>| token.renew.is_some() && token.since.elapsed() < FRESH;
        if refused.is_some_and(|token| fresh(token) && self.is_current(token)) {
            return Err(self.failed(TokenError::Unchanged));
        }
        // In a task of its own: whoever asks first may lose patience, and others wait for the same token.
        let (tokens, refused) = (Arc::clone(self), refused.cloned());
        let fetched = tokio::spawn(async move { tokens.fetch_after(refused.as_ref()).await }).await;
        fetched.unwrap_or_else(|_| Err(TokenError::Missing("fetching one was given up".into())))
    }

    fn is_current(&self, token: &Arc<Token>) -> bool {
        self.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, token))
    }

    /// Gets a token in the place of this one, unless someone else has already.
    async fn fetch_after(&self, refused: Option<&Arc<Token>>) -> Result<(), TokenError> {
        let _fetching = self.fetching.lock().await;
        let holds = |token: &Arc<Token>| token.expires.is_none_or(|expires| Instant::now() < expires);
        let current = self.current.load_full().filter(holds);
        let other = match (&current, refused) {
            (Some(current), Some(refused)) => !Arc::ptr_eq(current, refused),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if other {
            return Ok(());
        }
        if self.with(|trouble| trouble.pause.is_some_and(|until| Instant::now() < until)) {
            return Err(TokenError::Missing(self.problem().unwrap_or_default()));
        }
        let fetched = match &self.source {
            Source::None => return Err(TokenError::NotNeeded),
            Source::File(path) => read_token(path),
            Source::Iam { api_key, server, path, tls } => {
                let fetched = tokio::time::timeout(PATIENCE, fetch(api_key, server, path, tls)).await;
                fetched.unwrap_or_else(|_| Err(TokenError::Late(server.clone())))
            }
        };
        match fetched {
            Ok(token) if current.is_some_and(|current| current.header == token.header) => {
                Err(self.failed(TokenError::Unchanged))
            }
            Ok(token) => {
                self.current.store(Some(Arc::new(token)));
                if self.with(core::mem::take).failures > 0 {
                    tracing::info!(backend = self.backend, "there is an access token again");
                }
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Notes a failure, and says it, though not every time.
    fn failed(&self, error: TokenError) -> TokenError {
        let text = error.to_string();
        let longest = if matches!(self.source, Source::Iam { .. }) { LONGEST_PAUSE } else { FIRST_PAUSE };
        let (failures, news) = self.with(|trouble| {
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(trouble.failures.min(16));
            trouble.pause = Some(Instant::now() + pause.min(longest));
            trouble.failures += 1;
            let news = trouble.problem.as_ref() != Some(&text);
            trouble.problem = Some(text);
            (trouble.failures, news)
        });
        if news || failures.is_power_of_two() {
            tracing::error!(backend = self.backend, failures, "cannot get an access token: {error}");
        }
        error
    }

    /// Sees to it that there is always a token that holds.
    pub(super) async fn keep_fresh(&self) {
        if matches!(self.source, Source::None) {
            return;
        }
        loop {
            let current = self.current.load_full();
            let due = current.as_ref().map_or_else(|| Some(Instant::now()), |token| token.renew);
            let pause = self.with(|trouble| trouble.pause);
            match due {
                Some(due) => tokio::time::sleep_until(due.max(pause.unwrap_or(due)).into()).await,
                // Until it is refused, which others notice.
                None => return,
            }
            // What goes wrong is said there.
            let _ = self.fetch_after(current.as_ref()).await;
        }
    }

    /// Time for which the token is still valid; none if that is not known, or there is no token.
    pub(super) fn valid_for(&self) -> Option<Duration> {
        let expires = self.current.load().as_ref()?.expires?;
        Some(expires.saturating_duration_since(Instant::now()))
    }

    /// Why there is no newer token, if something is wrong.
    pub(crate) fn problem(&self) -> Option<String> {
        self.with(|trouble| trouble.problem.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Trouble) -> T) -> T {
        f(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why there is no token.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("cannot connect to {0}: {1}")]
    Connect(Endpoint, #[source] io::Error),
    #[error("{0} answered something that is no token of IAM")]
    Garbled(Endpoint),
    #[error("cannot speak with {0}: {1}")]
    Http(Endpoint, #[source] hyper::Error),
    #[error("{0} gave no answer within {PATIENCE:?}")]
    Late(Endpoint),
    #[error("there is no access token that holds{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Missing(String),
    #[error("the unit asks for a token; set auth in the section of the backend")]
    NotNeeded,
    #[error(
        "no {what} is configured: name a file with {setting}, or give the service the credential {credential}"
    )]
    NotConfigured { what: &'static str, setting: &'static str, credential: String },
    #[error("refused the secret: {0}")]
    NotOurs(OwnershipError),
    #[error("refused the secret in {}: others can read it; run: chmod o= {}", .0.display(), quoted(.0))]
    Open(PathBuf),
    #[error("cannot read {}: {}", .0.display(), .1)]
    Read(PathBuf, #[source] io::Error),
    #[error("{server} refused the API key with status {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Refused { server: Endpoint, status: StatusCode, reason: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the unit refused the token, and there is no other one yet")]
    Unchanged,
    #[error("there is no token in {}: one line is needed", .0.display())]
    Unusable(PathBuf),
    #[error("iam-url {0:?} is not an address like https://iam.cloud.ibm.com/identity/token")]
    Url(String),
}

/// What IAM answers (IAM Identity Services API, `POST /identity/token`).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// In seconds.
    expires_in: u64,
}

#[derive(Deserialize)]
struct NotGranted {
    #[serde(rename = "errorMessage")]
    message: String,
}

async fn fetch(api_key: &Path, server: &Endpoint, path: &str, tls: &TlsClient) -> Result<Token, TokenError> {
    let mut body = Zeroizing::new(String::with_capacity(1024));
    body.push_str("grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey=");
    encode(&read_line(api_key)?, &mut body);
    let connect = |reason| TokenError::Connect(server.clone(), reason);
    let (stream, _) = network::connect(server).await.map_err(connect)?;
    let stream = tls.connect(&server.host, stream, &Refusal::default()).await.map_err(connect)?;
    let http = |reason| TokenError::Http(server.clone(), reason);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let connection = tokio::spawn(connection);
    let request = Request::post(path)
        .header("host", server.to_string())
        .header("accept", "application/json")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from_owner(Secret(body))));
    let request = request.map_err(|_| TokenError::Url(path.to_owned()))?;
    let begin = Instant::now();
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    connection.abort();
    let answer = answer.map_err(|_| TokenError::Garbled(server.clone()))?.to_bytes();
    if !status.is_success() {
        let reason = serde_json::from_slice::<NotGranted>(&answer).map(|told| told.message);
        let reason = printable(&reason.unwrap_or_default()).chars().take(200).collect();
        return Err(TokenError::Refused { server: server.clone(), status, reason });
    }
    let garbled = || TokenError::Garbled(server.clone());
    let granted: Granted = serde_json::from_slice(&answer).map_err(|_| garbled())?;
    let life = Duration::from_secs(granted.expires_in.min(MAX_LIFE));
    let token = Zeroizing::new(granted.access_token);
    let header = header(&token).ok_or_else(garbled)?;
    // From when it was asked for, so that the time on the way shortens it.
    Ok(Token {
        header,
        since: begin,
        expires: Some(begin + life),
        renew: Some(begin + life.mul_f64(RENEW).max(FIRST_PAUSE)),
    })
}

fn header(token: &str) -> Option<MetadataValue<Ascii>> {
    let sound = !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic());
    let mut header: MetadataValue<Ascii> = sound.then(|| format!("Bearer {token}").parse().ok())??;
    // Neither printed nor kept in the tables of HTTP/2.
    header.set_sensitive(true);
    Some(header)
}

fn read_token(path: &Path) -> Result<Token, TokenError> {
    let header = header(&read_line(path)?).ok_or_else(|| TokenError::Unusable(path.to_owned()))?;
    Ok(Token { header, since: Instant::now(), expires: None, renew: None })
}

/// The first line of a secret file that is neither empty nor a comment.
fn read_line(path: &Path) -> Result<Zeroizing<String>, TokenError> {
    let failed = |reason: io::Error| TokenError::Read(path.to_owned(), reason);
    let file = ownership::open(path).map_err(|error| match error.into_io() {
        Ok(reason) => failed(reason),
        Err(error) => TokenError::NotOurs(error),
    })?;
    if ownership::is_for_others(&file).map_err(failed)? {
        return Err(TokenError::Open(path.to_owned()));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET as usize));
    file.take(MAX_SECRET).read_to_string(&mut text).map_err(failed)?;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    line.map(|line| Zeroizing::new(line.to_owned())).ok_or_else(|| TokenError::Unusable(path.to_owned()))
}

fn file_or_credential(file: Option<&Path>, backend: &str, what: &'static str) -> Result<PathBuf, TokenError> {
    if let Some(file) = file {
        return Ok(file.to_owned());
    }
    let credential = format!("{backend}.{what}");
    let path = env::var_os("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(&credential));
    path.filter(|path| path.exists()).ok_or(match what {
        "token" => TokenError::NotConfigured { what: "token", setting: "token-file", credential },
        _ => TokenError::NotConfigured { what: "API key", setting: "api-key-file", credential },
    })
}

/// Writes text as a value of a form (application/x-www-form-urlencoded).
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => into.push(byte.into()),
            _ => {
                into.push('%');
                for digit in [byte >> 4, byte & 15] {
                    into.extend(char::from_digit(digit.into(), 16));
                }
            }
        }
    }
}

/// A text that is wiped when nobody has it any more.
struct Secret(Zeroizing<String>);

impl AsRef<[u8]> for Secret {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// How much of its life a token is used for before a new one is fetched.
const RENEW: f64 = 0.8;
/// How long a request for a token may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody tries again after a failure: twice as long after each further one. A file is not worth waiting for.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So long a token of IAM is not exchanged for another one because a unit refuses it.
const FRESH: Duration = Duration::from_secs(30);
/// Longest answer that is read, in bytes (64 KiB): tokens have less than 4.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest file of a secret, in bytes (16 KiB).
const MAX_SECRET: u64 = 16 * 1024;
/// In seconds (a day); those of IAM hold for an hour.
const MAX_LIFE: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn a_token_is_read_and_not_shown() {
        let (_directory, path) = file("# of the hsm\n\n  secret-token \n", 0o600);
        let token = read_token(&path).unwrap();
        assert_eq!(token.header.to_str().unwrap(), "Bearer secret-token");
        assert!(!format!("{:?}", token.header).contains("secret"));
    }

    #[test]
    fn files_that_do_not_do() {
        for (text, mode, words) in
            [("", 0o600, "no token in"), ("a b", 0o600, "no token in"), ("abc", 0o604, "chmod o=")]
        {
            let (_directory, path) = file(text, mode);
            let error = read_token(&path).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(matches!(read_token(Path::new("/no/such")), Err(TokenError::Read(..))));
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced_once_for_all() {
        let (_directory, path) = file("first", 0o600);
        let tokens = Arc::new(Tokens::new("hsm", &Auth::Token { file: Some(path.clone()) }).unwrap());
        assert!(matches!(tokens.current(), Err(TokenError::Missing(_))));
        tokens.replace(None).await.unwrap();
        let first = tokens.current().unwrap().unwrap();
        fs::write(&path, "second").unwrap();
        tokens.replace(Some(&first)).await.unwrap();
        let second = tokens.current().unwrap().unwrap();
        assert_eq!(second.header.to_str().unwrap(), "Bearer second");
        // Whoever was refused with the first one finds that there is another by now.
        fs::write(&path, "third").unwrap();
        tokens.replace(Some(&first)).await.unwrap();
        assert!(Arc::ptr_eq(&second, &tokens.current().unwrap().unwrap()));
    }

    #[tokio::test]
    async fn a_failure_is_not_repeated_by_everybody() {
        let (_directory, path) = file("same", 0o600);
        let tokens = Arc::new(Tokens::new("hsm", &Auth::Token { file: Some(path.clone()) }).unwrap());
        tokens.replace(None).await.unwrap();
        let first = tokens.current().unwrap();
        assert!(matches!(tokens.replace(first.as_ref()).await, Err(TokenError::Unchanged)));
        // What is in the file now is not looked at before the pause is over.
        fs::write(&path, "other").unwrap();
        assert!(matches!(tokens.replace(first.as_ref()).await, Err(TokenError::Missing(_))));
        assert!(tokens.problem().unwrap().contains("no other one"));
        tokio::time::sleep(FIRST_PAUSE).await;
        tokens.replace(first.as_ref()).await.unwrap();
        assert_eq!(tokens.problem(), None);
    }

    #[test]
    fn forms_are_encoded() {
        let mut text = String::new();
        encode("aZ0-._ +&=/\u{e4}", &mut text);
        assert_eq!(text, "aZ0-._%20%2b%26%3d%2f%c3%a4");
    }
}
