//! A signing service that has the key of an administrator: the HTTP contract that the tools for IBM
//! Cloud Hyper Protect Crypto Services use with `TKE_SIGNSERV_URL`.
//!
//! `GET /keys/NAME` answers `{"publickey": B64}`: the coordinates of a point of P-521, as a
//! SEQUENCE of two INTEGERs in DER. `POST /sign/NAME` with `{"hash_algorithm": "sha2-512",
//! "input": B64}` answers `{"signature": B64}`: ECDSA in DER. The input is the whole text: the
//! service hashes it with the algorithm that the request names. The header Authorization is the
//! token as it is, without the name of a scheme.

use core::fmt;
use core::net::IpAddr;
use core::str::FromStr;
use core::time::Duration;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::asn1::UintRef;
use der::{Reader, SliceReader};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use keyward_unit::administration::PersonKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::signers::{PERSON_TIME, wait};
use crate::backend::https::{self, HttpError};
use crate::backend::network::{TlsClient, TlsError};
use crate::backend::secret_file::{self, SecretFileError};
use crate::cli::failure::Failure;
use crate::config::{Endpoint, Tls};
use crate::ground::exit;

/// The address of a key in a signing service: the URL of the service, `/`, and the name of the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ServiceKey {
    server: Endpoint,
    has_tls: bool,
    /// Path of the URL of the service, without a slash at the end.
    base: String,
    name: String,
}

impl FromStr for ServiceKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "the URL of a service, a slash and the name of a key are needed, as in https://signer.example.org:8443/alice";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let (host, scheme) = (uri.host().ok_or(EXPECTED)?, uri.scheme_str().ok_or(EXPECTED)?);
        let host = host.trim_matches(['[', ']']).to_owned();
        let (base, name) = uri.path().rsplit_once('/').ok_or(EXPECTED)?;
        // Unreserved characters (RFC 3986, 2.3), as in the contract; dots alone name a directory.
        let is_name = |c: u8| c.is_ascii_alphanumeric() || b"-._~".contains(&c);
        if !name.bytes().all(is_name) || name.bytes().all(|c| c == b'.') {
            return Err("the name of the key has letters, digits, and - . _ ~ only");
        }
        if uri.query().is_some() || text.contains(['#', '@']) {
            return Err("the URL must have no user, no query and no fragment");
        }
        let has_tls = match scheme {
            "https" => true,
            "http" if is_here(&host) => false,
            "http" => return Err("http is for a service on this machine only; use https"),
            _ => return Err(EXPECTED),
        };
        let port = uri.port_u16().unwrap_or(if has_tls { 443 } else { 80 });
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { server: Endpoint { host, port }, has_tls, base, name: name.to_owned() })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the key {} at {}", self.name, self.server)
    }
}

/// True for names and addresses of this machine. The address that a name leads to is checked again
/// after connecting.
fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A signing service, ready for requests.
pub(super) struct Service<'k> {
    key: &'k ServiceKey,
    tls: Option<TlsClient>,
    token: Option<HeaderValue>,
}

impl<'k> Service<'k> {
    /// The service of a key. `token` is the file of the token. `ca` is the file of the authorities
    /// that certify the service; without the file, the authorities of the system do.
    ///
    /// # Errors
    /// [`Failure`] if a file cannot be used.
    pub(super) fn new(key: &'k ServiceKey, token: Option<&Path>, ca: Option<&Path>) -> Result<Self, Failure> {
        let settings = Tls { ca: ca.map(Path::to_owned), ..Tls::default() };
        let tls = key.has_tls.then(|| TlsClient::new(&settings, b"http/1.1")).transpose();
        let tls = tls.map_err(|error| match error {
            TlsError::NoSystemRoots => Failure::new(
                exit::CONFIG,
                "the system has no certificate authorities; install ca-certificates, or use --service-ca",
            ),
            error => Failure::new(exit::CONFIG, error),
        })?;
        Ok(Self { key, tls, token: token.map(token_in).transpose()? })
    }

