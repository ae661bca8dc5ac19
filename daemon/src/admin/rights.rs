//! Rights of callers. Each route names its act and the right that the act needs. The roles of the
//! caller are found once for each request, before anything else of the request is read.

use core::fmt;
use core::time::Duration;
use std::process;
use std::sync::Arc;

use axum::Extension;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, Router};
use keyward_proto::Label;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::sync::Semaphore;

use super::gate::Caller;
use super::{Admin, AdminError};
use crate::audit;
use crate::daemon::RefusedAct;
use crate::ground::ownership::Name;
use crate::ground::text::quoted;
use crate::lifecycle::Actor;
use crate::peers::connections::Slot;
use crate::policy::authorise::Peer;
use crate::policy::roles::{Right, Role, RoleSet};

/// Routes, each of which is either open to every user or needs a right.
pub(super) struct Routes(Router<Admin>);

impl Routes {
    pub(super) fn new() -> Self {
        Self(Router::new())
    }

    /// Adds a route for every user.
    pub(super) fn open(self, path: &str, handler: MethodRouter<Admin>) -> Self {
        Self(self.0.route(path, handler))
    }

    /// Adds a route for users with a right. The name of the act is that of docs/roles.md.
    pub(super) fn route(
        self,
        path: &str,
        handler: MethodRouter<Admin>,
        act: &'static str,
        right: Right,
    ) -> Self {
        let guard = middleware::from_fn_with_state((act, right), guard);
        Self(self.0.route(path, handler.route_layer(guard)))
    }

    /// Adds a route whose acts only the body tells apart. Refuses users without a role before the
    /// body is read, with the right that the least of these acts needs. The handler asks
    /// [`Asker::may`] for the actor.
    pub(super) fn route_by_body(
        self,
        path: &str,
        handler: MethodRouter<Admin>,
        act: &'static str,
        least: Right,
    ) -> Self {
        let guard = middleware::from_fn_with_state((act, least), refuse_strangers);
        Self(self.0.route(path, handler.route_layer(guard)))
    }

    /// The router with all routes.
    pub(super) fn into_router(self) -> Router<Admin> {
        self.0
    }
}

