//! Who may call, and as which client.

use core::net::IpAddr;
use std::sync::Arc;

use keyward_grep11::ckr;
use keyward_unit::grep11::Error;
use tonic::Status;
use tonic::codegen::http;

use super::clients::{Client, Clients, Name};
use super::limits::{Call, Handle, Limits, OpenCall};
use super::service::status;
use super::tokens::Tokens;

/// Lets in connections and calls.
pub(crate) struct Admission {
    pub(crate) limits: Arc<Limits>,
    clients: Clients,
    /// If there are any, a call needs one.
    tokens: Option<Arc<Tokens>>,
}

/// The client of a call. Every call that was let in has it among its extensions.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) client: Arc<Client>,
    _call: Arc<Call>,
}

impl Admission {
    pub(crate) fn new(tokens: Option<Arc<Tokens>>) -> Self {
        let limits = Limits::new(MOST_NEWCOMERS, MOST_CONNECTIONS);
        Self { limits, clients: Clients::default(), tokens }
    }

    /// Lets in a connection whose client has proved itself by a certificate, if that is all it needs. `false` if
    /// there is no place for it.
    pub(crate) fn connect(&self, handle: &Handle) -> bool {
        match handle.certificate() {
            Some(digest) if self.tokens.is_none() => {
                handle.admit(&self.clients.get(Name::Certificate(digest)))
            }
            _ => true,
        }
    }

    /// Lets a call in, if it has a token where one is needed, or is one that needs none. What is
    /// returned is held until the call has ended.
    ///
    /// # Errors
    /// The status for those that are refused.
    pub(crate) fn check<B>(&self, request: &mut http::Request<B>) -> Result<Option<OpenCall>, Status> {
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

    /// Lets a call of the health service in, and no other.
    fn without_token(
        &self,
        handle: &Handle,
        path: &str,
        tokens: &Tokens,
    ) -> Result<Option<OpenCall>, Status> {
        let open = path.starts_with(HEALTH);
        if open && handle.client().is_some() {
            return Ok(None);
        }
        // The connection stays one of those that have not shown who they are.
        if !handle.allows_call() {
            handle.cut_stranger();
        }
        match open {
            false => Err(self.unauthenticated(handle, tokens)),
            true => handle.begin_open_call().map(Some).ok_or_else(|| {
                let most = Handle::MOST_OPEN_CALLS;
                Status::resource_exhausted(format!(
                    "a connection without a token may have {most} health checks under way"
                ))
            }),
        }
    }

    /// The client that somebody from a network is who has not shown more.
    pub(crate) fn stranger(&self, source: IpAddr) -> Arc<Client> {
        self.clients.get(Name::Address(source))
    }

    fn client(&self, handle: &Handle, token: Option<Name>) -> Arc<Client> {
        let name = match (handle.certificate(), token) {
            (Some(digest), _) => Name::Certificate(digest),
            (None, Some(token)) => token,
            (None, None) => Name::Address(handle.source()),
        };
        match handle.client() {
            Some(client) if client.name == name => Arc::clone(client),
            _ => self.clients.get(name),
        }
    }

    fn unauthenticated(&self, handle: &Handle, tokens: &Tokens) -> Status {
        let stranger = self.stranger(handle.source());
        if let Some(times) = stranger.refusals.admit("token", 0) {
            let (from, path) = (handle.source(), tokens.path.display());
            tracing::warn!(times, %from, "call refused: it has no bearer token of {path}");
        }
        status(&Error::new(
            ckr::CKR_IBM_GREP11_NOT_AUTHENTICATED,
            "the call has no bearer token that this server knows, in its metadata as authorization",
        ))
    }
}

#[cfg(test)]
impl Caller {
    /// Clients with a call on a connection of its own each.
    pub(crate) fn examples<const N: usize>() -> [Self; N] {
        let (clients, limits) = (Clients::default(), Limits::new(N, N));
        core::array::from_fn(|number| {
            let (end, _) = std::os::unix::net::UnixStream::pair().unwrap();
            let place = limits.enter(end, core::net::Ipv4Addr::LOCALHOST.into()).unwrap();
            let client = clients.get(Name::Certificate([u8::try_from(number).unwrap(); 32]));
            let call = place.handle.begin_call(&client);
            Self { client, _call: Arc::new(call) }
        })
    }
}

fn refuse_connection(client: &Client) -> Status {
    let error = Error::new(
        ckr::CKR_HOST_MEMORY,
        "there are too many connections, and as many of this client as it can have now; close some and try again",
    );
    if let Some(times) = client.refusals.admit("connection", 0) {
        tracing::warn!(times, client = %client.name, "call refused: {error}");
    }
    status(&error)
}

/// What the paths of the health service begin with.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Connections that have not shown who they are.
const MOST_NEWCOMERS: usize = 512;
/// Connections of clients, of all together.
const MOST_CONNECTIONS: usize = 1024;
