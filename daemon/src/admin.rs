//! The administrators' socket: HTTP, for root and the daemon's own user alone.
//!
//! | Route | |
//! |---|---|
//! | `GET /v1/status` | the daemon as it is |
//! | `GET /v1/keys?after=LABEL&limit=N` | keys in the order of their labels |
//! | `POST /v1/keys` | generate a key: `{"label", "type", "uses"}` |
//! | `POST /v1/keys/LABEL/import?use=U&use=U` | import a key; the body is the key file |
//! | `GET /v1/keys/LABEL` | one key |
//! | `PATCH /v1/keys/LABEL` | change a key: `{"state"}`, `{"uses"}` |
//! | `DELETE /v1/keys/LABEL` | delete a key |
//!
//! Errors are `{"error": "..."}`.

use std::io;
use std::process;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Extension, Json, Router};
use keyward_proto::{KeyType, Label, Use};
use keyward_unit::{ImportError, NewKey};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize;

use crate::api::{Change, KeyView, MAX_KEY_FILE, MAX_PAGE, Page, Refusal, StatusView};
use crate::authorise::Peer;
use crate::backend::BackendError;
use crate::daemon::Daemon;
use crate::keys::{self, Key, StoreError, Version};
use crate::listener::{Crowd, credentials};
use crate::{api, listener};

/// Serves administrators until `stop` is cancelled.
pub(crate) async fn serve(
    daemon: Arc<Daemon>,
    crowd: Arc<Crowd>,
    listener: UnixListener,
    stop: CancellationToken,
) {
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/keys", get(list).post(generate))
        .route("/v1/keys/{label}/import", post(import))
        .route("/v1/keys/{label}", get(show).patch(change).delete(delete))
        .fallback(async || AdminError::NoRoute)
        .method_not_allowed_fallback(async || AdminError::NoRoute)
        .layer(DefaultBodyLimit::max(MAX_KEY_FILE))
        .layer(middleware::from_fn(to_the_end))
        .layer(middleware::from_fn(administrators_only))
        .with_state(Admin { daemon, crowd });
    let service = routes.into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(Gate(listener), service).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("the administrators' socket is closed: {error}");
    }
}

