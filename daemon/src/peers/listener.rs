//! Accepts peers, as many as the configuration allows.

use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::daemon::Daemon;
use crate::peers::reactors::Reactor;
use crate::peers::session;
use crate::peers::stream::Stream;
use crate::policy::authorise::Peer;

/// Accepts peers until `stop` is cancelled; each is served by a task of its own, of which `tasks` keeps track.
pub(crate) async fn accept(
    daemon: Arc<Daemon>,
    listener: UnixListener,
    crowd: Arc<Crowd>,
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
                if let Some(times) = daemon.lines.crowded.admit() {
                    tracing::error!(times, "cannot accept connections: {error}");
                }
                // Most likely out of descriptors: some will be closed.
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(peer) = credentials(&stream) else { continue };
        let Some(place) = crowd.enter(&daemon, peer.uid) else {
            daemon.metrics.crowded();
            if let Some(times) = daemon.lines.crowded.admit() {
                tracing::warn!(
                    uid = peer.uid,
                    pid = peer.pid,
                    times,
                    "too many connections: closed the new one"
                );
            }
            continue;
        };
        // Away from this runtime, to one of a reactor.
        let Ok(stream) = stream.into_std() else { continue };
        let visit = Visit {
            daemon: Arc::clone(&daemon),
            peer,
            stop: stop.clone(),
            tasks: tasks.clone(),
            _place: place,
        };
        visit.settle(stream, daemon.reactors.any());
    }
}

/// A peer with its connection, wherever that is served.
struct Visit {
    daemon: Arc<Daemon>,
    peer: Peer,
    stop: CancellationToken,
    tasks: TaskTracker,
    _place: Place,
}

impl Visit {
    /// Serves the peer by a task on a reactor, and on others if it asks from there.
    fn settle(self, stream: UnixStream, reactor: &Reactor) {
        let (tasks, here) = (self.tasks.clone(), reactor.processor);
        let serve = async move {
            let Ok(stream) = Stream::new(stream) else { return };
            let moved = session::serve(&self.daemon, &self.peer, stream, here, &self.stop).await;
            let Some((stream, there)) = moved else { return };
            let daemon = Arc::clone(&self.daemon);
            if let Some(reactor) = daemon.reactors.on(there) {
                self.settle(stream.into_inner(), reactor);
            }
        };
        drop(tasks.spawn_on(serve, &reactor.handle));
    }
}

/// Who is on the other end, by the word of the kernel.
pub(crate) fn credentials(stream: &tokio::net::UnixStream) -> Option<Peer> {
    let credentials = stream.peer_cred().ok()?;
    Some(Peer { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid().unwrap_or(0) })
}

/// The peers that are connected.
#[derive(Default)]
pub(crate) struct Crowd(Mutex<Heads>);

impl Crowd {
    /// How many connections are open.
    pub(crate) fn size(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).total
    }

    fn enter(self: &Arc<Self>, daemon: &Daemon, uid: u32) -> Option<Place> {
        let config = daemon.config();
        self.admit(uid, config.socket.connections, config.socket.connections_per_user)
    }

    fn admit(self: &Arc<Self>, uid: u32, most: usize, most_per_user: usize) -> Option<Place> {
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = heads.by_user.get(&uid).copied().unwrap_or(0);
        if heads.total >= most || of_user >= most_per_user {
            return None;
        }
        heads.total += 1;
        heads.by_user.insert(uid, of_user + 1);
        Some(Place { crowd: Arc::clone(self), uid })
    }

    fn leave(&self, uid: u32) {
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heads.total = heads.total.saturating_sub(1);
        match heads.by_user.get_mut(&uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(heads.by_user.remove(&uid)),
        }
    }
}

#[derive(Default)]
struct Heads {
    total: usize,
    /// No entry stands for zero.
    by_user: HashMap<u32, usize>,
}

/// A peer's place in the crowd, which it leaves when this is dropped.
struct Place {
    crowd: Arc<Crowd>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.leave(self.uid);
    }
}

/// How long to wait for descriptors to come free.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_every_place() {
        let crowd = Arc::new(Crowd::default());
        let first = crowd.admit(7, 3, 2).unwrap();
        let _second = crowd.admit(7, 3, 2).unwrap();
        assert!(crowd.admit(7, 3, 2).is_none());
        let _other = crowd.admit(8, 3, 2).unwrap();
        assert!(crowd.admit(9, 3, 2).is_none(), "the house is full");
        drop(first);
        assert!(crowd.admit(7, 3, 2).is_some());
        assert_eq!(crowd.size(), 2);
    }
}