/// Refuses a request before its body is read, unless a role of the caller allows the act.
async fn guard(
    State((act, right)): State<(&'static str, Right)>,
    Extension(asker): Extension<Asker>,
    mut request: Request,
    next: Next,
) -> Response {
    match asker.may(act, right).await {
        Ok(actor) => {
            request.extensions_mut().insert(Administrator(actor));
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn refuse_strangers(
    State((act, right)): State<(&'static str, Right)>,
    Extension(asker): Extension<Asker>,
    request: Request,
    next: Next,
) -> Response {
    match asker.has_role() {
        true => next.run(request).await,
        false => AdminError::NeedsRole(Box::new(asker.refusal(act, right).await)).into_response(),
    }
}

/// A caller whose role allows the act of the route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Administrator(pub(super) Actor);

/// Process that asks, with the roles of its user at the time of the request.
#[derive(Clone)]
pub(super) struct Asker {
    /// `None` if the kernel does not name the user.
    peer: Option<Peer>,
    roles: RoleSet,
    /// True if groups would give roles, and the user has no entry in the user database.
    lacks_entry: bool,
    /// Path of the request.
    path: Arc<str>,
    admin: Admin,
}

impl Asker {
    /// True if the user has a role.
    pub(super) fn has_role(&self) -> bool {
        !self.roles.is_empty()
    }

    /// The actor of an act, with the role that allows the act. Handlers call this for acts that
    /// only the body of a request tells apart.
    ///
    /// # Errors
    /// [`AdminError::NeedsRole`] if no role of the user allows the act.
    pub(super) async fn may(&self, act: &'static str, right: Right) -> Result<Actor, AdminError> {
        match (&self.peer, self.roles.allowing(right)) {
            (Some(peer), Some(role)) => Ok(Actor::User { uid: peer.uid, pid: peer.pid, role }),
            _ => Err(AdminError::NeedsRole(Box::new(self.refusal(act, right).await))),
        }
    }

    /// Records and logs a refusal, and makes its message.
    async fn refusal(&self, act: &'static str, right: Right) -> NeedsRole {
        self.record(act, right);
        if let Some(peer) = &self.peer
            && let Some(times) = self.admin.peers.log_limits.acts.admit(peer, act)
        {
            let roles = self.roles.iter().map(Role::name).collect::<Vec<_>>();
            tracing::info!(
                act,
                ?roles,
                uid = peer.uid,
                pid = peer.pid,
                times,
                "refused an administrative act"
            );
        }
        let user = match &self.peer {
            None => None,
            // To look a name up may take long, so users without a role are named by number.
            Some(peer) if !self.has_role() => Some(format!("user id {}", peer.uid)),
            Some(peer) => {
                let uid = peer.uid;
                let name = tokio::task::spawn_blocking(move || Name(uid).to_string()).await;
                Some(name.unwrap_or_else(|_| format!("user id {uid}")))
            }
        };
        let (roles, lacks_entry) = (self.roles, self.lacks_entry);
        NeedsRole { act, right, user, roles, lacks_entry, remedy: self.remedy(right) }
    }

    /// Records a refusal in the audit trail, which limits such records for each user.
    fn record(&self, act: &'static str, right: Right) {
        let Some(peer) = &self.peer else { return };
        let needed = list(right.roles().iter().copied(), "or");
        let details = [("act", json!(act)), ("path", json!(self.path))];
        self.admin.daemon.record_refused_act(RefusedAct {
            actor: audit::Actor {
                uid: peer.uid,
                pid: peer.pid,
                role: self.roles.iter().next().map_or("none", Role::name),
            },
            reason: format!("needs the role {needed}"),
            key: key_in(&self.path).as_ref(),
            details: details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        });
    }

    /// The remedy for a user who lacks a right.
    fn remedy(&self, right: Right) -> String {
        let Some(peer) = &self.peer else {
            return "run the daemon outside of the user namespace, or map the user".into();
        };
        if self.roles.is_separated() {
            return "as separation = true in the configuration says, one user may not have both; an administrator can take the user out of one of them".into();
        }
        let others = right.roles().iter().copied();
        let role = others.clone().find(|role| !self.admin.daemon.config().roles.separates(self.roles, *role));
        match (role, &self.admin.daemon.config_file) {
            (None, _) => "as separation = true in the configuration says, one user may not be both manager and purger: another user must do this".into(),
            (Some(_), None) => "an administrator can give the role in a configuration file; docs/roles.md says how".into(),
            (Some(role), Some(file)) => format!(
                "an administrator can give the role: printf '\\n[[role]]\\nrole = \"{}\"\\nuid = {}\\n' >> {} && kill -HUP {}",
                role.name(),
                peer.uid,
                quoted(file),
                process::id()
            ),
        }
    }
}

/// Refusal of an act for which the user has no role.
#[derive(Debug)]
pub(super) struct NeedsRole {
    act: &'static str,
    right: Right,
    /// `None` if the kernel does not name the user.
    user: Option<String>,
    roles: RoleSet,
    lacks_entry: bool,
    remedy: String,
}

impl fmt::Display for NeedsRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let needed = list(self.right.roles().iter().copied(), "or");
        write!(f, "{:?} needs the role {needed}, and ", self.act)?;
        let held = list(self.roles.iter(), "and");
        match &self.user {
            None => write!(f, "the daemon cannot tell which user this process belongs to")?,
            Some(user) if self.roles.is_separated() => {
                write!(f, "the roles manager and purger of {user} do not count")?;
            }
            Some(user) if self.roles.is_empty() => write!(f, "{user} has no role")?,
            Some(user) => write!(f, "{user} has only {held}")?,
        }
        if self.lacks_entry {
            write!(f, ", because roles by group do not count without an entry in the user database")?;
        }
        write!(f, "; {}", self.remedy)
    }
}

/// Names of roles, as a part of a sentence.
fn list(roles: impl Iterator<Item = Role>, word: &str) -> String {
    let names: Vec<_> = roles.map(Role::name).collect();
    match names.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} {word} {last}", first.join(", ")),
        _ => names.concat(),
    }
}

/// The label in a path, `/v1/keys/{label}` or a path below, so that a filter finds the records of
/// the key.
fn key_in(path: &str) -> Option<Label> {
    let label = path.strip_prefix("/v1/keys/")?.split('/').next()?;
    percent_decode_str(label).decode_utf8().ok()?.parse().ok()
}

/// Finds the roles of the caller by the credentials of the connection. Users without a role take
/// turns among themselves, so that they cannot keep administrators waiting: one of their requests
/// is answered at a time, at most one each [`PACE`].
pub(super) async fn identify(
    State(admin): State<Admin>,
    ConnectInfo(Caller { peer, slot }): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let (roles, lacks_entry) = match &peer {
        Some(peer) => roles_of(&admin, peer).await,
        None => Default::default(),
    };
    let path = request.uri().path().into();
    let asker = Asker { peer, roles, lacks_entry, path, admin: admin.clone() };
    let has_role = asker.has_role();
    request.extensions_mut().insert(asker);
    if has_role {
        return next.run(request).await;
    }
    in_turn(admin.strangers, &slot, request, next).await
}

/// Answers a request without a role in its turn, and closes the connection after that. Until then,
/// the connection is busy: a flood of connections does not close it.
pub(super) async fn in_turn(
    strangers: Arc<Semaphore>,
    slot: &Slot,
    request: Request,
    next: Next,
) -> Response {
    slot.set_busy();
    // Nobody closes the semaphore.
    let Ok(turn) = strangers.acquire_owned().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    // A task of its own, so that a caller who hangs up does not pass the turn on early.
    let answered = tokio::spawn(async move {
        let mut response = next.run(request).await;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        drop(tokio::spawn(async move {
            tokio::time::sleep(PACE).await;
            drop(turn);
        }));
        response
    });
    answered.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// Roles of a process, and whether roles by group do not count. The user database is asked only if
/// groups give roles.
async fn roles_of(admin: &Admin, peer: &Peer) -> (RoleSet, bool) {
    let (all, without_groups) = (admin.daemon.roles_of(peer, true), admin.daemon.roles_of(peer, false));
    if all == without_groups || admin.users.has(peer.uid).await {
        return (all, false);
    }
    (without_groups, true)
}

/// Shortest time between two answers to users without a role.
const PACE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_found_in_a_path() {
        for (path, label) in [
            ("/v1/keys/shop", Some("shop")),
            ("/v1/keys/sh%6Fp/rotate", Some("shop")),
            ("/v1/keys", None),
            ("/v1/keys/", None),
            ("/v1/keys/a%2Fb", None),
            ("/v1/keys/%FF", None),
            ("/v1/backends/shop/rewrap", None),
        ] {
            assert_eq!(key_in(path).as_ref().map(Label::as_str), label, "{path}");
        }
    }
}
