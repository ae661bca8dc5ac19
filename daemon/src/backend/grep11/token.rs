//! Access tokens: from a file, or from IBM Cloud IAM in exchange for an API key.
//!
//! One task fetches a new token of IAM long before the old token expires. If a unit refuses a
//! token, the first refused request replaces the token at once.

use core::time::Duration;
use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use hyper::{StatusCode, Uri};
use serde::Deserialize;
use thiserror::Error;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

use crate::backend::https::{self, HttpError, UrlForm};
use crate::backend::network::{TlsClient, TlsError};
use crate::backend::secret_file::{SecretFileError, read_line};
use crate::config::{Auth, Endpoint, Tls};
use crate::ground::text::printable;

/// Source of the tokens of a backend, and the token in use.
pub(super) struct Tokens {
    source: Source,
    current: ArcSwapOption<Token>,
    backend: String,
    /// Held while a token is fetched.
    fetching: tokio::sync::Mutex<()>,
    trouble: Mutex<Trouble>,
}

/// Failed attempts since the last success.
#[derive(Default)]
struct Trouble {
    failures: u32,
    /// Problem of the last attempt.
    problem: Option<String>,
    /// Time before which there is no further attempt.
    pause: Option<Instant>,
}

/// Token in the form of gRPC metadata.
pub(super) struct Token {
    pub(super) header: MetadataValue<Ascii>,
    since: Instant,
    /// End of the validity; none if unknown.
    pub(super) expires: Option<Instant>,
    /// Time when a newer token is fetched.
    renew: Option<Instant>,
}

enum Source {
    None,
    File(PathBuf),
    Iam { api_key: PathBuf, server: Endpoint, path: String, tls: TlsClient },
}

/// The server of a URL of an IAM service, if the URL has one.
pub(crate) fn iam_server(url: &str) -> Option<Endpoint> {
    server_of(&url.parse().ok()?)
}

fn server_of(uri: &Uri) -> Option<Endpoint> {
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    Some(Endpoint { host, port: uri.port_u16().unwrap_or(443) })
}

impl Tokens {
    /// Tokens of a backend. No token is read or fetched yet.
    ///
    /// # Errors
    /// [`TokenError`] if the settings cannot be used.
    pub(crate) fn new(backend: &str, auth: &Auth) -> Result<Self, TokenError> {
        let source = match auth {
            Auth::None => Source::None,
            Auth::Token { file } => Source::File(file_or_credential(file.as_deref(), backend, "token")?),
            Auth::Iam { api_key_file, url } => {
                let api_key = file_or_credential(api_key_file.as_deref(), backend, "api-key")?;
                let invalid = || TokenError::Url(url.clone());
                let uri: Uri = url.parse().map_err(|_| invalid())?;
                let server = server_of(&uri).ok_or_else(invalid)?;
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

    /// Checks that the file with the token or API key can be read.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong with the file.
    pub(super) fn check(&self) -> Result<(), TokenError> {
        match &self.source {
            Source::None => Ok(()),
            Source::File(path) => read_token(path).map(drop),
            Source::Iam { api_key, .. } => Ok(read_line(api_key).map(drop)?),
        }
    }

    /// Token to send now; `None` if the units need no token.
    ///
    /// # Errors
    /// [`TokenError::Missing`] if the units need a token and no token is valid.
    pub(super) fn current(&self) -> Result<Option<Arc<Token>>, TokenError> {
        if matches!(self.source, Source::None) {
            return Ok(None);
        }
        let now = Instant::now();
        let current = self.current.load_full();
        let current = current.filter(|token| token.expires.is_none_or(|expires| now < expires));
        current.map(Some).ok_or_else(|| TokenError::Missing(self.problem().unwrap_or_default()))
    }

    /// Replaces a refused token, unless another caller has replaced it already.
    ///
    /// # Errors
    /// [`TokenError`] says why there is no other token.
    pub(super) async fn replace(self: &Arc<Self>, refused: Option<&Arc<Token>>) -> Result<(), TokenError> {
        // The age of a new token is not the reason for a refusal, and IAM would make another token
        // each time.
        let fresh = |token: &Arc<Token>| token.renew.is_some() && token.since.elapsed() < FRESH;
        if refused.is_some_and(|token| fresh(token) && self.is_current(token)) {
            return Err(self.failed(TokenError::Unchanged));
        }
        // In a task: the first caller may give up, and others wait for the same token.
        let (tokens, refused) = (Arc::clone(self), refused.cloned());
        let fetched = tokio::spawn(async move { tokens.fetch_after(refused.as_ref()).await }).await;
        fetched
            .unwrap_or_else(|_| Err(TokenError::Missing("the task that fetches a token has failed".into())))
    }

    fn is_current(&self, token: &Arc<Token>) -> bool {
        self.current.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, token))
    }

    /// Fetches a token to replace `refused`, unless another caller has replaced it already.
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
                let fetched = tokio::time::timeout(TIME_LIMIT, fetch(api_key, server, path, tls)).await;
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
                    tracing::info!(backend = self.backend, "got an access token again");
                }
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Keeps a failure. Logs a new failure at once, and a repeated failure ever more rarely.
    fn failed(&self, error: TokenError) -> TokenError {
        let text = error.to_string();
        let longest = if matches!(self.source, Source::Iam { .. }) { LONGEST_PAUSE } else { FIRST_PAUSE };
        let (failures, is_new) = self.with(|trouble| {
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(trouble.failures.min(16));
            trouble.pause = Some(Instant::now() + pause.min(longest));
            trouble.failures += 1;
            let is_new = trouble.problem.as_ref() != Some(&text);
            trouble.problem = Some(text);
            (trouble.failures, is_new)
        });
        if is_new || failures.is_power_of_two() {
            tracing::error!(backend = self.backend, failures, "cannot get an access token: {error}");
        }
        error
    }

