//! Accepts connections of peers, up to the limits of the configuration.
//!
//! The kernel hands connections over in the order of their arrival, whichever user they are of. To
//! look a peer up takes some ten times as long as to connect and hang up. So connections are
//! accepted as fast as possible, and then wait in a queue in which users take turns.

use core::time::Duration;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Instant;
use std::{fs, io};

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, listen};
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ground::text::printable;
use crate::peers::accepted::Accepted;
use crate::peers::connections::{Admission, Slot};
use crate::peers::credentials::{credentials, groups};
use crate::peers::owner::Owner;
use crate::peers::reactors::Reactor;
use crate::peers::session::Served;
use crate::peers::shared::Shared;
use crate::peers::stream::{Stream, is_hung_up, wait_for_reading};
use crate::peers::{service, session};
use crate::policy::authorise::Peer;

/// Accepts peers at a socket that does not block, until `stop` or `replaced` is cancelled. Each
/// peer is served by a task in `tasks`, which ends with `stop`.
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
    let listener = Listener { shared, tasks, stop, replaced, accepted: Accepted::new() };
    Ok(listener.run(socket))
}

struct Listener {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    replaced: CancellationToken,
    accepted: Accepted<(UnixStream, Peer)>,
}

impl Listener {
    async fn run(mut self, socket: AsyncFd<UnixListener>) {
        while !self.stop.is_cancelled() && !self.replaced.is_cancelled() {
            match self.accept_some(socket.get_ref()) {
                Ok(()) => {}
                Err(Errno::AGAIN) if self.accepted.is_empty() => {
                    let ready = tokio::select! {
                        ready = socket.readable() => ready,
                        () = self.stop.cancelled() => break,
                        () = self.replaced.cancelled() => break,
                    };
                    let Ok(mut ready) = ready else { break };
                    // The readiness may be from before the last connection was accepted.
                    match self.accept_some(socket.get_ref()) {
                        Err(Errno::AGAIN) => ready.clear_ready(),
                        Ok(()) => {}
                        Err(error) => self.cannot_accept(error).await,
                    }
                }
                Err(Errno::AGAIN) => {}
                Err(error) => self.cannot_accept(error).await,
            }
            self.admit_next();
            // Other tasks have work on this thread.
            tokio::task::yield_now().await;
        }
        // Peers that have connected by now do not notice that another socket replaces this one.
        // They are no more than one call accepts.
        if self.replaced.is_cancelled() {
            let _ = self.accept_some(socket.get_ref());
        }
        while self.admit_next() {}
    }

    /// Accepts at most [`AT_ONCE`] connections from the kernel.
    ///
    /// # Errors
    /// `EAGAIN` if no more connections wait, and other errors of accept(2).
    fn accept_some(&mut self, socket: &UnixListener) -> Result<(), Errno> {
        let config = self.shared.daemon.config();
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
            if !self.accepted.push(uid, config.grants.name_user(uid), (stream, peer)) {
                self.shared.daemon.metrics.over_limit();
            }
        }
        Ok(())
    }

    /// Admits the next connection in the queue. Returns `false` if the queue is empty.
    fn admit_next(&mut self) -> bool {
        let Some((share, (stream, peer))) = self.accepted.pop() else { return false };
        let begin = Instant::now();
        if !is_hung_up(&stream) {
            self.admit(stream, peer);
        }
        self.accepted.charge(&share, begin.elapsed());
        true
    }

    /// Looks the peer up, and has it served if there is a slot for its connection.
    fn admit(&self, stream: UnixStream, mut peer: Peer) {
        let shared = &self.shared;
        peer.groups = groups(&stream);
        let depends_on_service = shared.daemon.config().grants.depend_on_service(peer.uid);
        if depends_on_service {
            peer.service = service::of_peer(&stream, peer.pid);
        }
        let Some(slot) = find_slot(shared, &peer, &self.stop) else { return };
        // The audit trail names program and service. Users without a grant must not have the daemon
        // read files for each of their connections.
        if shared.daemon.config().grants.name(&peer).is_some() {
            if !depends_on_service {
                peer.service = service::of_peer(&stream, peer.pid);
            }
            peer.command = command_of(peer.pid);
        }
        let tasks = self.tasks.clone();
        let connection = AdmittedConnection { shared: Arc::clone(shared), peer, tasks, slot };
        connection.serve_on(shared.reactors.next(), stream);
    }

    async fn cannot_accept(&self, error: Errno) {
        if let Some(times) = self.shared.log_limits.accepting.admit() {
            tracing::error!(times, "cannot accept connections: {error}");
        }
        // Most likely the process has no descriptors left.
        self.shared.connections.free_a_descriptor();
        tokio::time::sleep(PAUSE).await;
    }
}

