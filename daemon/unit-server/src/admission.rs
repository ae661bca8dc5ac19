//! Admission of connections and calls: decides who may call, and as which client.

use core::net::IpAddr;
use std::sync::Arc;

use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use tonic::Status;
use tonic::codegen::http;

use super::clients::{Client, ClientName, Clients};
use super::limits::{AnonymousCall, Call, Handle, Limits};
use super::status::status;
use super::tokens::Tokens;

/// Admits connections and calls.
pub(crate) struct Admission {
    pub(crate) limits: Arc<Limits>,
    clients: Clients,
    /// Bearer tokens. If present, a call needs one of them.
    tokens: Option<Arc<Tokens>>,
}

/// Client of a call. Every admitted call has this value among its extensions.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) client: Arc<Client>,
    _call: Arc<Call>,
}

impl Admission {
    /// Admission with these bearer tokens, if calls need one.
    pub(crate) fn new(tokens: Option<Arc<Tokens>>) -> Self {
        let limits = Limits::new(MAX_UNAUTHENTICATED, MAX_CONNECTIONS);
        Self { limits, clients: Clients::default(), tokens }
    }

    /// Assigns a connection to the client of its certificate, if calls need no token. False if the
    /// client may have no further connection.
    pub(crate) fn connect(&self, handle: &Handle) -> bool {
        match handle.certificate() {
            Some(digest) if self.tokens.is_none() => {
                handle.admit(&self.clients.get(ClientName::Certificate(digest)))
            }
            _ => true,
        }
    }

    /// Admits a call that has a valid token, or needs none. The returned value counts a call
    /// without a token, and must be held until the call ends.
    ///
    /// # Errors
    /// Status of the refusal.
    pub(crate) fn check<B>(&self, request: &mut http::Request<B>) -> Result<Option<AnonymousCall>, Status> {
        let handle = request.extensions().get::<Handle>().cloned();
        let handle = handle.ok_or_else(|| Status::internal("a call without a connection"))?;
        let token = match &self.tokens {
            None => None,
            Some(tokens) => match tokens.client(request.headers()) {
                Some(name) => Some(name),
                None => return self.without_token(&handle, request.uri().path(), tokens),
            },
        };
        let client = self.client(&handle, token);
        if !handle.admit(&client) {
            return Err(refuse_connection(&client));
        }
        let call = Arc::new(handle.begin_call(&client));
        request.extensions_mut().insert(Caller { client, _call: call });
        Ok(None)
    }

    /// Admits a call without a token if it is for the health service.
    fn without_token(
        &self,
        handle: &Handle,
        path: &str,
        tokens: &Tokens,
    ) -> Result<Option<AnonymousCall>, Status> {
        let is_health_check = path.starts_with(HEALTH);
        if is_health_check && handle.client().is_some() {
            return Ok(None);
        }
        // The connection stays unauthenticated, so its allowance applies.
        if !handle.allows_call() {
            handle.close_over_allowance();
        }
        match is_health_check {
            false => Err(self.unauthenticated(handle, tokens)),
            true => handle.begin_anonymous_call().map(Some).ok_or_else(|| {
                let limit = Handle::MAX_ANONYMOUS_CALLS;
                Status::resource_exhausted(format!(
                    "a connection without a token may have {limit} health checks under way"
                ))
            }),
        }
    }

    /// Client for a network address, for a caller without certificate and token.
    pub(crate) fn client_of_address(&self, source: IpAddr) -> Arc<Client> {
        self.clients.get(ClientName::Address(source))
    }

    fn client(&self, handle: &Handle, token: Option<ClientName>) -> Arc<Client> {
        let name = match (handle.certificate(), token) {
            (Some(digest), _) => ClientName::Certificate(digest),
            (None, Some(token)) => token,
            (None, None) => ClientName::Address(handle.source()),
        };
        match handle.client() {
            Some(client) if client.name == name => Arc::clone(client),
            _ => self.clients.get(name),
        }
    }

    fn unauthenticated(&self, handle: &Handle, tokens: &Tokens) -> Status {
        let client = self.client_of_address(handle.source());
        if let Some(times) = client.refusals.admit("token", 0) {
            let (from, path) = (handle.source(), tokens.path.display());
            tracing::warn!(times, %from, "call refused: it has no bearer token that is in {path}");
        }
        status(&Error::new(
            ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED,
            "the call has no valid bearer token; pass a token of the server in the metadata, as authorization",
        ))
    }
}

#[cfg(test)]
impl Caller {
    /// Clients, each with one call on one connection.
    pub(crate) fn examples<const N: usize>() -> [Self; N] {
        let (clients, limits) = (Clients::default(), Limits::new(N, N));
        core::array::from_fn(|number| {
            let (end, _) = std::os::unix::net::UnixStream::pair().unwrap();
            let slot = limits.enter(end, core::net::Ipv4Addr::LOCALHOST.into()).unwrap();
            let client = clients.get(ClientName::Certificate([u8::try_from(number).unwrap(); 32]));
            let call = slot.handle.begin_call(&client);
            Self { client, _call: Arc::new(call) }
        })
    }
}

fn refuse_connection(client: &Client) -> Status {
    let error = Error::new(
        ckr::CKR_HOST_MEMORY,
        "too many connections are open, and this client has its share of them; close some connections and try again",
    );
    if let Some(times) = client.refusals.admit("connection", 0) {
        tracing::warn!(times, client = %client.name, "call refused: {error}");
    }
    status(&error)
}

/// Prefix of the paths of the health service.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Maximum number of connections without an authenticated client.
const MAX_UNAUTHENTICATED: usize = 512;
/// Maximum number of connections of all clients together.
const MAX_CONNECTIONS: usize = 1024;
