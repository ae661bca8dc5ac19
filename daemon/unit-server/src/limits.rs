//! Limits on connections. There is one limit for unauthenticated connections, and one for the
//! connections of clients.
//!
//! A new connection never waits for a slot. At the limit, an unauthenticated connection replaces
//! the oldest unauthenticated connection, so silent connections keep nobody out. A connection of a
//! client replaces a connection of the client that has the most, which may be the same client.
//!
//! An unauthenticated connection has an [`Allowance`] of bytes and of calls, which is enough to
//! authenticate. Without a limit, such a connection could keep the server busy with refusals and
//! pings, and fill its memory with partial calls.

use core::net::IpAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::net::{Shutdown, shutdown};

use super::clients::{Client, network};
use keyward_ground::allowance::Allowance;
use keyward_ground::throttle::Throttle;

/// All connections, with their limits.
pub(crate) struct Limits {
    max_unauthenticated: usize,
    max_of_clients: usize,
    state: Mutex<State>,
    evictions: Throttle,
    over_allowance: Throttle,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Unauthenticated connections in the order of their arrival.
    unauthenticated: BTreeMap<u64, Arc<ConnectionState>>,
    of_clients: HashMap<u64, Arc<ConnectionState>>,
}

impl Limits {
    /// Limits without any connection.
    pub(crate) fn new(max_unauthenticated: usize, max_of_clients: usize) -> Arc<Self> {
        let (state, evictions, over_allowance) = (Mutex::default(), Throttle::default(), Throttle::default());
        Arc::new(Self { max_unauthenticated, max_of_clients, state, evictions, over_allowance })
    }

    /// Adds a new connection as unauthenticated. At the limit, closes another unauthenticated
    /// connection.
    ///
    /// # Errors
    /// The system has no descriptor for the handle, with which the connection is closed later.
    pub(crate) fn enter(self: &Arc<Self>, stream: impl AsFd, source: IpAddr) -> io::Result<ConnectionSlot> {
        let descriptor = stream.as_fd().try_clone_to_owned()?;
        let mut state = self.lock();
        if state.unauthenticated.len() >= self.max_unauthenticated {
            self.close_unauthenticated(&mut state);
        }
        state.next += 1;
        let connection = Arc::new(ConnectionState {
            id: state.next,
            source: network(source),
            descriptor,
            certificate: OnceLock::new(),
            client: OnceLock::new(),
            calls: AtomicUsize::new(0),
            anonymous_calls: AtomicUsize::new(0),
            allowed_calls: Allowance::new(MAX_CALLS, CALLS_PER_SECOND),
            allowed_bytes: Allowance::new(MAX_BYTES, BYTES_PER_SECOND),
            idle_since: Mutex::new(Instant::now()),
        });
        state.unauthenticated.insert(connection.id, Arc::clone(&connection));
        Ok(ConnectionSlot { handle: Handle { connection, limits: Arc::clone(self) } })
    }

    /// Closes a connection to free a descriptor: an unauthenticated connection if there is one,
    /// else a connection of a client.
    pub(crate) fn make_room(&self) {
        let mut state = self.lock();
        if !state.unauthenticated.is_empty() {
            self.close_unauthenticated(&mut state);
        } else if let Some(connection) = state.connection_of_largest_client() {
            state.of_clients.remove(&connection.id);
            connection.close();
        }
    }

    /// Closes the oldest connection of the network that has the most unauthenticated connections.
    fn close_unauthenticated(&self, state: &mut State) {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for connection in state.unauthenticated.values() {
            *counts.entry(connection.source).or_default() += 1;
        }
        let count = |connection: &&Arc<ConnectionState>| counts.get(&connection.source).copied().unwrap_or(0);
        // Of equal elements, `max_by_key` returns the last one: the oldest.
        let Some(oldest) = state.unauthenticated.values().rev().max_by_key(count).map(Arc::clone) else {
            return;
        };
        state.unauthenticated.remove(&oldest.id);
        oldest.close();
        if let Some(times) = self.evictions.admit() {
            tracing::warn!(
                times,
                "closed the oldest of {} connections without an authenticated client, most of them from {}",
                state.unauthenticated.len() + 1,
                oldest.source
            );
        }
    }

    /// Assigns an unauthenticated connection to a client. False if there is no slot, or the
    /// connection is closed.
    fn admit(&self, connection: &Arc<ConnectionState>, client: &Arc<Client>) -> bool {
        let mut state = self.lock();
        if !state.unauthenticated.contains_key(&connection.id) {
            // Another call has assigned the connection, or the connection is closed.
            return state.of_clients.contains_key(&connection.id);
        }
        if state.of_clients.len() >= self.max_of_clients {
            match state.connection_to_close_for(client) {
                Some(other) => {
                    state.of_clients.remove(&other.id);
                    other.close();
                }
                None => return false,
            }
        }
        state.unauthenticated.remove(&connection.id);
        // Not set before: the lock is held, and the connection was unauthenticated.
        let _ = connection.client.set(Arc::clone(client));
        state.of_clients.insert(connection.id, Arc::clone(connection));
        true
    }

