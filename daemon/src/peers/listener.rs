//! Accepts peers, as many as the configuration allows.
//!
//! The kernel hands connections over in the order in which they came, of whichever user. So they
//! are taken from it as fast as can be, and wait here, where users take turns: to find out who a
//! peer is takes some ten times as long as to connect and to hang up again.

use core::time::Duration;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, listen};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ground::fair::Queue;
use crate::peers::connections::{Entry, Name, Place};
use crate::peers::credentials::{credentials, known_groups};
use crate::peers::reactors::Reactor;
use crate::peers::shared::Shared;
use crate::peers::stream::{Stream, is_hung_up, wait_for_reading};
use crate::peers::system::peer_groups;
use crate::peers::{service, session};
use crate::policy::authorise::Peer;

/// Accepts peers at a socket that does not block until `stop` or `replaced` is cancelled; each is
/// served by a task of its own, of which `tasks` keeps track, and which ends with `stop`.
///
/// # Errors
/// The runtime cannot wait for the socket.
pub(crate) fn accept(
    shared: Arc<Shared>,
    listener: UnixListener,
    tasks: TaskTracker,
    stop: CancellationToken,
    replaced: CancellationToken,
) -> io::Result<impl Future<Output = ()>> {
    listen(&listener, BACKLOG)?;
    let socket = wait_for_reading(listener)?;
    let entrance = Entrance { shared, tasks, stop, replaced, newcomers: Queue::new() };
    Ok(entrance.run(socket))
}

/// Where peers come in.
struct Entrance {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    replaced: CancellationToken,
    /// Those that have connected, by their user ids.
    newcomers: Queue<(UnixStream, Peer)>,
}

impl Entrance {
    async fn run(mut self, socket: AsyncFd<UnixListener>) {
        while !self.stop.is_cancelled() && !self.replaced.is_cancelled() {
            match self.take_in(socket.get_ref()) {
                Ok(()) => {}
                Err(Errno::AGAIN) if self.newcomers.waiting() == 0 => {
                    let ready = tokio::select! {
                        ready = socket.readable() => ready,
                        () = self.stop.cancelled() => break,
                        () = self.replaced.cancelled() => break,
                    };
                    let Ok(mut ready) = ready else { break };
                    // What is known of the socket may be from before the last connection was taken
                    // in.
                    match self.take_in(socket.get_ref()) {
                        Err(Errno::AGAIN) => ready.clear_ready(),
                        Ok(()) => {}
                        Err(error) => self.cannot_accept(error).await,
                    }
                }
                Err(Errno::AGAIN) => {}
                Err(error) => self.cannot_accept(error).await,
            }
            self.admit_next();
            // Others have work on this thread.
            tokio::task::yield_now().await;
        }
        // Who has connected by now does not see that another socket has the place. Those are no
        // more than are taken in at once.
        if self.replaced.is_cancelled() {
            let _ = self.take_in(socket.get_ref());
        }
        while self.admit_next() {}
    }

    /// Takes some connections in from the kernel.
    ///
    /// # Errors
    /// `EAGAIN` if there are no more, and whatever the kernel says.
    fn take_in(&mut self, socket: &UnixListener) -> Result<(), Errno> {
        for _ in 0..AT_ONCE {
            let stream = match accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(stream) => UnixStream::from(stream),
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(error) => return Err(error),
            };
            if is_hung_up(&stream) {
                continue;
            }
            let Some(peer) = credentials(&stream) else { continue };
            let uid = peer.uid;
            // Of those that wait, one that came last of the user with the most is closed.
            if self.newcomers.waiting() < MOST_WAITING || self.newcomers.give_up_for(uid).is_some() {
                self.newcomers.push(uid, ESTIMATE, (stream, peer));
            } else {
                self.shared.daemon.metrics.over_limit();
            }
        }
        Ok(())
    }

    /// Finds out who is next, and has the peer served if there is a place. `false` if nobody waits.
    fn admit_next(&mut self) -> bool {
        let Some((uid, estimate, (stream, peer))) = self.newcomers.pop() else { return false };
        let begin = Instant::now();
        if !is_hung_up(&stream) {
            self.admit(stream, peer);
        }
        self.newcomers.charge(uid, estimate, begin.elapsed());
        true
    }

    fn admit(&self, stream: UnixStream, mut peer: Peer) {
        let shared = &self.shared;
        peer.groups = known_groups(peer_groups(stream.as_fd()).unwrap_or_default()).into();
        if shared.daemon.config().grants.depend_on_service(peer.uid) {
            peer.service = service::of_peer(&stream, peer.pid);
        }
        let Some(place) = enter(shared, &peer, &self.stop) else { return };
        let visit = Visit { shared: Arc::clone(shared), peer, tasks: self.tasks.clone(), place };
        visit.settle(stream, shared.reactors.any());
    }

    async fn cannot_accept(&self, error: Errno) {
        if let Some(times) = self.shared.lines.accepting.admit() {
            tracing::error!(times, "cannot accept connections: {error}");
        }
        // Most likely out of descriptors.
        self.shared.connections.make_room();
        tokio::time::sleep(PAUSE).await;
    }
}

/// A place for a new connection, if there is one.
fn enter(shared: &Shared, peer: &Peer, stop: &CancellationToken) -> Option<Place> {
    let config = shared.daemon.config();
    let limits = shared.limits(&config);
    let (place, whose) = match shared.connections.enter(peer, &config.grants, limits, stop) {
        Entry::Admitted(place) => return Some(place),
        Entry::InPlaceOf(whose, place) => (Some(place), Some(whose)),
        Entry::Refused => (None, None),
    };
    shared.daemon.metrics.over_limit();
    if let Some(times) = shared.lines.over_limit.admit(peer, "too-many") {
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
    shared: Arc<Shared>,
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
            let moved = session::serve(&self.shared, &self.peer, &self.place, &turns, stream, here).await;
            let Some((stream, there)) = moved else { return };
            let shared = Arc::clone(&self.shared);
            if let Some(reactor) = shared.reactors.on(there) {
                self.settle(stream.into_inner(), reactor);
            }
        };
        drop(tasks.spawn_on(serve, &reactor.handle));
    }
}

/// Connections that the kernel keeps until they are taken in (listen(2)), in the order in which
/// they came: few, for everybody waits behind them. Who connects while there are as many waits,
/// too.
const BACKLOG: i32 = 64;

/// Connections that are taken in before the next peer is looked at.
const AT_ONCE: usize = 64;

/// Most connections that wait to be looked at.
const MOST_WAITING: usize = 1024;

/// How long it takes to look at a peer, until that has been measured.
const ESTIMATE: Duration = Duration::from_micros(30);

/// How long to wait for descriptors to come free.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