/// Lets in root and the user that the daemon runs as. The mode of the socket says the same; but modes change.
async fn administrators_only(
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let own = rustix::process::geteuid().as_raw();
    match caller {
        Some(peer) if [0, own].contains(&peer.uid) => {
            request.extensions_mut().insert(Administrator(peer));
            next.run(request).await
        }
        _ => AdminError::NotAnAdministrator.into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Answer<StatusView> {
    let Admin { daemon, crowd } = admin;
    let (closed_for_garbage, closed_for_crowding) = daemon.counters.closed();
    Ok(Json(StatusView {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: process::id(),
        uptime_seconds: daemon.started.elapsed().as_secs(),
        dev: daemon.dev,
        backend: daemon.backend.name().into(),
        unit: daemon.backend.kind().into(),
        wkid: daemon.backend.wkid().to_string(),
        keys: daemon.keys.count().await?,
        connections: crowd.size(),
        outcomes: daemon.counters.outcomes(),
        purposes: daemon.counters.purposes(),
        closed_for_garbage,
        requests: daemon.counters.requests(),
        closed_for_crowding,
    }))
}

/// Lets a request run to its end, its line in the log included, even if whoever asked hangs up.
async fn to_the_end(request: Request, next: Next) -> Response {
    let answered = tokio::spawn(next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn list(State(admin): State<Admin>, Query(query): Query<Vec<(String, String)>>) -> Answer<Page> {
    let mut after = None;
    let mut limit = MAX_PAGE;
    for (name, value) in query {
        match name.as_str() {
            "after" => after = Some(value),
            "limit" => {
                limit = value.parse().map_err(|_| AdminError::Invalid("limit is not a number".into()))?
            }
            _ => return Err(AdminError::Invalid(format!("unknown parameter {name}"))),
        }
    }
    let limit = limit.clamp(1, MAX_PAGE);
    let mut keys = admin.daemon.keys.list(after, limit + 1).await?;
    let more = keys.len() > limit;
    keys.truncate(limit);
    let keys = keys.iter().map(|key| KeyView::of(key, &admin.daemon.backend)).collect();
    Ok(Json(Page { keys, more }))
}

async fn generate(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    body: Body,
) -> Result<(StatusCode, Json<KeyView>), AdminError> {
    let wanted: api::NewKey = parse(&body?)?;
    let label = label(&wanted.label)?;
    let uses = uses(&wanted.uses)?;
    let key_type = wanted.key_type.parse().ok().filter(|known| KeyType::GENERATED.contains(known));
    let key_type = key_type.ok_or_else(|| {
        AdminError::Invalid(format!(
            "cannot generate a key of type {:?}: the types are {}",
            wanted.key_type,
            KeyType::GENERATED.map(|key_type| key_type.to_string()).join(", ")
        ))
    })?;
    refuse_existing(&admin, &label).await?;
    let daemon = Arc::clone(&admin.daemon);
    let made = blocking(move || daemon.backend.generate(key_type)).await??;
    let view = add(&admin, label, uses, made).await?;
    tracing::info!(key = view.label, r#type = view.key_type, uses = ?view.uses, uid = who.uid, "key generated");
    Ok((StatusCode::CREATED, Json(view)))
}

async fn import(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    body: Body,
) -> Result<(StatusCode, Json<KeyView>), AdminError> {
    let file = PlainKey(body?);
    let label = label(&text)?;
    if let Some((name, _)) = query.iter().find(|(name, _)| name != "use") {
        return Err(AdminError::Invalid(format!("unknown parameter {name}")));
    }
    let uses = uses(&query.into_iter().map(|(_, value)| value).collect::<Vec<_>>())?;
    refuse_existing(&admin, &label).await?;
    let daemon = Arc::clone(&admin.daemon);
    let made = blocking(move || daemon.backend.import(&file.0)).await??;
    let view = add(&admin, label, uses, made).await?;
    tracing::info!(key = view.label, r#type = view.key_type, uses = ?view.uses, uid = who.uid, "key imported");
    Ok((StatusCode::CREATED, Json(view)))
}

async fn show(State(admin): State<Admin>, Path(text): Path<String>) -> Answer<KeyView> {
    let label = label(&text)?;
    let key = admin.daemon.keys.get(&label).await?.ok_or(StoreError::Unknown(label))?;
    Ok(Json(KeyView::of(&key, &admin.daemon.backend)))
}

async fn change(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
    body: Body,
) -> Answer<KeyView> {
    let label = label(&text)?;
    let change: Change = parse(&body?)?;
    let state = change.state.map(|name| {
        keys::State::of_name(&name).ok_or_else(|| AdminError::Invalid(format!("no such state: {name:?}")))
    });
    let state = state.transpose()?;
    let uses = change.uses.map(|words| uses(&words)).transpose()?;
    loop {
        let old = admin.daemon.keys.get(&label).await?.ok_or_else(|| StoreError::Unknown(label.clone()))?;
        let key = Key {
            state: state.unwrap_or(old.state),
            uses: uses.clone().unwrap_or_else(|| old.uses.clone()),
            ..(*old).clone()
        };
        match admin.daemon.keys.put(key).await {
            Ok(key) => {
                let view = KeyView::of(&key, &admin.daemon.backend);
                tracing::info!(key = view.label, state = view.state, uses = ?view.uses, uid = who.uid, "key changed");
                return Ok(Json(view));
            }
            // Someone else changed it in between; every round means that one change succeeded.
            Err(StoreError::Changed(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn delete(
    State(admin): State<Admin>,
    Extension(Administrator(who)): Extension<Administrator>,
    Path(text): Path<String>,
) -> Result<StatusCode, AdminError> {
    let label = label(&text)?;
    admin.daemon.keys.delete(&label).await?;
    tracing::info!(key = label.as_str(), uid = who.uid, "key deleted");
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses a label in use before time is spent on a key; [`add`] makes sure of it.
async fn refuse_existing(admin: &Admin, label: &Label) -> Result<(), AdminError> {
    match admin.daemon.keys.get(label).await? {
        Some(_) => Err(StoreError::Exists(label.clone()).into()),
        None => Ok(()),
    }
}

async fn add(admin: &Admin, label: Label, uses: Vec<Use>, made: NewKey) -> Result<KeyView, AdminError> {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let version = Version { number: 1, key_type: made.key_type, blob: made.blob, spki: made.spki, created };
    let key = Key {
        label,
        state: keys::State::Enabled,
        uses,
        backend: admin.daemon.backend.name().into(),
        current: version.number,
        versions: vec![version],
        revision: 0,
    };
    let key = admin.daemon.keys.put(key).await?;
    Ok(KeyView::of(&key, &admin.daemon.backend))
}

fn label(text: &str) -> Result<Label, AdminError> {
    text.parse().map_err(|error| AdminError::Invalid(format!("{text:?} is {error}")))
}

/// Uses, each once; `tls-server` if there is none.
fn uses(words: &[String]) -> Result<Vec<Use>, AdminError> {
    let mut uses = Vec::new();
    for word in words {
        match word.parse() {
            Ok(Use::RsaKeyExchange) => {
                let reason = "the use rsa-key-exchange is not supported by this version";
                return Err(AdminError::Invalid(reason.into()));
            }
            Ok(u) if uses.contains(&u) => {}
            Ok(u) => uses.push(u),
            Err(_) => {
                let known = Use::ALL.map(Use::name).join(", ");
                return Err(AdminError::Invalid(format!("no such use: {word:?}; the uses are {known}")));
            }
        }
    }
    if uses.is_empty() {
        uses.push(Use::TlsServer);
    }
    Ok(uses)
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, AdminError> {
    serde_json::from_slice(body)
        .map_err(|error| AdminError::Invalid(format!("not the JSON expected: {error}")))
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T, AdminError> {
    tokio::task::spawn_blocking(f).await.map_err(|_| AdminError::Internal)
}

#[derive(Clone)]
struct Admin {
    daemon: Arc<Daemon>,
    crowd: Arc<Crowd>,
}

type Answer<T> = Result<Json<T>, AdminError>;
type Body = Result<Bytes, BytesRejection>;

/// A private key in the clear on its way to the unit, wiped as far as it is ours alone.
struct PlainKey(Bytes);

impl Drop for PlainKey {
    fn drop(&mut self) {
        if let Ok(mut bytes) = core::mem::take(&mut self.0).try_into_mut() {
            bytes.zeroize();
        }
    }
}

/// Why a request was refused.
#[derive(Debug, Error)]
enum AdminError {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error("the body cannot be read: {}", .0.body_text())]
    Body(#[from] BytesRejection),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("the daemon failed; see its log")]
    Internal,
    #[error("{0}")]
    Invalid(String),
    #[error("there is no such thing here")]
    NoRoute,
    #[error("only root and the user that the daemon runs as may do this")]
    NotAnAdministrator,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Backend(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Body(rejection) => rejection.status(),
            Self::Import(ImportError::Unit(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Import(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NotAnAdministrator => StatusCode::FORBIDDEN,
            Self::Store(StoreError::Unknown(_)) => StatusCode::NOT_FOUND,
            Self::Store(StoreError::Exists(_) | StoreError::Changed(_)) => StatusCode::CONFLICT,
            Self::Store(StoreError::Io(..)) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!("administrator's request failed: {self}");
        }
        (status, Json(Refusal { error: self.to_string() })).into_response()
    }
}

/// The socket, for which axum has no listener that notes who is calling.
struct Gate(UnixListener);

impl Listener for Gate {
    type Io = UnixStream;
    type Addr = Caller;

    async fn accept(&mut self) -> (UnixStream, Caller) {
        loop {
            match self.0.accept().await {
                Ok((stream, _)) => {
                    let caller = credentials(&stream);
                    return (stream, Caller(caller));
                }
                Err(error) => {
                    tracing::debug!("cannot accept an administrator: {error}");
                    tokio::time::sleep(listener::PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Caller> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Who is on the other end, if the kernel says so.
#[derive(Clone, Debug)]
struct Caller(Option<Peer>);

impl Connected<IncomingStream<'_, Gate>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A caller who may do everything here.
#[derive(Clone, Debug)]
struct Administrator(Peer);