    /// Asks the service for the public key.
    ///
    /// # Errors
    /// [`Failure`] if the service cannot be reached, refuses, or answers something else.
    pub(super) fn public_key(&self) -> Result<PersonKey, Failure> {
        let answer: PublicKeyAnswer = self.call(Method::GET, "keys", String::new(), ANSWER_TIME)?;
        let point = STANDARD.decode(answer.publickey).ok().and_then(|der| point(&der));
        point.and_then(|point| PersonKey::from_point(&point).ok()).ok_or_else(|| {
            self.garbled("publickey is no key of P-521: the integers X and Y in DER, in base64, are needed")
        })
    }

    /// Has the service sign a text. The signature is not verified here.
    ///
    /// # Errors
    /// See [`Self::public_key`].
    pub(super) fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Failure> {
        let request = json!({ "hash_algorithm": "sha2-512", "input": STANDARD.encode(text) });
        let answer: SignatureAnswer = self.call(Method::POST, "sign", request.to_string(), PERSON_TIME)?;
        STANDARD.decode(answer.signature).map_err(|_| self.garbled("signature is not base64"))
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        act: &str,
        body: String,
        limit: Duration,
    ) -> Result<T, Failure> {
        let ServiceKey { server, base, name, .. } = self.key;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{base}/{act}/{name}")
            .parse()
            .map_err(|error| Failure::new(exit::USAGE, format_args!("{base:?} is no path: {error}")))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let late = format!("{server} gave no answer");
        let (status, answer) = wait(limit, &late, async {
            https::send(server, self.tls.as_ref(), request, MAX_ANSWER).await.map_err(|error| {
                let status = match &error {
                    HttpError::Plain(_) => exit::USAGE,
                    HttpError::Answer(_) => exit::DATA,
                    _ => exit::UNAVAILABLE,
                };
                Failure::new(status, error)
            })
        })?;
        if status != StatusCode::OK {
            return Err(self.refused(status));
        }
        serde_json::from_slice(&answer).map_err(|_| self.garbled("it is not the JSON of the contract"))
    }

    /// The failure for a status. The text of the answer stays out of messages: it may quote the
    /// token.
    fn refused(&self, status: StatusCode) -> Failure {
        let ServiceKey { server, name, .. } = self.key;
        let (exit, advice) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                (exit::NO_PERMISSION, "; check the token in --service-token-file".to_owned())
            }
            StatusCode::NOT_FOUND => {
                (exit::NO_INPUT, format!("; check the URL, and that the service has a key {name}"))
            }
            _ => (exit::UNAVAILABLE, "; its log may say why".to_owned()),
        };
        Failure::new(exit, format_args!("{server} answered with status {status}{advice}"))
    }

    fn garbled(&self, reason: &str) -> Failure {
        Failure::new(exit::DATA, format_args!("cannot use the answer of {}: {reason}", self.key.server))
    }
}

impl fmt::Display for Service<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)
    }
}

#[derive(Deserialize)]
struct PublicKeyAnswer {
    publickey: String,
}

#[derive(Deserialize)]
struct SignatureAnswer {
    signature: String,
}

/// Value of the header Authorization, from a file.
fn token_in(path: &Path) -> Result<HeaderValue, Failure> {
    let line = secret_file::read_line(path).map_err(|error| {
        let status = if matches!(error, SecretFileError::Read(..)) { exit::NO_INPUT } else { exit::CONFIG };
        Failure::new(status, error)
    })?;
    let mut token = HeaderValue::from_str(&line).map_err(|_| {
        Failure::new(exit::DATA, format_args!("the token in {} has control characters", path.display()))
    })?;
    token.set_sensitive(true);
    Ok(token)
}

