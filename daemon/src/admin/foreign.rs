//! Requests that web pages of others make in the browser of an administrator, who reaches the
//! socket through `ssh -L`. The kernel then names the administrator as the caller, so roles do not
//! refuse such a request.
//!
//! A browser says in `Host` for which server a request is. A page that has its own name point to
//! the socket (DNS rebinding) so asks for another server. A browser says in `Sec-Fetch-Site` (W3C,
//! Fetch Metadata Request Headers) and `Origin` (RFC 6454) whose page has made a request. Programs
//! that are not browsers send neither.

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminError;
use crate::ground::text::printable;

/// Refuses a request of a page of another site, and every change that a browser asks for: no page
/// of the daemon asks for changes.
pub(super) async fn refuse(request: Request, next: Next) -> Response {
    let checked =
        check(request.method(), request.uri().authority().map(|name| name.as_str()), request.headers());
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// `authority` is the server in the request line, if there is one (RFC 9112, 3.2.2).
fn check(method: &Method, authority: Option<&str>, headers: &HeaderMap) -> Result<(), AdminError> {
    let hosts = headers.get_all(HOST).into_iter().map(|host| host.to_str().unwrap_or("?"));
    if let Some(other) = hosts.chain(authority).find(|host| !is_here(host)) {
        return Err(AdminError::OtherHost(printable(other)));
    }
    let of = |name: &str| headers.get(name).map(|value| value.as_bytes());
    let (site, mode) = (of("sec-fetch-site"), of("sec-fetch-mode"));
    let is_foreign = match *method {
        // A link of another page leads here: the other page does not see the answer.
        Method::GET | Method::HEAD => {
            site.is_some_and(|site| ![&b"none"[..], b"same-origin"].contains(&site))
                && mode != Some(b"navigate")
        }
        _ => site.is_some() || headers.contains_key(ORIGIN),
    };
    if is_foreign { Err(AdminError::OfWebPage) } else { Ok(()) }
}

/// True for the names of this server: those of a tunnel on any port, and the one that the programs
/// of this project send.
fn is_here(host: &str) -> bool {
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|digit| digit.is_ascii_digit());
    ["localhost", "127.0.0.1", "[::1]", "keyward"].iter().any(|name| {
        let rest = host.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name));
        let rest = rest.and_then(|_| host.get(name.len()..));
        rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_the_names_of_the_socket_are_answered() {
        let get = |host: &str| check(&Method::GET, None, &headers(&[("host", host)]));
        for host in ["localhost", "LocalHost:8463", "127.0.0.1:1", "[::1]:65535", "[::1]", "keyward"] {
            assert!(get(host).is_ok(), "{host}");
        }
        for host in [
            "shop.example",
            "shop.example:8463",
            "localhost.shop.example",
            "localhost:8463.shop.example",
            "127.0.0.1.shop.example",
            "127.0.0.12",
            "keyward.example",
            "localhost:80@shop.example",
            "",
        ] {
            assert!(matches!(get(host), Err(AdminError::OtherHost(_))), "{host}");
        }
        assert!(check(&Method::GET, None, &HeaderMap::new()).is_ok(), "HTTP/1.0");
        let local = headers(&[("host", "localhost")]);
        assert!(matches!(check(&Method::GET, Some("shop.example"), &local), Err(AdminError::OtherHost(_))));
        let mut two = local;
        two.append(HOST, HeaderValue::from_static("shop.example"));
        assert!(matches!(check(&Method::GET, None, &two), Err(AdminError::OtherHost(_))));
    }

    #[test]
    fn a_page_of_another_site_reads_and_changes_nothing() {
        let sent = |method: Method, pairs: &[(&str, &str)]| check(&method, None, &headers(pairs)).is_ok();
        let site = |site| ("sec-fetch-site", site);
        let mode = |mode| ("sec-fetch-mode", mode);
        assert!(sent(Method::GET, &[]) && sent(Method::POST, &[]), "a program");
        // A person types the address, or follows a link.
        assert!(sent(Method::GET, &[site("none"), mode("navigate")]));
        assert!(sent(Method::GET, &[site("cross-site"), mode("navigate")]));
        assert!(sent(Method::GET, &[site("same-origin"), mode("cors")]));
        for mode_of_page in ["no-cors", "cors", "websocket"] {
            assert!(!sent(Method::GET, &[site("cross-site"), mode(mode_of_page)]), "{mode_of_page}");
            assert!(!sent(Method::GET, &[site("same-site"), mode(mode_of_page)]), "{mode_of_page}");
        }
        assert!(!sent(Method::POST, &[site("cross-site"), mode("navigate")]), "a form");
        assert!(!sent(Method::POST, &[site("same-origin")]), "no page of the daemon does this");
        assert!(!sent(Method::POST, &[("origin", "http://shop.example")]), "an older browser");
        assert!(!sent(Method::PUT, &[("origin", "null")]));
    }
}