    fn leave(&self, id: u64) {
        let mut state = self.lock();
        state.unauthenticated.remove(&id);
        state.of_clients.remove(&id);
    }

    /// Locks the state. The lock is held for an insertion or, at a limit, for one pass over all
    /// connections.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Connection to close for one more connection of `client`. `None` refuses the new connection.
    ///
    /// Usually the connection is the longest idle one of the clients with the most connections. A
    /// client at its fair share closes only an idle connection of its own. A client without a
    /// connection always gets the first one, even if no other client has more than one.
    fn connection_to_close_for(&self, client: &Client) -> Option<Arc<ConnectionState>> {
        let counts = self.counts();
        let own = counts.get(&Some(client.number)).copied().unwrap_or(0);
        if own == 0 || *counts.values().max()? > own + 1 {
            return self.connection_of_largest_client();
        }
        let own = self.of_clients.values().filter(|connection| connection.number() == Some(client.number));
        longest_idle(own).filter(|connection| !connection.is_busy())
    }

    /// Longest idle connection of the clients with the most connections.
    fn connection_of_largest_client(&self) -> Option<Arc<ConnectionState>> {
        let counts = self.counts();
        let most = counts.values().max()?;
        let of_most = |connection: &&Arc<ConnectionState>| counts.get(&connection.number()) == Some(most);
        longest_idle(self.of_clients.values().filter(of_most))
    }

    /// Number of connections by client.
    fn counts(&self) -> HashMap<Option<u32>, usize> {
        let mut counts = HashMap::new();
        for connection in self.of_clients.values() {
            *counts.entry(connection.number()).or_default() += 1;
        }
        counts
    }
}

/// Connection without a call for the longest time; a busy connection only if all are busy.
fn longest_idle<'a>(
    connections: impl Iterator<Item = &'a Arc<ConnectionState>>,
) -> Option<Arc<ConnectionState>> {
    connections.min_by_key(|connection| (connection.is_busy(), connection.idle_since())).map(Arc::clone)
}

/// Handle of a connection. Every call has the handle of its connection among its extensions.
#[derive(Clone)]
pub(crate) struct Handle {
    connection: Arc<ConnectionState>,
    limits: Arc<Limits>,
}

struct ConnectionState {
    id: u64,
    /// Network of the sender.
    source: IpAddr,
    descriptor: OwnedFd,
    /// SHA-256 of the client's certificate; set after the TLS handshake.
    certificate: OnceLock<[u8; 32]>,
    /// Client of the connection; set when the connection is assigned to a client.
    client: OnceLock<Arc<Client>>,
    /// Number of calls under way of the client.
    calls: AtomicUsize,
    /// Number of calls under way that need no token.
    anonymous_calls: AtomicUsize,
    /// Allowance of calls without a token.
    allowed_calls: Allowance,
    /// Allowance of bytes while the connection is unauthenticated.
    allowed_bytes: Allowance,
    /// Time of the accept, or of the end of the last call.
    idle_since: Mutex<Instant>,
}

impl Handle {
    /// Maximum number of calls under way on a connection that need no token.
    pub(crate) const MAX_ANONYMOUS_CALLS: usize = 4;

    /// Closes the connection at once, even in the middle of a call.
    pub(crate) fn close(&self) {
        self.connection.close();
    }

    /// Closes the connection because its allowance is used up.
    pub(crate) fn close_over_allowance(&self) {
        self.close();
        if let Some(times) = self.limits.over_allowance.admit() {
            let from = self.source();
            tracing::warn!(times, %from, "a connection without an authenticated client exceeded its allowance, and was closed");
        }
    }

    /// Counts a call without a token. False beyond the allowance.
    pub(crate) fn allows_call(&self) -> bool {
        self.connection.allowed_calls.overdraw(1).is_zero()
    }

    /// Counts received bytes of an unauthenticated connection. False beyond the allowance.
    pub(crate) fn allows_bytes(&self, bytes: usize) -> bool {
        self.client().is_some() || self.connection.allowed_bytes.overdraw(bytes).is_zero()
    }

