//! The administrators' socket: HTTP, for users with a role.
//!
//! Every user may connect. [`rights`] finds the roles of the caller, and refuses an act before its
//! request is read. A handler parses, calls [`crate::lifecycle`] and renders. docs/admin-api.md
//! describes the routes and the JSON.

mod access;
pub(crate) mod api;
mod audit;
mod backup;
mod certificates;
pub(crate) mod client;
mod csr;
mod error;
mod findings;
mod foreign;
mod gate;
mod keys;
mod metrics;
mod metrics_port;
mod overview;
mod page;
mod parse;
mod plain_key;
mod plans;
pub(crate) mod purge_view;
mod reload;
pub(crate) mod request;
mod rewrap;
mod rights;
mod status;
pub(crate) mod status_view;
pub(crate) mod trail_view;
mod unit;
pub(crate) mod unit_view;
mod units;
mod user_database;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admin::api::{KeyView, MAX_KEY_FILE};
use crate::daemon::Daemon;
use crate::keys::Key;
use crate::peers::shared::Shared;
use crate::policy::roles::Right;
use error::AdminError;
use gate::{Caller, Gate};
use metrics::StrangersPage;
pub(crate) use metrics_port::serve_metrics;
use rights::{Administrator, Asker, Routes};
use user_database::UserDatabase;

/// Serves administrators until `end`, then answers the requests in progress.
pub(crate) async fn serve(
    peers: Arc<Shared>,
    listener: UnixListener,
    end: impl Future<Output = ()> + Send + 'static,
) {
    let stopping = CancellationToken::new();
    let users = Arc::new(UserDatabase::default());
    let gate = Gate::new(listener, Arc::clone(&peers.daemon), Arc::clone(&users), stopping.clone());
    let admin = Admin {
        users,
        daemon: Arc::clone(&peers.daemon),
        peers,
        strangers: Arc::new(Semaphore::new(1)),
        strangers_page: Arc::default(),
        trail_readers: Arc::default(),
        overview: Arc::default(),
        page: Arc::default(),
        ending: stopping.clone(),
    };
    let routes = routes(admin.daemon.serves_grep11)
        .fallback(async || AdminError::NoRoute)
        .method_not_allowed_fallback(async || AdminError::NoRoute)
        .layer(DefaultBodyLimit::max(MAX_KEY_FILE))
        .layer(middleware::from_fn(to_the_end))
        .layer(middleware::from_fn(foreign::refuse))
        .layer(middleware::from_fn(page::explain))
        .layer(middleware::from_fn_with_state(admin.clone(), rights::identify))
        .with_state(admin);
    let service = routes.into_make_service_with_connect_info::<Caller>();
    let end = async move {
        end.await;
        stopping.cancel();
    };
    let served = axum::serve(gate, service).with_graceful_shutdown(end).await;
    if let Err(error) = served {
        tracing::error!("the administrators' socket is closed: {error}");
    }
}

/// Every route, with its act and the right that the act needs. docs/roles.md has the same table. A
/// unit that serves GREP11 has no keys of its own.
fn routes(serves_grep11: bool) -> Router<Admin> {
    let routes = match serves_grep11 {
        // The end of a change takes the former master key from clients that have not rewrapped.
        true => routes_of_units(Right::Manage),
        false => routes_of_plans(routes_of_keys(routes_of_units(Right::Operate))),
    };
    routes.into_router()
}

fn routes_of_units(finish: Right) -> Routes {
    use Right::{Audit, Manage, Operate, View};

    Routes::new()
        .open("/live", get(async || "live\n"))
        .open("/ready", get(units::ready))
        .open("/metrics", get(metrics::page))
        .route("/v1/status", get(status::show), "status", View)
        .route("/v1/units", get(units::list), "units", View)
        .route("/v1/backends/{name}/rewrap", post(rewrap::rewrap), "rewrap", Operate)
        .route("/v1/backends/{name}/rewrap/finish", post(rewrap::finish), "rewrap", finish)
        .route("/v1/unit", get(unit::show), "unit", View)
        .route("/v1/unit/importer", get(unit::importer), "importer", Operate)
        .route("/v1/unit/commands", post(unit::commands), "command", Operate)
        .route("/v1/unit/parts", post(unit::part), "part", Operate)
        .route("/v1/unit/next", post(unit::prepare_rotation), "rotate-master-key", Operate)
        .route("/v1/unit/next", delete(unit::give_up_rotation), "rotate-master-key", Operate)
        .route("/v1/unit/seal", post(unit::seal), "seal", Operate)
        .route("/v1/unit/claim", get(unit::claim_secret), "claim", Manage)
        .route("/v1/reload", post(reload::reload), "reload", Operate)
        .route("/v1/audit", get(audit::records), "audit", Audit)
        .route("/v1/audit/files", get(audit::copy), "export", Audit)
}

