//! Client of the administrators' socket, for the command line.

use core::iter;
use core::time::Duration;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use keyward_plans::{PlanView, ToRevoke, Watched};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::admin::api::{
    AccessView, Certified, Finished, KEYS_IN_BACKUP, KeyView, MAX_ANSWER, MAX_PAGE, Made, Page, Refusal,
    Reloaded, RepairedView, RequestSignature, Rewrapped, UnitView, User,
};

use crate::admin::purge_view::{PurgesView, RecoveryNote, RecoveryView};
use crate::admin::status_view::StatusView;
use crate::admin::unit_view::{ClaimView, CommandsView, ImporterView, OwnedUnitView, SealedView, TakenView};
use crate::admin::{SOCKET, request};
use crate::audit::Filter;
use crate::ground::ownership::{self, Owners, OwnershipError, SERVICE};
use crate::keys::Altered;

/// Client of a daemon. Each method waits for the answer.
pub(crate) struct AdminClient {
    socket: PathBuf,
    runtime: Runtime,
    limit: Duration,
}

impl AdminClient {
    /// A client of the daemon with this runtime directory. Each method makes a connection.
    pub(crate) fn new(runtime_dir: &Path) -> Result<Self, AdminClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(AdminClientError::Runtime)?;
        Ok(Self { socket: runtime_dir.join(SOCKET), runtime, limit: TIME_LIMIT })
    }

    /// Client with a short time limit, for questions that the daemon answers at once. Behind a
    /// socket of systemd there may be no daemon at all.
    pub(crate) fn for_a_look(self) -> Self {
        Self { limit: LOOK_LIMIT, ..self }
    }

    pub(crate) fn status(&self) -> Result<StatusView, AdminClientError> {
        self.call(Method::GET, "/v1/status", Bytes::new())
    }

    pub(crate) fn generate(&self, key: &request::Generate) -> Result<KeyView, AdminClientError> {
        self.call(Method::POST, "/v1/keys", json(key))
    }

    /// Has several keys made, at most [`most_labels`](crate::admin::api::most_labels). Returns as
    /// many results.
    pub(crate) fn generate_all(
        &self,
        keys: &request::GenerateAll,
    ) -> Result<Vec<Result<KeyView, AdminClientError>>, AdminClientError> {
        let all: Vec<Made> = self.call(Method::POST, "/v1/generate", json(keys))?;
        let of = |made| match made {
            Made::Key(key) => Ok(*key),
            Made::Refused { status, error } => Err(match StatusCode::from_u16(status) {
                Ok(status) => AdminClientError::Refused { status, reason: error },
                Err(_) => AdminClientError::Garbled(self.socket.clone()),
            }),
        };
        match all.len() == keys.labels.len() {
            true => Ok(all.into_iter().map(of).collect()),
            false => Err(AdminClientError::Garbled(self.socket.clone())),
        }
    }

    /// Imports the key in `file`, which is wiped as soon as it is sent.
    pub(crate) fn import(
        &self,
        label: &str,
        import: &request::Import,
        file: Zeroizing<Vec<u8>>,
    ) -> Result<KeyView, AdminClientError> {
        let parameters = import.parameters();
        let query: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{name}={}", in_query(value))).collect();
        let path = format!("{}/import?{}", key_path(label), query.join("&"));
        self.call(Method::POST, &path, Bytes::from_owner(file))
    }

    pub(crate) fn adopt(&self, label: &str, key: &request::Adopt) -> Result<KeyView, AdminClientError> {
        self.call(Method::POST, &format!("{}/adopt", key_path(label)), json(key))
    }

    pub(crate) fn units(&self) -> Result<Vec<UnitView>, AdminClientError> {
        self.call(Method::GET, "/v1/units", Bytes::new())
    }

    /// The embedded unit and its owners.
    pub(crate) fn unit(&self) -> Result<OwnedUnitView, AdminClientError> {
        self.call(Method::GET, "/v1/unit", Bytes::new())
    }

    /// The importer key of the unit.
    pub(crate) fn importer(&self) -> Result<String, AdminClientError> {
        self.call(Method::GET, "/v1/unit/importer", Bytes::new()).map(|ImporterView { importer }| importer)
    }

    /// The claim secret of the unit; `None` if somebody owns it.
    pub(crate) fn claim_secret(&self) -> Result<Option<String>, AdminClientError> {
        self.call(Method::GET, "/v1/unit/claim", Bytes::new()).map(|ClaimView { secret }| secret)
    }

    /// Has the unit carry out signed commands.
    pub(crate) fn unit_commands(&self, text: String) -> Result<CommandsView, AdminClientError> {
        self.call(Method::POST, "/v1/unit/commands", text.into())
    }

    /// Gives the unit a part that is encrypted to its importer key.
    pub(crate) fn unit_part(&self, sealed: &[u8]) -> Result<TakenView, AdminClientError> {
        self.call(Method::POST, "/v1/unit/parts", STANDARD.encode(sealed).into())
    }

    /// Has the unit sealed.
    pub(crate) fn seal_unit(&self) -> Result<SealedView, AdminClientError> {
        self.call(Method::POST, "/v1/unit/seal", Bytes::new())
    }

    /// Has the next keys after a label wrapped by the next master key; `None` stands for the first
    /// keys.
    pub(crate) fn rewrap(&self, backend: &str, after: Option<&str>) -> Result<Rewrapped, AdminClientError> {
        let after = after.map(|label| format!("?after={}", in_query(label))).unwrap_or_default();
        self.call(Method::POST, &format!("/v1/backends/{}/rewrap{after}", in_query(backend)), Bytes::new())
    }

    pub(crate) fn prepare_rotation(&self) -> Result<OwnedUnitView, AdminClientError> {
        self.call(Method::POST, "/v1/unit/next", Bytes::new())
    }

    pub(crate) fn give_up_rotation(&self) -> Result<OwnedUnitView, AdminClientError> {
        self.call(Method::DELETE, "/v1/unit/next", Bytes::new())
    }

    pub(crate) fn finish_rewrap(&self, backend: &str) -> Result<Finished, AdminClientError> {
        self.call(Method::POST, &format!("/v1/backends/{}/rewrap/finish", in_query(backend)), Bytes::new())
    }

    pub(crate) fn show(&self, label: &str) -> Result<KeyView, AdminClientError> {
        self.call(Method::GET, &key_path(label), Bytes::new())
    }

    /// Uses of a key that grants allow a user.
    pub(crate) fn access(&self, label: &str, user: &User) -> Result<AccessView, AdminClientError> {
        let mut path = format!("{}/access?uid={}&gid={}", key_path(label), user.uid, user.gid);
        if let Some(groups) = &user.groups {
            let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
            path += &format!("&groups={}", groups.join(","));
        }
        if let Some(service) = &user.service {
            path += &format!("&service={}", in_query(service));
        }
        self.call(Method::GET, &path, Bytes::new())
    }

    /// Has a CertificationRequestInfo signed by a version of a key.
    pub(crate) fn sign_request(
        &self,
        label: &str,
        version: u32,
        info: Vec<u8>,
    ) -> Result<RequestSignature, AdminClientError> {
        self.call(Method::POST, &format!("{}/csr?version={version}", key_path(label)), info.into())
    }

    pub(crate) fn change(&self, label: &str, change: &request::Change) -> Result<KeyView, AdminClientError> {
        self.call(Method::PATCH, &key_path(label), json(change))
    }

    /// Has a new version of a key generated.
    pub(crate) fn rotate(&self, label: &str) -> Result<KeyView, AdminClientError> {
        self.call(Method::POST, &format!("{}/rotate", key_path(label)), Bytes::new())
    }

    /// Attaches the certificates in a PEM file.
    pub(crate) fn attach(&self, label: &str, pem: Bytes) -> Result<Certified, AdminClientError> {
        self.call(Method::PUT, &format!("{}/certificates", key_path(label)), pem)
    }

    /// Removes the certificates of a version; `None` stands for the current version. Returns the
    /// certificate of the key.
    pub(crate) fn detach(&self, label: &str, version: Option<u32>) -> Result<Certified, AdminClientError> {
        let version = version.map(|number| format!("?version={number}")).unwrap_or_default();
        self.call(Method::DELETE, &format!("{}/certificates{version}", key_path(label)), Bytes::new())
    }

    /// Deletes a key, after a waiting period in seconds. Returns the key; none if its record was
    /// altered, so that the key is destroyed.
    pub(crate) fn delete(
        &self,
        label: &str,
        after: Option<u64>,
        force: bool,
    ) -> Result<Option<KeyView>, AdminClientError> {
        let after = after.map(|seconds| format!("&after={seconds}")).unwrap_or_default();
        let path = format!("{}?force={force}{after}", key_path(label));
        let answer = self.send(Method::DELETE, &path, Bytes::new())?;
        match answer.is_empty() {
            true => Ok(None),
            false => self.parse(&answer).map(Some),
        }
    }

    pub(crate) fn compromise(&self, label: &str) -> Result<KeyView, AdminClientError> {
        self.call(Method::POST, &format!("{}/compromise", key_path(label)), Bytes::new())
    }

    pub(crate) fn restore(&self, label: &str) -> Result<KeyView, AdminClientError> {
        self.call(Method::POST, &format!("{}/restore", key_path(label)), Bytes::new())
    }

    /// Destroys a deleted key. Returns whether the purge is final.
    pub(crate) fn purge(&self, label: &str) -> Result<PurgesView, AdminClientError> {
        self.call(Method::POST, &format!("{}/purge", key_path(label)), Bytes::new())
    }

    /// The plans of certificates.
    pub(crate) fn plans(&self) -> Result<Vec<PlanView>, AdminClientError> {
        self.call(Method::GET, "/v1/plans", Bytes::new())
    }

    /// Has the keys of a plan made, so that its answers to challenges are known.
    pub(crate) fn prepare(&self, plan: &str) -> Result<PlanView, AdminClientError> {
        self.call(Method::POST, &format!("/v1/plans/{plan}/prepare"), Bytes::new())
    }

    /// Certificates that somebody else renews.
    pub(crate) fn watched(&self) -> Result<Vec<Watched>, AdminClientError> {
        self.call(Method::GET, "/v1/watched", Bytes::new())
    }

    /// Has a plan renewed now. `new_key` makes a new version of its key.
    pub(crate) fn renew(&self, plan: &str, new_key: bool) -> Result<PlanView, AdminClientError> {
        let body = serde_json::json!({ "new_key": new_key }).to_string();
        self.call(Method::POST, &format!("/v1/plans/{plan}/renew"), body.into())
    }

    /// Has certificates of a plan revoked; without one, has a version of its key called
    /// compromised.
    pub(crate) fn revoke(
        &self,
        plan: &str,
        reason: u8,
        certificates: &[String],
        version: Option<u32>,
    ) -> Result<PlanView, AdminClientError> {
        let body = serde_json::json!({ "reason": reason, "certificates": certificates, "version": version });
        let body = body.to_string();
        self.call(Method::POST, &format!("/v1/plans/{plan}/revoke"), body.into())
    }

    /// Gives up the revocations of a plan. Returns these.
    pub(crate) fn keep(&self, plan: &str) -> Result<Vec<ToRevoke>, AdminClientError> {
        let body = serde_json::json!({ "reason": null }).to_string();
        self.call(Method::POST, &format!("/v1/plans/{plan}/revoke"), body.into())
    }

    /// Has the configuration reloaded.
    pub(crate) fn reload(&self) -> Result<Reloaded, AdminClientError> {
        self.call(Method::POST, "/v1/reload", Bytes::new())
    }

    /// Has the altered lists of the index rebuilt.
    pub(crate) fn repair(&self) -> Result<RepairedView, AdminClientError> {
        self.call(Method::POST, "/v1/repair", Bytes::new())
    }

    /// Writes a copy of the key store into a file. Returns the number of keys in the copy.
    pub(crate) fn backup(&self, file: &mut File) -> Result<u64, AdminClientError> {
        let headers = self.stream("/v1/backup", Some(TIME_LIMIT), |part| file.write_all(part))?;
        let keys = headers.get(KEYS_IN_BACKUP).and_then(|keys| keys.to_str().ok()?.parse().ok());
        keys.ok_or_else(|| AdminClientError::Garbled(self.socket.clone()))
    }

    /// Tells the daemon that a recovery file is on a disk.
    pub(crate) fn note_recovery(
        &self,
        note: &RecoveryNote,
    ) -> Result<Option<RecoveryView>, AdminClientError> {
        let body = serde_json::to_vec(note).unwrap_or_default();
        self.call(Method::POST, "/v1/recovery", body.into())
    }

    /// Writes the secrets that wrap the blobs of the key store into a recovery file.
    pub(crate) fn recovery(&self, file: &mut File) -> Result<(), AdminClientError> {
        self.stream("/v1/recovery", Some(TIME_LIMIT), |part| file.write_all(part)).map(drop)
    }

    /// Writes a copy of the audit trail: a tar file.
    pub(crate) fn audit_files(&self, file: &mut File) -> Result<(), AdminClientError> {
        self.stream("/v1/audit/files", Some(TIME_LIMIT), |part| file.write_all(part)).map(drop)
    }

    /// Passes on records of the audit trail, in parts that may end within a record. `follow` goes
    /// on with new records until `write` fails.
    pub(crate) fn audit(
        &self,
        filter: &Filter,
        last: usize,
        follow: bool,
        write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), AdminClientError> {
        let mut path = format!("/v1/audit?last={last}&follow={follow}");
        let user = filter.user.map(|user| user.to_string());
        for (name, value) in [
            ("key", &filter.key),
            ("user", &user),
            ("purpose", &filter.purpose),
            ("outcome", &filter.outcome),
            ("action", &filter.action),
            ("since", &filter.since),
            ("until", &filter.until),
        ] {
            if let Some(value) = value {
                path += &format!("&{name}={}", in_query(value));
            }
        }
        self.stream(&path, (!follow).then_some(TIME_LIMIT), write).map(drop)
    }

    /// Passes on the body of an answer as it arrives, with a time limit for each part.
    fn stream(
        &self,
        path: &str,
        limit: Option<Duration>,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<HeaderMap, AdminClientError> {
        self.runtime.block_on(async {
            let (response, _connection) = self.request(Method::GET, path, Bytes::new()).await?;
            let status = response.status();
            let headers = response.headers().clone();
            let mut body = response.into_body();
            if !status.is_success() {
                let body = Limited::new(body, MAX_ANSWER).collect().await;
                return Err(self.refused(status, &body.map(|body| body.to_bytes()).unwrap_or_default()));
            }
            let late = |_| self.late(TIME_LIMIT);
            loop {
                let frame = match limit {
                    Some(limit) => tokio::time::timeout(limit, body.frame()).await.map_err(late)?,
                    None => body.frame().await,
                };
                let Some(frame) = frame else { return Ok(headers) };
                let frame =
                    frame.map_err(|reason| AdminClientError::Lost { socket: self.socket.clone(), reason })?;
                if let Some(part) = frame.data_ref() {
                    write(part).map_err(AdminClientError::Write)?;
                }
            }
        })
    }

    /// Every key, in the order of the labels, and the known alterations of the key store.
    pub(crate) fn list(&self) -> Result<(Vec<KeyView>, Altered), AdminClientError> {
        let (mut keys, mut altered) = (Vec::new(), Altered::default());
        for page in self.pages() {
            let page = page?;
            keys.extend(page.keys);
            altered = page.altered;
        }
        Ok((keys, altered))
    }

    /// Every key like [`Self::list`], a page at a time. There is nothing after an error.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Result<Page, AdminClientError>> + '_ {
        let first = Some(format!("/v1/keys?limit={MAX_PAGE}"));
        let mut next = first.clone();
        iter::from_fn(move || {
            let page = self.call::<Page>(Method::GET, &next.take()?, Bytes::new());
            if let Ok(Page { keys, more: true, .. }) = &page {
                let after = keys.last().map(|key| in_query(&key.label));
                next = after.zip(first.as_ref()).map(|(after, first)| format!("{first}&after={after}"));
            }
            Some(page)
        })
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, AdminClientError> {
        let answer = self.send(method, path, body)?;
        self.parse(&answer)
    }

    fn parse<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, AdminClientError> {
        serde_json::from_slice(answer).map_err(|_| AdminClientError::Garbled(self.socket.clone()))
    }

    fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, AdminClientError> {
        self.runtime.block_on(async {
            let answer = tokio::time::timeout(self.limit, self.exchange(method, path, body)).await;
            answer.map_err(|_| self.late(self.limit))?
        })
    }

    fn late(&self, limit: Duration) -> AdminClientError {
        AdminClientError::Late { socket: self.socket.clone(), limit }
    }

    /// Connects. Checks that only the daemon or root can have made the socket, and that the
    /// listener is the daemon or root: the client may send private keys.
    async fn connect(&self) -> Result<UnixStream, AdminClientError> {
        let unreachable = |reason| AdminClientError::Unreachable { socket: self.socket.clone(), reason };
        let directory = self.socket.parent().unwrap_or(Path::new("/"));
        ownership::check_directory(directory, Owners::OwnOrService).map_err(|error| {
            match error.into_io() {
                Ok(reason) => unreachable(reason),
                Err(reason) => AdminClientError::Exposed { socket: self.socket.clone(), reason },
            }
        })?;
        let stream = connect(&self.socket).and_then(UnixStream::from_std).map_err(unreachable)?;
        // Credentials of the process that called listen(2): those of root for a socket of systemd.
        let server = stream.peer_cred().map_err(unreachable)?.uid();
        match Owners::OwnOrService.contains(server) {
            true => Ok(stream),
            false => Err(AdminClientError::Impostor { socket: self.socket.clone(), uid: server }),
        }
    }

    /// Sends a request. The connection ends when the second value is dropped.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, AbortOnDrop), AdminClientError> {
        let stream = self.connect().await?;
        let lost = |reason| AdminClientError::Lost { socket: self.socket.clone(), reason };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let connection = AbortOnDrop(tokio::spawn(connection));
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request =
            request.body(Full::new(body)).map_err(|_| AdminClientError::Garbled(self.socket.clone()))?;
        Ok((sender.send_request(request).await.map_err(lost)?, connection))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, AdminClientError> {
        let (response, _connection) = self.request(method, path, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|_| AdminClientError::Garbled(self.socket.clone()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(self.refused(status, &body))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> AdminClientError {
        match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) => AdminClientError::Refused { status, reason: refusal.error },
            Err(_) => AdminClientError::Garbled(self.socket.clone()),
        }
    }
}

/// Connects. Waits while other users connect faster than the daemon accepts: without waiting, the
/// kernel refuses at once.
fn connect(socket: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let stream = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::sockopt::set_socket_timeout(&stream, net::sockopt::Timeout::Send, Some(CONNECT_LIMIT))?;
    net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// The task of a connection. The task ends when this is dropped.
struct AbortOnDrop(JoinHandle<hyper::Result<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reason why an administrator's request has no answer.
#[derive(Debug, Error)]
pub(crate) enum AdminClientError {
    #[error("refused to connect to {}: {reason}", socket.display())]
    Exposed { socket: PathBuf, reason: OwnershipError },
    #[error("the program that answers on {} is not a keyward daemon of this version", .0.display())]
    Garbled(PathBuf),
    #[error(
        "refused to connect to {}: the program that listens there runs as {name}, and not as root, {SERVICE} or the user who asks; if that program is the daemon, run the command as that user: setpriv --reuid {uid} --clear-groups keyward ...",
        socket.display(),
        name = ownership::Name(*uid)
    )]
    Impostor { socket: PathBuf, uid: u32 },
    #[error(
        "no answer from the daemon on {} within {limit:?}; if its start fails, its log says why: journalctl -u keyward",
        socket.display()
    )]
    Late { socket: PathBuf, limit: Duration },
    #[error("the daemon on {} closed the connection; see its log: {reason}", socket.display())]
    Lost { socket: PathBuf, reason: hyper::Error },
    #[error("{reason}")]
    Refused { status: StatusCode, reason: String },
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    #[error("cannot write: {0}")]
    Write(io::Error),
    #[error("cannot reach the daemon on {}: {reason}{}", socket.display(), hint(reason))]
    Unreachable { socket: PathBuf, reason: io::Error },
}

impl AdminClientError {
    /// True if the reader of the output has closed it.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn hint(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => {
            "; every user may connect to it while its mode is 0666, and its directory can be entered"
        }
        _ => "; is keyward serve running?",
    }
}

fn json(value: &impl Serialize) -> Bytes {
    // Strings and lists of strings always have a JSON form.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// Path of a key. The command line has parsed the label, so its characters need no encoding.
fn key_path(label: &str) -> String {
    format!("/v1/keys/{label}")
}

/// Text for a query, encoded, since a plus sign and other characters have a special meaning there.
fn in_query(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, QUERY)
}

/// Characters to encode in a query: all except letters, digits, and marks without a meaning.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_');

/// Time limit for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Time limit for an answer. The daemon gives a unit one minute to generate an RSA key.
const TIME_LIMIT: Duration = Duration::from_secs(70);

/// Time limit for an answer to a question that the daemon answers at once. It gives its keys two
/// seconds of that.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
