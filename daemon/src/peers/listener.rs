//! Accepts peers, as many as the configuration allows.

use core::time::Duration;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::Daemon;
use crate::peers::connections::{Connections, Entry, Limits, Name, Place};
use crate::peers::credentials::{credentials, known_groups};
use crate::peers::reactors::Reactor;
use crate::peers::stream::Stream;
use crate::peers::system::peer_groups;
use crate::peers::{service, session};
use crate::policy::authorise::Peer;

/// Accepts peers until `stop` is cancelled; each is served by a task of its own, of which `tasks` keeps track.
pub(crate) async fn accept(
    daemon: Arc<Daemon>,
    listener: UnixListener,
    connections: Arc<Connections>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // The peer has hung up already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                if let Some(times) = daemon.lines.accepting.admit() {
                    tracing::error!(times, "cannot accept connections: {error}");
                }
                // Most likely out of descriptors.
                connections.make_room();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(peer) = identify(&stream, &daemon) else { continue };
        let Some(place) = enter(&daemon, &connections, &peer, &stop) else { continue };
        // Away from this runtime, to one of a reactor.
        let Ok(stream) = stream.into_std() else { continue };
        let visit = Visit { daemon: Arc::clone(&daemon), peer, tasks: tasks.clone(), place };
        visit.settle(stream, daemon.reactors.any());
    }
}

/// A place for a new connection, if there is one.
fn enter(
    daemon: &Daemon,
    connections: &Arc<Connections>,
    peer: &Peer,
    stop: &CancellationToken,
) -> Option<Place> {
    let config = daemon.config();
    let limits = Limits { total: daemon.most_connections(), per_user: config.socket.connections_per_user };
    let (place, whose) = match connections.enter(peer, &config.grants, limits, stop) {
        Entry::Admitted(place) => return Some(place),
        Entry::InPlaceOf(whose, place) => (Some(place), Some(whose)),
        Entry::Refused => (None, None),
    };
    daemon.metrics.crowded();
    if let Some(times) = daemon.lines.crowded.admit(peer, "too-many") {
        let what = match &whose {
            None => "too many connections: closed the new one".to_owned(),
            Some(Name::Stranger) => {
                "too many connections: closed one of a user whom no grant names".to_owned()
            }
            Some(Name::User { uid, .. } | Name::Member { uid, .. }) => {
                format!("too many connections: closed one of user id {uid}")
            }
            Some(Name::OtherMembers { .. }) => {
                "too many connections: closed one of a user whom a grant knows by group or service".to_owned()
            }
        };
        let service = peer.service.as_deref();
        tracing::warn!(uid = peer.uid, service, pid = peer.pid, times, "{what}");
    }
    place
}

/// A peer with its connection, wherever that is served.
struct Visit {
    daemon: Arc<Daemon>,
    peer: Peer,
    tasks: TaskTracker,
    place: Place,
}

impl Visit {
    /// Serves the peer by a task on a reactor, and on others if it asks from there.
    fn settle(self, stream: UnixStream, reactor: &Reactor) {
        let (tasks, here, turns) = (self.tasks.clone(), reactor.processor, Arc::clone(&reactor.turns));
        let serve = async move {
            let Ok(stream) = Stream::new(stream) else { return };
            let moved = session::serve(&self.daemon, &self.peer, &self.place, &turns, stream, here).await;
            let Some((stream, there)) = moved else { return };
            let daemon = Arc::clone(&self.daemon);
            if let Some(reactor) = daemon.reactors.on(there) {
                self.settle(stream.into_inner(), reactor);
            }
        };
        drop(tasks.spawn_on(serve, &reactor.handle));
    }
}

/// Who is on the other end, with all that grants ask for.
fn identify(stream: &tokio::net::UnixStream, daemon: &Daemon) -> Option<Peer> {
    let mut peer = credentials(stream)?;
    peer.groups = known_groups(peer_groups(stream.as_fd()).unwrap_or_default()).into();
    if daemon.config().grants.depend_on_service(peer.uid) {
        peer.service = service::of_peer(stream, peer.pid);
    }
    Some(peer)
}

/// How long to wait for descriptors to come free.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
