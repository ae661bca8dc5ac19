//! Requests that web pages of others make in the browser of an administrator, who reaches the
//! socket through `ssh -L`. The kernel then names the administrator as the caller, so roles do not
//! refuse such a request.
//!
//! A browser says in `Host` for which server a request is. A page that has its own name point to
//! the socket (DNS rebinding) so asks for another server. A browser says in `Sec-Fetch-Site` (W3C,
//! Fetch Metadata Request Headers) and `Origin` (RFC 6454) whose page has made a request. Programs
//! that are not browsers send neither. Only the status page can be reached by a link of another
//! page: the other routes have secrets, or write.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{Method, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminError;
use crate::ground::text::printable;

/// Refuses a request of a page of another site, and every change that a browser asks for: no page
/// of the daemon asks for changes.
pub(super) async fn refuse(request: Request, next: Next) -> Response {
    let (mut response, own) = match check(&request) {
        // No page of another site loads the answer as a picture or a script.
        Ok(()) => (next.run(request).await, Some((HeaderName::from_static(RESOURCE_POLICY), "same-origin"))),
        // The browser tells its person about a refusal.
        Err(refusal) => (refusal.into_response(), None),
    };
    // No browser keeps an answer, guesses its kind, or shows it within a page of another site.
    let general = [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"),
    ];
    for (name, value) in general.into_iter().chain(own) {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn check(request: &Request) -> Result<(), AdminError> {
    let headers = request.headers();
    let hosts: Vec<_> = headers.get_all(HOST).into_iter().map(|host| host.to_str().unwrap_or("?")).collect();
    // Only the oldest programs name no server (RFC 9112, 3.2).
    if hosts.is_empty() && request.version() != Version::HTTP_10 {
        return Err(AdminError::OtherHost("none".into()));
    }
    // The server in the request line (RFC 9112, 3.2.2)
    let authority = request.uri().authority().map(|name| name.as_str());
    if let Some(other) = hosts.into_iter().chain(authority).find(|host| !is_here(host)) {
        return Err(AdminError::OtherHost(printable(other)));
    }
    let all = |name: &str| headers.get_all(name).into_iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let sites = all("sec-fetch-site");
    let is_reading = [Method::GET, Method::HEAD].contains(request.method());
    let is_foreign = match is_reading {
        // A link of another page leads here: the other page does not see the answer.
        true => {
            let is_link = request.uri().path() == "/"
                && all("sec-fetch-mode") == [b"navigate"]
                && all("sec-fetch-dest") == [b"document"];
            let is_own = |origin: &[u8]| {
                let origin = str::from_utf8(origin).ok().and_then(|origin| origin.strip_prefix("http://"));
                origin.is_some_and(is_here)
            };
            let is_other = sites.iter().any(|site| ![&b"none"[..], b"same-origin"].contains(site));
            is_other && !is_link || !all("origin").into_iter().all(is_own)
        }
        false => !sites.is_empty() || headers.contains_key(ORIGIN),
    };
    if is_foreign { Err(AdminError::OfWebPage) } else { Ok(()) }
}

/// True for the names of this server: those of a tunnel on any port. Programs send the first one.
fn is_here(host: &str) -> bool {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|digit| digit.is_ascii_digit());
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        let rest = host.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name));
        let rest = rest.and_then(|_| host.get(name.len()..));
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
    })
}

/// Header that keeps answers from pages of other origins (W3C, Fetch, 3.7).
const RESOURCE_POLICY: &str = "cross-origin-resource-policy";

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, uri: &str, pairs: &[(&'static str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        request.body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn only_the_names_of_the_socket_are_answered() {
        let get = |host: &str| check(&request(Method::GET, "/", &[("host", host)]));
        for host in ["localhost", "LocalHost:8463", "127.0.0.1:1", "[::1]:65535", "[::1]"] {
            assert!(get(host).is_ok(), "{host}");
        }
        for host in [
            "shop.example",
            "shop.example:8463",
            "localhost.shop.example",
            "localhost:8463.shop.example",
            "127.0.0.1.shop.example",
            "127.0.0.12",
            // No reserved name: somebody can answer for it.
            "keyward",
            "keyward:8463",
            "localhost:80@shop.example",
            "",
        ] {
            assert!(matches!(get(host), Err(AdminError::OtherHost(_))), "{host}");
        }
        let mut old = request(Method::GET, "/", &[]);
        assert!(matches!(check(&old), Err(AdminError::OtherHost(_))), "HTTP/1.1 without a host");
        *old.version_mut() = Version::HTTP_10;
        assert!(check(&old).is_ok());
        for request in [
            request(Method::GET, "http://shop.example/", &[("host", "localhost")]),
            request(Method::GET, "/", &[("host", "localhost"), ("host", "shop.example")]),
        ] {
            assert!(matches!(check(&request), Err(AdminError::OtherHost(_))));
        }
    }

    #[test]
    fn a_page_of_another_site_reads_and_changes_nothing() {
        let sent_to = |method: Method, uri: &str, pairs: &[(&'static str, &str)]| {
            check(&request(method, uri, &[&[("host", "localhost:8463")], pairs].concat())).is_ok()
        };
        let sent = |method: Method, pairs: &[(&'static str, &str)]| sent_to(method, "/", pairs);
        let site = |site| ("sec-fetch-site", site);
        let mode = |mode| ("sec-fetch-mode", mode);
        let link = [site("cross-site"), mode("navigate"), ("sec-fetch-dest", "document")];
        assert!(sent(Method::GET, &[]) && sent(Method::POST, &[]), "a program");
        // A person types the address, or follows a link to the page.
        assert!(sent_to(Method::GET, "/v1/keys", &[site("none"), mode("navigate")]));
        assert!(sent(Method::GET, &link));
        assert!(!sent_to(Method::GET, "/v1/recovery", &link), "a secret");
        assert!(!sent(Method::GET, &[site("cross-site"), mode("navigate"), ("sec-fetch-dest", "iframe")]));
        assert!(sent(Method::GET, &[site("same-origin"), mode("cors")]));
        assert!(!sent(Method::GET, &[site("none"), site("cross-site")]), "twice");
        for mode_of_page in ["no-cors", "cors", "websocket"] {
            assert!(!sent(Method::GET, &[site("cross-site"), mode(mode_of_page)]), "{mode_of_page}");
            assert!(!sent(Method::GET, &[site("same-site"), mode(mode_of_page)]), "{mode_of_page}");
        }
        for origin in ["http://shop.example", "null"] {
            assert!(!sent(Method::GET, &[("origin", origin)]), "an older browser: {origin}");
        }
        assert!(sent(Method::GET, &[("origin", "http://localhost:8463")]));
        assert!(!sent(Method::POST, &[site("cross-site"), mode("navigate")]), "a form");
        assert!(!sent(Method::POST, &[site("same-origin")]), "no page of the daemon does this");
        assert!(!sent(Method::POST, &[("origin", "http://shop.example")]), "an older browser");
        assert!(!sent(Method::PUT, &[("origin", "null")]));
    }
}