    /// Counts a call that needs no token until the returned value is dropped. `None` beyond the
    /// limit.
    pub(crate) fn begin_anonymous_call(&self) -> Option<AnonymousCall> {
        let before = self.connection.anonymous_calls.fetch_add(1, Ordering::Relaxed);
        let call = AnonymousCall(Arc::clone(&self.connection));
        (before < Self::MAX_ANONYMOUS_CALLS).then_some(call)
    }

    /// Network of the sender.
    pub(crate) fn source(&self) -> IpAddr {
        self.connection.source
    }

    /// SHA-256 of the certificate of the client, if the client has one.
    pub(crate) fn certificate(&self) -> Option<[u8; 32]> {
        self.connection.certificate.get().copied()
    }

    /// Sets the SHA-256 of the certificate of the client.
    pub(crate) fn set_certificate(&self, digest: [u8; 32]) {
        let _ = self.connection.certificate.set(digest);
    }

    /// Client of the connection, if the connection is assigned to a client.
    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        self.connection.client.get()
    }

    /// Assigns the connection to a client, unless it is assigned already. False if there is no
    /// slot.
    pub(crate) fn admit(&self, client: &Arc<Client>) -> bool {
        self.client().is_some() || self.limits.admit(&self.connection, client)
    }

    /// Counts a call of a client until the returned value is dropped.
    pub(crate) fn begin_call(&self, client: &Arc<Client>) -> Call {
        self.connection.calls.fetch_add(1, Ordering::Relaxed);
        client.calls.fetch_add(1, Ordering::Relaxed);
        Call { connection: Arc::clone(&self.connection), client: Arc::clone(client) }
    }
}

impl ConnectionState {
    fn close(&self) {
        // Fails only if the connection has ended already.
        let _ = shutdown(&self.descriptor, Shutdown::Both);
    }

    fn number(&self) -> Option<u32> {
        self.client.get().map(|client| client.number)
    }

    fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    fn idle_since(&self) -> Instant {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counter of a call under way on a connection.
pub(crate) struct Call {
    connection: Arc<ConnectionState>,
    client: Arc<Client>,
}

impl Drop for Call {
    fn drop(&mut self) {
        *self.connection.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.connection.calls.fetch_sub(1, Ordering::Relaxed);
        self.client.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counter of a call under way that needs no token.
pub(crate) struct AnonymousCall(Arc<ConnectionState>);

impl Drop for AnonymousCall {
    fn drop(&mut self) {
        self.0.anonymous_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Slot of a connection. The drop of this value frees the slot.
pub(crate) struct ConnectionSlot {
    pub(crate) handle: Handle,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.handle.limits.leave(self.handle.connection.id);
    }
}

/// Size of the allowance of calls without a token. As large as the number of calls that a client
/// may have under way, so that each of them gets the reason of its refusal.
const MAX_CALLS: u32 = 256;
const CALLS_PER_SECOND: u32 = 10;
/// Size of the allowance of bytes. Larger than the HTTP/2 window of a connection (1 MiB), which a
/// client may fill before its first call is checked.
const MAX_BYTES: u32 = 2 << 20;
const BYTES_PER_SECOND: u32 = 16 << 10;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::clients::{ClientName, Clients};

    struct Scene {
        limits: Arc<Limits>,
        clients: Clients,
    }

    /// Accepted connection, and its other end.
    struct Accepted(ConnectionSlot, UnixStream);

    impl Scene {
        fn new(unauthenticated: usize, of_clients: usize) -> Self {
            Self { limits: Limits::new(unauthenticated, of_clients), clients: Clients::default() }
        }

        fn connect(&self, address: [u8; 4]) -> Accepted {
            let (ours, theirs) = UnixStream::pair().unwrap();
            Accepted(self.limits.enter(&ours, address.into()).unwrap(), theirs)
        }

        fn client(&self, number: u8) -> Arc<Client> {
            self.clients.get(ClientName::Certificate([number; 32]))
        }

        /// Connection of a client, if there was a slot.
        fn admitted(&self, number: u8) -> Option<Accepted> {
            let connected = self.connect([127, 0, 0, 1]);
            connected.0.handle.admit(&self.client(number)).then_some(connected)
        }
    }

    impl Accepted {
        fn is_open(&mut self) -> bool {
            self.1.set_nonblocking(true).unwrap();
            self.1.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        }
    }

    #[test]
    fn the_oldest_unauthenticated_connection_of_the_busiest_network_makes_room() {
        let scene = Scene::new(4, 4);
        let mut lone = scene.connect([10, 0, 0, 1]);
        let mut flood: Vec<_> = (0..10).map(|_| scene.connect([10, 0, 0, 2])).collect();
        let open: Vec<_> = flood.iter_mut().map(Accepted::is_open).collect();
        assert!(lone.is_open());
        assert_eq!(open, [[false; 7].as_slice(), &[true; 3]].concat());
        // A dropped connection frees its slot.
        flood.truncate(9);
        let mut connection = scene.connect([10, 0, 0, 3]);
        assert!(connection.is_open() && lone.is_open() && flood[8].is_open());
    }

    #[test]
    fn the_client_with_the_most_makes_room_idle_connections_first() {
        let scene = Scene::new(10, 4);
        let mut heavy: Vec<_> = (0..4).map(|_| scene.admitted(1).unwrap()).collect();
        let busy: Vec<_> = [0, 1].map(|n: usize| heavy[n].0.handle.begin_call(&scene.client(1))).into();
        let mut first = scene.admitted(2).unwrap();
        let open: Vec<_> = heavy.iter_mut().map(Accepted::is_open).collect();
        assert_eq!(open, [true, true, false, true], "the oldest idle connection");
        let mut second = scene.admitted(2).unwrap();
        assert!(!heavy[3].is_open() && heavy[0].is_open() && heavy[1].is_open());
        // Both clients have half of the slots: a client closes an idle connection of its own.
        let mut third = scene.admitted(2).unwrap();
        assert!(!first.is_open() && second.is_open() && third.is_open() && heavy[0].is_open());
        let calls = [&second, &third].map(|connected| connected.0.handle.begin_call(&scene.client(1)));
        assert!(scene.admitted(2).is_none());
        assert!(second.is_open() && third.is_open());
        // A third client is below its share: it gets a slot although all connections are busy.
        let mut other = scene.admitted(3).unwrap();
        assert!(other.is_open());
        drop((busy, calls));
    }

    #[test]
    fn a_client_without_a_connection_gets_one_from_clients_with_one_each() {
        let scene = Scene::new(10, 4);
        let mut others: Vec<_> = (1..=4).map(|number| scene.admitted(number).unwrap()).collect();
        let busy = [0, 1, 3].map(|n: usize| others[n].0.handle.begin_call(&scene.client(1)));
        let mut fifth = scene.admitted(5).expect("a slot");
        assert!(fifth.is_open());
        let open: Vec<_> = others.iter_mut().map(Accepted::is_open).collect();
        assert_eq!(open, [true, true, false, true], "the idle connection");
        // Calls that never end do not keep a client out.
        let _busy_too = fifth.0.handle.begin_call(&scene.client(1));
        let mut sixth = scene.admitted(6).expect("a slot");
        assert!(sixth.is_open());
        drop(busy);
    }

    #[test]
    fn room_is_made_also_if_all_connections_have_clients() {
        let scene = Scene::new(4, 4);
        let mut clients = [1, 1, 2].map(|number| scene.admitted(number).unwrap());
        scene.limits.make_room();
        assert_eq!(clients.each_mut().map(Accepted::is_open), [false, true, true]);
        let mut connection = scene.connect([127, 0, 0, 1]);
        scene.limits.make_room();
        assert!(!connection.is_open());
        assert_eq!(clients.each_mut().map(Accepted::is_open), [false, true, true]);
        scene.limits.make_room();
        scene.limits.make_room();
        scene.limits.make_room();
        assert_eq!(clients.each_mut().map(Accepted::is_open), [false; 3]);
    }

    #[test]
    fn unauthenticated_connections_have_an_allowance_and_clients_have_none() {
        let scene = Scene::new(4, 4);
        let connection = scene.connect([127, 0, 0, 1]);
        let client = scene.admitted(1).unwrap();
        let most = usize::try_from(MAX_BYTES).unwrap();
        assert!(connection.0.handle.allows_bytes(most / 2) && !connection.0.handle.allows_bytes(most));
        assert!(client.0.handle.allows_bytes(10 * most));
        let calls: Vec<_> = (0..5).map(|_| connection.0.handle.begin_anonymous_call()).collect();
        assert_eq!(calls.iter().filter(|call| call.is_some()).count(), Handle::MAX_ANONYMOUS_CALLS);
        drop(calls);
        assert!(connection.0.handle.begin_anonymous_call().is_some());
    }

    #[test]
    fn unauthenticated_connections_take_no_slot_of_clients() {
        let scene = Scene::new(2, 2);
        let mut clients: Vec<_> = (0..2).map(|_| scene.admitted(1).unwrap()).collect();
        let mut unauthenticated: Vec<_> = (0..5).map(|_| scene.connect([127, 0, 0, 1])).collect();
        assert!(clients.iter_mut().all(Accepted::is_open));
        assert_eq!(unauthenticated.iter_mut().filter_map(|one| one.is_open().then_some(())).count(), 2);
        assert!(!unauthenticated[0].0.handle.admit(&scene.client(2)), "the connection is closed");
    }
}