fn routes_of_keys(routes: Routes) -> Routes {
    use Right::{Manage, Operate, Purge, View};

    routes
        .route("/", get(page::show), "page", View)
        .route("/v1/keys", get(keys::list), "list", View)
        .route("/v1/keys/{label}", get(keys::show), "show", View)
        .route("/v1/keys/{label}/access", get(access::show), "access", View)
        // Disable and enable need this right, and set-uses needs `Manage`.
        .route_by_body("/v1/keys/{label}", patch(keys::change), "change", Operate)
        .route("/v1/keys/{label}/compromise", post(keys::compromise), "compromise", Operate)
        .route("/v1/keys/{label}/rotate", post(keys::rotate), "rotate", Operate)
        .route("/v1/keys/{label}/certificates", put(certificates::attach), "attach", Operate)
        .route("/v1/keys/{label}/certificates", delete(certificates::detach), "detach", Operate)
        .route("/v1/keys", post(keys::generate), "generate", Manage)
        .route("/v1/generate", post(keys::generate_all), "generate", Manage)
        .route("/v1/keys/{label}/import", post(keys::import), "import", Manage)
        .route("/v1/keys/{label}/adopt", post(keys::adopt), "adopt", Manage)
        .route("/v1/keys/{label}/csr", post(csr::sign), "csr", Manage)
        .route("/v1/keys/{label}", delete(keys::delete), "delete", Manage)
        .route("/v1/keys/{label}/restore", post(keys::restore), "restore", Manage)
        .route("/v1/backup", get(backup::make), "backup", Manage)
        .route("/v1/recovery", get(backup::recovery), "recovery", Manage)
        .route("/v1/recovery", post(backup::note_recovery), "recovery", Manage)
        .route("/v1/repair", post(keys::repair), "repair", Manage)
        .route("/v1/keys/{label}/purge", post(keys::purge), "purge", Purge)
}

fn routes_of_plans(routes: Routes) -> Routes {
    use Right::{Operate, Step, View};

    routes
        .route("/v1/plans", get(plans::list), "plans", View)
        .route("/v1/plans/{name}/files", get(plans::files), "files", Operate)
        .route("/v1/plans/{name}/prepare", post(plans::prepare), "prepare", Operate)
        .route("/v1/plans/{name}/renew", post(plans::renew), "renew", Operate)
        .route("/v1/plans/{name}/revoke", post(plans::revoke), "revoke", Operate)
        .route("/v1/plans/{name}/deployed", post(plans::deployed), "deployed", Operate)
        .route("/v1/watched", get(plans::watched), "watched", View)
        .route("/v1/watched", post(plans::see), "see", Operate)
        .route("/v1/tasks", get(plans::tasks), "tasks", Step)
        .route("/v1/plans/{name}/message", post(plans::message), "message", Step)
        .route("/v1/plans/{name}/request", post(plans::request), "request", Step)
        .route("/v1/plans/{name}/chain", post(plans::accept), "chain", Step)
        .route("/v1/plans/{name}/report", post(plans::report), "report", Step)
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
    users: Arc<UserDatabase>,
    /// Cancelled when the daemon ends: answers without an end must end too.
    ending: CancellationToken,
    /// Turn of users without a role.
    strangers: Arc<Semaphore>,
    strangers_page: Arc<StrangersPage>,
    trail_readers: Arc<audit::Readers>,
    overview: Arc<overview::Known>,
    page: Arc<page::Page>,
}

impl Admin {
    fn view(&self, key: &Key) -> Json<KeyView> {
        Json(KeyView::of(key, &self.daemon))
    }
}

type Answer<T> = Result<Json<T>, AdminError>;
type Body = Result<Bytes, BytesRejection>;

/// Name of the administrators' socket in the runtime directory.
pub(crate) const SOCKET: &str = "admin.sock";