    /// Fetches each token before the last token expires; returns if tokens do not expire.
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
                // The token is used until a unit refuses it.
                None => return,
            }
            // `fetch_after` logs a failure.
            let _ = self.fetch_after(current.as_ref()).await;
        }
    }

    /// Remaining validity of the token; `None` if unknown, or without a token.
    pub(super) fn valid_for(&self) -> Option<Duration> {
        let expires = self.current.load().as_ref()?.expires?;
        Some(expires.saturating_duration_since(Instant::now()))
    }

    /// Reason why the last attempt to fetch a token failed, if it failed.
    pub(crate) fn problem(&self) -> Option<String> {
        self.with(|trouble| trouble.problem.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut Trouble) -> T) -> T {
        f(&mut self.trouble.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reason why there is no token.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("the answer of {0} contains no token of IAM")]
    Garbled(Endpoint),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("{0} gave no answer within {TIME_LIMIT:?}")]
    Late(Endpoint),
    #[error("there is no valid access token{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Missing(String),
    #[error("the unit asks for a token; set auth in the section of the backend")]
    NotNeeded,
    #[error(
        "no {what} is configured: name a file with {setting}, or give the service the credential {credential}"
    )]
    NotConfigured { what: &'static str, setting: &'static str, credential: String },
    #[error("{server} refused the API key with status {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Refused { server: Endpoint, status: StatusCode, reason: String },
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the unit refused the token, and there is no other token yet")]
    Unchanged,
    #[error("iam-url {0:?} is not a URL like https://iam.cloud.ibm.com/identity/token")]
    Url(String),
}

/// Answer of IAM (IAM Identity Services API, `POST /identity/token`).
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