/// Name of the program of a process.
fn command_of(pid: i32) -> Option<Arc<str>> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(name_of(&name))
}

/// Name in a file of /proc. A process chooses its name (PR_SET_NAME), so the name may have line
/// feeds, which would forge rows of a table.
fn name_of(file: &[u8]) -> Arc<str> {
    let name = file.strip_suffix(b"\n").unwrap_or(file);
    printable(&String::from_utf8_lossy(name)).into()
}

/// Slot for a new connection. `None` if the connection is to be closed.
fn find_slot(shared: &Shared, peer: &Peer, stop: &CancellationToken) -> Option<Slot> {
    let config = shared.daemon.config();
    let limits = shared.connection_limits(&config);
    let (slot, replaced) = match shared.connections.admit(peer, &config.grants, limits, stop) {
        Admission::Admitted(slot) => return Some(slot),
        Admission::Replaced(owner, slot) => (Some(slot), Some(owner)),
        Admission::Refused => (None, None),
    };
    shared.daemon.metrics.over_limit();
    if let Some(times) = shared.log_limits.connections.admit(peer, "too-many") {
        let closed = match &replaced {
            None => "the new one".to_owned(),
            Some(Owner::WithoutGrant) => "one of a user without a grant".to_owned(),
            Some(Owner::Named { uid, .. } | Owner::Member { uid, .. }) => format!("one of user id {uid}"),
            Some(Owner::OtherMembers { .. }) => {
                "one of a user that a grant names by group or service".to_owned()
            }
        };
        let service = peer.service.as_deref();
        tracing::warn!(
            uid = peer.uid,
            service,
            pid = peer.pid,
            times,
            "too many connections: closed {closed}"
        );
    }
    slot
}

/// Connection of a peer that has a slot.
struct AdmittedConnection {
    shared: Arc<Shared>,
    peer: Peer,
    tasks: TaskTracker,
    slot: Slot,
}

impl AdmittedConnection {
    /// Serves the connection by a task on a reactor. The task starts another one on the reactor to
    /// which the connection moves.
    fn serve_on(self, reactor: &Arc<Reactor>, stream: UnixStream) {
        let (tasks, on) = (self.tasks.clone(), Arc::clone(reactor));
        let serve = async move {
            let Ok(stream) = Stream::new(stream) else { return };
            match session::serve(&self.shared, &self.peer, &self.slot, &on, stream).await {
                Served::Closed => {}
                Served::Moved(stream, next) => self.serve_on(&next, stream.into_inner()),
            }
        };
        drop(tasks.spawn_on(serve, &reactor.handle));
    }
}

/// Maximum number of connections that the kernel keeps until they are accepted (listen(2)). The
/// number is small, because the kernel does not let users take turns. A peer that connects to a
/// full backlog waits.
pub(crate) const BACKLOG: i32 = 64;

/// Maximum number of connections that are accepted before the next peer is looked up.
const AT_ONCE: usize = 64;

/// Time to wait for descriptors to become free.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_program_stays_on_its_line() {
        assert_eq!(&*name_of(b"nginx\n"), "nginx");
        assert_eq!(&*name_of(b"ng\nroot\r\n"), "ng\u{fffd}root\u{fffd}");
    }
}
