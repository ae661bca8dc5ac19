//! The page of metrics over TCP, for collectors that do not read Unix sockets.
//!
//! The port has this page and nothing else: no route of administrators, no role, no other method
//! than GET and HEAD. Its callers have no name, so they get what users without a role get at the
//! administrators' socket: the same page for a second, one answer at a time, and short connections.
//! The connections of the port do not count at any other socket.
//!
//! Any user can flood the port. A collector sends its request at once, and a connection with a
//! request is not closed for another one. So a flood without requests keeps no collector out, and
//! one with requests leaves it a part of the places that become free.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::foreign;
use super::gate::{Conversation, LIMITS, read_others};
use super::metrics::StrangersPage;
use super::rights;
use crate::peers::connections::{Admission, Connections, Slot};
use crate::peers::listener::PAUSE;
use crate::peers::owner::Owner;
use crate::peers::shared::Shared;
use crate::policy::authorise::Peer;

/// Serves the page until `end`.
pub(crate) async fn serve_metrics(
    peers: Arc<Shared>,
    listener: TcpListener,
    end: impl Future<Output = ()> + Send + 'static,
) {
    let stopping = CancellationToken::new();
    let port = Port { listener, connections: Arc::new(Connections::new()), stopping: stopping.clone() };
    let (page, turn) = (Arc::new(StrangersPage::default()), Arc::new(Semaphore::new(1)));
    let in_turn = async move |State(turn): State<Arc<Semaphore>>,
                              ConnectInfo(Collector(slot)): ConnectInfo<Collector>,
                              request: Request,
                              next: Next| rights::in_turn(turn, &slot, request, next).await;
    let routes = Router::new()
        .route("/metrics", get(async move || page.answer(&peers).await))
        .fallback(async || (StatusCode::NOT_FOUND, ONLY).into_response())
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, ONLY).into_response())
        .layer(middleware::from_fn_with_state(turn, in_turn))
        .layer(middleware::from_fn(foreign::refuse));
    let end = async move {
        end.await;
        stopping.cancel();
    };
    let service = routes.into_make_service_with_connect_info::<Collector>();
    if let Err(error) = axum::serve(port, service).with_graceful_shutdown(end).await {
        tracing::error!("the port for metrics is closed: {error}");
    }
}

/// The port for axum.
struct Port {
    listener: TcpListener,
    connections: Arc<Connections>,
    /// Token that is cancelled when the daemon stops, so that callers do not delay the stop.
    stopping: CancellationToken,
}

impl Listener for Port {
    type Io = Conversation<TcpStream>;
    type Addr = Collector;

    async fn accept(&mut self) -> (Self::Io, Collector) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    read_others().await;
                    let (owner, nobody) = (Owner::WithoutGrant, Peer::default());
                    let admission = self.connections.admit_for(owner, &nobody, false, LIMITS, &self.stopping);
                    if let Admission::Admitted(slot) | Admission::Replaced(_, slot) = admission {
                        let slot = Arc::new(slot);
                        let stopping = self.stopping.clone();
                        return (Conversation::new(stream, Arc::clone(&slot), stopping), Collector(slot));
                    }
                }
                Err(error) => {
                    tracing::debug!("cannot accept a collector of metrics: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Collector> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The slot of a connection.
#[derive(Clone, Debug)]
struct Collector(Arc<Slot>);

impl Connected<IncomingStream<'_, Port>> for Collector {
    fn connect_info(stream: IncomingStream<'_, Port>) -> Self {
        stream.remote_addr().clone()
    }
}

/// Answer to every other request.
const ONLY: &str = "only GET /metrics is served here\n";