/// The uncompressed point with the coordinates in a SEQUENCE.
fn point(der: &[u8]) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(der).ok()?;
    let coordinates = reader.sequence(|reader| Ok::<_, der::Error>([reader.decode()?, reader.decode()?]));
    let coordinates: [UintRef<'_>; 2] = coordinates.ok()?;
    reader.finish().ok()?;
    let mut point = vec![0x04];
    for coordinate in coordinates {
        let bytes = coordinate.as_bytes();
        point.resize(point.len() + COORDINATE.checked_sub(bytes.len())?, 0);
        point.extend_from_slice(bytes);
    }
    Some(point)
}

/// Length of a coordinate of P-521, in bytes.
const COORDINATE: usize = 66;
/// Longest answer, in bytes.
const MAX_ANSWER: usize = 16 * 1024;
/// Time for an answer that needs no person.
const ANSWER_TIME: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_ends_in_the_name_of_a_key() {
        let key = |host: &str, port, has_tls, base: &str| {
            let server = Endpoint { host: host.into(), port };
            Ok(ServiceKey { server, has_tls, base: base.into(), name: "alice-1".into() })
        };
        for (text, expected) in [
            ("https://signer.example.org/alice-1", key("signer.example.org", 443, true, "")),
            ("https://10.0.0.1:8443/a/b/alice-1", key("10.0.0.1", 8443, true, "/a/b")),
            ("https://10.0.0.1:8443/a//alice-1", key("10.0.0.1", 8443, true, "/a")),
            ("http://127.0.0.1:9/alice-1", key("127.0.0.1", 9, false, "")),
            ("http://[::1]:9/alice-1", key("::1", 9, false, "")),
            ("http://localhost/alice-1", key("localhost", 80, false, "")),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
        for (text, words) in [
            ("", "are needed"),
            ("signer.example.org/alice", "are needed"),
            ("ftp://signer.example.org/alice", "are needed"),
            ("https://signer.example.org", "the name of the key"),
            ("https://signer.example.org/..", "the name of the key"),
            ("https://signer.example.org/a%20b", "the name of the key"),
            ("https://signer.example.org/alice?token=x", "no query"),
            ("https://signer.example.org/alice#x", "no fragment"),
            ("https://me:secret@signer.example.org/alice", "no user"),
            ("http://signer.example.org/alice", "on this machine only"),
            ("http://10.0.0.1/alice", "on this machine only"),
            ("http://127.0.0.1.example.org/alice", "on this machine only"),
        ] {
            let error = text.parse::<ServiceKey>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn coordinates_are_padded_to_a_point() {
        let short = [&[0x30, 8, 2, 1, 7, 2, 3, 0][..], &[0x80, 1]].concat();
        let expected = [&[4][..], &[0; 65], &[7], &[0; 64], &[0x80, 1]].concat();
        assert_eq!(point(&short), Some(expected));
        let long = [&[0x30, 72, 2, 67, 1][..], &[0; 66], &[2, 1, 1]].concat();
        let negative = [0x30, 6, 2, 1, 0x80, 2, 1, 1];
        let more = [0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1];
        for other in [&long[..], &negative, &more, &[short, vec![0]].concat(), b""] {
            assert_eq!(point(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_token_is_sent_as_it_is_and_not_shown() {
        use std::os::unix::fs::PermissionsExt;

        let file = tempfile::NamedTempFile::new().unwrap();
        let set_mode = |mode| file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o600);
        std::fs::write(file.path(), "Bearer abc\n").unwrap();
        let token = token_in(file.path()).unwrap();
        assert_eq!((token.to_str().unwrap(), format!("{token:?}").contains("abc")), ("Bearer abc", false));
        std::fs::write(file.path(), "abc\u{7f}\n").unwrap();
        let reason = token_in(file.path()).unwrap_err().into_reason();
        assert!(reason.contains("control characters") && !reason.contains("abc"), "{reason}");
        set_mode(0o604);
        assert!(token_in(file.path()).unwrap_err().into_reason().contains("chmod o="));
    }
}
