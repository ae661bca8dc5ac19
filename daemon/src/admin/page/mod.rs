//! The status page: one page of HTML without scripts, forms and state, for the browser of an
//! administrator behind `ssh -L`.
//!
//! [`facts`] collects what the daemon knows, and the other modules render these facts without the
//! daemon.

mod facts;
mod frame;
mod html;
mod keys;
mod rest;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;

use super::api::Refusal;
use super::{Admin, AdminError};
use facts::{Facts, Users};
use frame::POLICY;

/// The page, which is the same for all callers, and is made once a second at most: a caller who
/// loads it without end must not take the time of signatures.
#[derive(Debug, Default)]
pub(super) struct Page {
    made: Mutex<Option<(Instant, String)>>,
    users: Arc<Users>,
}

/// Answers with the page.
pub(super) async fn show(State(admin): State<Admin>) -> Result<Response, AdminError> {
    let mut made = admin.page.made.lock().await;
    if let Some((at, page)) = &*made
        && at.elapsed() < PAGE_LIFE
    {
        return Ok(as_page(page.clone()));
    }
    let facts = Facts::of(&admin, &admin.page.users).await?;
    let page = frame::page(&facts);
    *made = Some((Instant::now(), page.clone()));
    Ok(as_page(page))
}

/// Answers a browser that asks for the page with a page also if the answer is an error, such as
/// that of a user without a role.
pub(super) async fn explain(request: Request, next: Next) -> Response {
    let accepted = request.headers().get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let is_of_browser =
        request.uri().path() == "/" && accepted.is_some_and(|accepted| accepted.contains("text/html"));
    let response = next.run(request).await;
    match response.extensions().get::<Refusal>().filter(|_| is_of_browser) {
        Some(refusal) => {
            let lacks_role = response.status() == StatusCode::FORBIDDEN;
            let mut page = as_page(frame::refusal(&refusal.error, lacks_role));
            *page.status_mut() = response.status();
            page
        }
        None => response,
    }
}

fn as_page(page: String) -> Response {
    let headers: [(HeaderName, &str); 6] = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, &POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        // No page of another site can load this one as a picture or a script.
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    (headers, page).into_response()
}

/// Age up to which a page is shown again.
const PAGE_LIFE: Duration = Duration::from_secs(1);