/// Exchanges an API key for a token.
async fn fetch(api_key: &Path, server: &Endpoint, path: &str, tls: &TlsClient) -> Result<Token, TokenError> {
    let form = UrlForm::new().with("grant_type", GRANT_TYPE).with("apikey", &read_line(api_key)?);
    let begin = Instant::now();
    let (status, answer) = https::post(server, path, tls, form, MAX_ANSWER).await?;
    if !status.is_success() {
        let reason = serde_json::from_slice::<NotGranted>(&answer).map(|refusal| refusal.message);
        let reason = printable(&reason.unwrap_or_default()).chars().take(200).collect();
        return Err(TokenError::Refused { server: server.clone(), status, reason });
    }
    let garbled = || TokenError::Garbled(server.clone());
    let granted: Granted = serde_json::from_slice(&answer).map_err(|_| garbled())?;
    let life = Duration::from_secs(granted.expires_in.min(MAX_LIFE));
    let token = Zeroizing::new(granted.access_token);
    let header = header(&token).ok_or_else(garbled)?;
    // Counted from the time of the request, which is never too late.
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
    // Sensitive: never printed, and not kept in the header tables of HTTP/2.
    header.set_sensitive(true);
    Some(header)
}

fn read_token(path: &Path) -> Result<Token, TokenError> {
    let header = header(&read_line(path)?).ok_or_else(|| SecretFileError::Unusable(path.to_owned()))?;
    Ok(Token { header, since: Instant::now(), expires: None, renew: None })
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

/// Fraction of the lifetime of a token after which a new token is fetched.
const RENEW: f64 = 0.8;
/// Grant type of a request with an API key.
const GRANT_TYPE: &str = "urn:ibm:params:oauth:grant-type:apikey";
/// Time limit of a request for a token.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failure. The pause doubles with each further failure of IAM; a file is read again
/// after the first pause.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Age below which a token of IAM is not replaced when a unit refuses it.
const FRESH: Duration = Duration::from_secs(30);
/// Maximum length of an answer of IAM, in bytes (64 KiB). Tokens have less than 4 KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// Maximum lifetime of a token, in seconds (a day); a longer lifetime counts as a day. Tokens of
/// IAM are valid for an hour.
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
    fn files_without_a_usable_token_are_refused() {
        for (text, mode, words) in
            [("", 0o600, "no secret in"), ("a b", 0o600, "no secret in"), ("abc", 0o604, "chmod o=")]
        {
            let (_directory, path) = file(text, mode);
            let error = read_token(&path).err().unwrap().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert!(matches!(
            read_token(Path::new("/no/such")),
            Err(TokenError::Secret(SecretFileError::Read(..)))
        ));
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced_once_for_all_callers() {
        let (_directory, path) = file("first", 0o600);
        let tokens = Arc::new(Tokens::new("hsm", &Auth::Token { file: Some(path.clone()) }).unwrap());
        assert!(matches!(tokens.current(), Err(TokenError::Missing(_))));
        tokens.replace(None).await.unwrap();
        let first = tokens.current().unwrap().unwrap();
        fs::write(&path, "second").unwrap();
        tokens.replace(Some(&first)).await.unwrap();
        let second = tokens.current().unwrap().unwrap();
        assert_eq!(second.header.to_str().unwrap(), "Bearer second");
        // A caller that was refused with the first token finds the second.
        fs::write(&path, "third").unwrap();
        tokens.replace(Some(&first)).await.unwrap();
        assert!(Arc::ptr_eq(&second, &tokens.current().unwrap().unwrap()));
    }

    #[tokio::test]
    async fn after_a_failure_no_caller_tries_again_before_the_pause_is_over() {
        let (_directory, path) = file("same", 0o600);
        let tokens = Arc::new(Tokens::new("hsm", &Auth::Token { file: Some(path.clone()) }).unwrap());
        tokens.replace(None).await.unwrap();
        let first = tokens.current().unwrap();
        assert!(matches!(tokens.replace(first.as_ref()).await, Err(TokenError::Unchanged)));
        // The file is not read again before the pause is over.
        fs::write(&path, "other").unwrap();
        assert!(matches!(tokens.replace(first.as_ref()).await, Err(TokenError::Missing(_))));
        assert!(tokens.problem().unwrap().contains("no other token"));
        tokio::time::sleep(FIRST_PAUSE).await;
        tokens.replace(first.as_ref()).await.unwrap();
        assert_eq!(tokens.problem(), None);
    }
}
