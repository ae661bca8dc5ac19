//! Requests to an authority: over TLS only, with limits, one connection each.

use core::time::Duration;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{
    CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, LINK, LOCATION, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use keyward_plans::origin;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::failure::Failure;

/// Sends requests to the server of one authority, and to no other.
#[derive(Clone)]
pub(crate) struct Http {
    connector: TlsConnector,
    /// Scheme, host and port of the directory.
    origin: String,
}

/// An answer of an authority.
#[derive(Default, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
    /// Nonce for the next message.
    pub(crate) nonce: Option<String>,
    pub(crate) location: Option<String>,
    /// Seconds until the next request, as the server wants it.
    pub(crate) retry_after: Option<u64>,
    /// Time at the server, in seconds since 1970 (RFC 9110, 6.6.1).
    pub(crate) date: Option<u64>,
    /// URLs of other chains (RFC 8555, 7.4.2).
    pub(crate) alternates: Vec<String>,
}

impl Http {
    /// A client of the server with this directory, which trusts the certificates of a PEM file, or
    /// those of the system.
    ///
    /// # Errors
    /// The roots cannot be read.
    pub(crate) fn new(directory: &str, root: Option<&Path>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        match root {
            Some(path) => {
                let failed = |reason: &dyn core::fmt::Display| {
                    Failure::new(
                        "root",
                        format!("cannot read the roots of the authority in {}: {reason}", path.display()),
                    )
                };
                let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
                for certificate in certificates {
                    let certificate = certificate.map_err(|error| failed(&error))?;
                    roots.add(certificate).map_err(|error| failed(&error))?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| Failure::new("tls", error))?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let origin = origin(directory).unwrap_or_default().to_owned();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), origin })
    }

    pub(crate) async fn get(&self, url: &str) -> Result<Answer, Failure> {
        self.limited(Method::GET, url, Bytes::new()).await
    }

    pub(crate) async fn head(&self, url: &str) -> Result<Answer, Failure> {
        self.limited(Method::HEAD, url, Bytes::new()).await
    }

    /// Posts a message of ACME.
    pub(crate) async fn post(&self, url: &str, message: Vec<u8>) -> Result<Answer, Failure> {
        self.limited(Method::POST, url, message.into()).await
    }

    async fn limited(&self, method: Method, url: &str, body: Bytes) -> Result<Answer, Failure> {
        if origin(url) != Some(&self.origin) {
            let detail = format!(
                "the authority names a URL of another server: {}",
                url.chars().take(200).collect::<String>()
            );
            return Err(Failure::new("authority", detail));
        }
        let failed = |reason: io::Error| {
            let kind = if is_of_the_clock(&reason) { "clock" } else { "network" };
            let advice = if kind == "clock" { "; is the clock of this host right?" } else { "" };
            Failure::new(kind, format!("{url}: {reason}{advice}"))
        };
        let answer = tokio::time::timeout(LIMIT, self.exchange(method, url, body)).await;
        let late = || io::Error::other(format!("no answer within {} seconds", LIMIT.as_secs()));
        answer.unwrap_or_else(|_| Err(late())).map_err(failed)
    }

    async fn exchange(&self, method: Method, url: &str, body: Bytes) -> io::Result<Answer> {
        let wrong = || io::Error::other("not a URL that begins with https://");
        let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
        let (authority, path) = rest.split_at(rest.find('/').ok_or_else(wrong)?);
        let (host, port) =
            match authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
                Some((host, port)) => (host, port.parse().map_err(io::Error::other)?),
                None => (authority, 443),
            };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, port)).await?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = self.connector.connect(name, stream).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let connection = tokio::spawn(connection);
        let agent = concat!("keyward-acme/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header(HOST, authority)
            .header(USER_AGENT, agent);
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/jose+json");
        }
        let request = request.body(Full::new(body)).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        connection.abort();
        let body = body.map_err(io::Error::other)?.to_bytes();
        let text = |name: &HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
        Ok(Answer {
            status,
            body,
            nonce: text(&HeaderName::from_static("replay-nonce")),
            location: text(&LOCATION),
            retry_after: text(&RETRY_AFTER).and_then(|text| seconds(&text)),
            date: text(&DATE).and_then(|text| time(&text)),
            alternates: alternates(&headers),
        })
    }
}

/// True if the certificate of a server is not valid at this time. Servers of authorities renew
/// theirs, so most likely this clock is wrong.
fn is_of_the_clock(error: &io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    use rustls::Error::InvalidCertificate;

    let reason = error.get_ref().and_then(|reason| reason.downcast_ref::<rustls::Error>());
    matches!(
        reason,
        Some(InvalidCertificate(Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }))
    )
}

/// Seconds of a Retry-After: a number, or a date (RFC 9110, 10.2.3).
fn seconds(text: &str) -> Option<u64> {
    match text.trim().parse() {
        Ok(seconds) => Some(seconds),
        Err(_) => Some(time(text)?.saturating_sub(now())),
    }
}

/// A date of HTTP (RFC 9110, 5.6.7), in seconds since 1970.
fn time(text: &str) -> Option<u64> {
    // Sat, 29 Nov 2026 12:00:00 GMT: humantime reads 2026-11-29T12:00:00Z.
    let mut words = text.split_whitespace().skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let at = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z")).ok()?;
    Some(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// The clock of this host, in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// URLs of links with the relation `alternate` (RFC 8288, 3).
fn alternates(headers: &HeaderMap) -> Vec<String> {
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    let links = links.flat_map(|link| link.split(','));
    let alternate = links.filter(|link| link.contains("rel=\"alternate\"") || link.contains("rel=alternate"));
    let urls = alternate.filter_map(|link| Some(link.split_once('<')?.1.split_once('>')?.0.to_owned()));
    urls.take(MAX_ALTERNATES).collect()
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// Longest time for an answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer, in bytes. A directory, an order or a chain has a few KiB.
const MAX_ANSWER: usize = 512 * 1024;
const MAX_ALTERNATES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_wait_is_a_number_or_a_date() {
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0));
        assert!(seconds("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|left| left > 1_000_000_000));
        for wrong in ["", "soon", "Sun, 06 Nov", "-1", "Sun, 06 Foo 1994 08:49:37 GMT"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn other_chains_are_links() {
        let mut headers = HeaderMap::new();
        let links = "<https://ca/dir>;rel=\"index\", <https://ca/chain/1>;rel=\"alternate\"";
        headers.append(LINK, links.parse().unwrap());
        headers.append(LINK, "<https://ca/chain/2>; rel=\"alternate\"".parse().unwrap());
        assert_eq!(alternates(&headers), ["https://ca/chain/1", "https://ca/chain/2"]);
    }
}
