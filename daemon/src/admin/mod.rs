//! The administrators' socket: HTTP, for root and the user of the daemon only.
//!
//! A handler parses, calls [`crate::lifecycle`] and renders. docs/admin-api.md describes the routes
//! and the JSON.

mod access;
pub(crate) mod api;
mod audit;
mod backup;
mod certificates;
pub(crate) mod client;
mod csr;
mod error;
mod gate;
mod keys;
mod metrics;
mod parse;
mod plain_key;
pub(crate) mod request;
mod rewrap;
mod status;
pub(crate) mod trail_view;
mod units;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::admin::api::{KeyView, MAX_KEY_FILE};
use crate::daemon::Daemon;
use crate::keys::Key;
use crate::lifecycle::Actor;
use crate::peers::shared::Shared;
use crate::policy::authorise::Peer;
use error::AdminError;
use gate::{Caller, Gate};

/// Serves administrators until `end`, then answers the requests in progress.
pub(crate) async fn serve(
    peers: Arc<Shared>,
    listener: UnixListener,
    end: impl Future<Output = ()> + Send + 'static,
) {
    let ending = CancellationToken::new();
    let end = {
        let ending = ending.clone();
        async move {
            end.await;
            ending.cancel();
        }
    };
    let routes = Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(units::ready))
        .route("/metrics", get(metrics::page))
        .route("/v1/status", get(status::show))
        .route("/v1/units", get(units::list))
        .route("/v1/backends/{name}/rewrap", post(rewrap::rewrap))
        .route("/v1/backends/{name}/rewrap/finish", post(rewrap::finish))
        .route("/v1/keys", get(keys::list).post(keys::generate))
        .route("/v1/backup", get(backup::make))
        .route("/v1/audit", get(audit::records))
        .route("/v1/audit/files", get(audit::copy))
        .route("/v1/repair", post(keys::repair))
        .route("/v1/keys/{label}/import", post(keys::import))
        .route("/v1/keys/{label}/adopt", post(keys::adopt))
        .route("/v1/keys/{label}/csr", post(csr::sign))
        .route("/v1/keys/{label}/rotate", post(keys::rotate))
        .route("/v1/keys/{label}/certificates", put(certificates::attach).delete(certificates::detach))
        .route("/v1/keys/{label}/access", get(access::show))
        .route("/v1/keys/{label}", get(keys::show).patch(keys::change).delete(keys::delete))
        .fallback(async || AdminError::NoRoute)
        .method_not_allowed_fallback(async || AdminError::NoRoute)
        .layer(DefaultBodyLimit::max(MAX_KEY_FILE))
        .layer(middleware::from_fn(to_the_end))
        .layer(middleware::from_fn(administrators_only))
        .with_state(Admin { daemon: Arc::clone(&peers.daemon), peers, ending });
    let service = routes.into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(Gate::new(listener), service).with_graceful_shutdown(end).await;
    if let Err(error) = served {
        tracing::error!("the administrators' socket is closed: {error}");
    }
}

/// Refuses all users except root and the user of the daemon. The mode of the socket does the same,
/// but an administrator can change modes.
async fn administrators_only(
    ConnectInfo(Caller(caller)): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    match caller {
        Some(peer) if is_administrator(&peer) => {
            let actor = Actor::User { uid: peer.uid, pid: peer.pid };
            request.extensions_mut().insert(Administrator(actor));
            next.run(request).await
        }
        _ => AdminError::NotAnAdministrator.into_response(),
    }
}

fn is_administrator(peer: &Peer) -> bool {
    [0, rustix::process::geteuid().as_raw()].contains(&peer.uid)
}

/// Lets a request run to its end, including its log line, even if the client closes the connection.
async fn to_the_end(request: Request, next: Next) -> Response {
    let answered = tokio::spawn(next.run(request)).await;
    answered.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

#[derive(Clone)]
struct Admin {
    daemon: Arc<Daemon>,
    peers: Arc<Shared>,
    /// Cancelled when the daemon ends: answers without an end must end too.
    ending: CancellationToken,
}

impl Admin {
    fn view(&self, key: &Key) -> Json<KeyView> {
        Json(KeyView::of(key, &self.daemon.backends))
    }
}

type Answer<T> = Result<Json<T>, AdminError>;
type Body = Result<Bytes, BytesRejection>;

/// A caller who may use every route.
#[derive(Clone, Copy, Debug)]
struct Administrator(Actor);

/// Name of the administrators' socket in the runtime directory.
pub(crate) const SOCKET: &str = "admin.sock";
