//! How many connections there may be: of newcomers, who have shown nothing yet, and of clients.
//!
//! Neither kind ever waits for a place. A newcomer takes that of the oldest newcomer, so silent connections keep
//! nobody out. A client takes that of the client that has the most, or, if it has the most itself, its own.
//!
//! A newcomer, who needs no more than to show who it is, has an [`Allowance`] of bytes and of
//! calls: without it one could keep the server busy with refusals and pings, and let it keep what
//! has come of many calls.

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

/// The connections that are there.
pub(crate) struct Limits {
    most_newcomers: usize,
    most_of_clients: usize,
    state: Mutex<State>,
    closed: Throttle,
    cut: Throttle,
}

#[derive(Default)]
struct State {
    next: u64,
    /// In the order in which they came.
    newcomers: BTreeMap<u64, Arc<Connection>>,
    of_clients: HashMap<u64, Arc<Connection>>,
}

impl Limits {
    pub(crate) fn new(most_newcomers: usize, most_of_clients: usize) -> Arc<Self> {
        let (state, closed, cut) = (Mutex::default(), Throttle::default(), Throttle::default());
        Arc::new(Self { most_newcomers, most_of_clients, state, closed, cut })
    }

    /// Takes in a new connection, for which another newcomer's is closed if there are too many.
    ///
    /// # Errors
    /// If there is no descriptor left for the handle to close it by.
    pub(crate) fn enter(self: &Arc<Self>, stream: impl AsFd, source: IpAddr) -> io::Result<Place> {
        let descriptor = stream.as_fd().try_clone_to_owned()?;
        let mut state = self.lock();
        if state.newcomers.len() >= self.most_newcomers {
            self.close_a_newcomer(&mut state);
        }
        state.next += 1;
        let connection = Arc::new(Connection {
            id: state.next,
            source: network(source),
            descriptor,
            certificate: OnceLock::new(),
            client: OnceLock::new(),
            calls: AtomicUsize::new(0),
            open_calls: AtomicUsize::new(0),
            allowed_calls: Allowance::new(MOST_CALLS, CALLS_PER_SECOND),
            allowed_bytes: Allowance::new(MOST_BYTES, BYTES_PER_SECOND),
            quiet_since: Mutex::new(Instant::now()),
        });
        state.newcomers.insert(connection.id, Arc::clone(&connection));
        Ok(Place { handle: Handle { connection, limits: Arc::clone(self) } })
    }

    /// Closes a connection where there are no descriptors left: a newcomer's, or if there is none,
    /// that of a client.
    pub(crate) fn make_room(&self) {
        let mut state = self.lock();
        if !state.newcomers.is_empty() {
            self.close_a_newcomer(&mut state);
        } else if let Some(connection) = state.of_the_client_with_most() {
            state.of_clients.remove(&connection.id);
            connection.close();
        }
    }

    /// Closes the oldest connection of the network that has the most newcomers.
    fn close_a_newcomer(&self, state: &mut State) {
        let mut counts = HashMap::<IpAddr, usize>::new();
        for newcomer in state.newcomers.values() {
            *counts.entry(newcomer.source).or_default() += 1;
        }
        let count = |newcomer: &&Arc<Connection>| counts.get(&newcomer.source).copied().unwrap_or(0);
        // Of several with the most, `max_by_key` gives the last one: the oldest.
        let Some(oldest) = state.newcomers.values().rev().max_by_key(count).map(Arc::clone) else { return };
        state.newcomers.remove(&oldest.id);
        oldest.close();
        if let Some(times) = self.closed.admit() {
            tracing::warn!(
                times,
                "closed the oldest of {} connections that have not shown who they are, most of them from {}",
                state.newcomers.len() + 1,
                oldest.source
            );
        }
    }

    /// Makes a newcomer's connection that of a client. `false` if there is no place for it.
    fn admit(&self, connection: &Arc<Connection>, client: &Arc<Client>) -> bool {
        let mut state = self.lock();
        if !state.newcomers.contains_key(&connection.id) {
            // Another call was faster, or it has been closed.
            return state.of_clients.contains_key(&connection.id);
        }
        if state.of_clients.len() >= self.most_of_clients {
            match state.to_be_closed_for(client) {
                Some(other) => {
                    state.of_clients.remove(&other.id);
                    other.close();
                }
                None => return false,
            }
        }
        state.newcomers.remove(&connection.id);
        // Nobody else sets it: the lock is held, and the connection was a newcomer's.
        let _ = connection.client.set(Arc::clone(client));
        state.of_clients.insert(connection.id, Arc::clone(connection));
        true
    }

    fn leave(&self, id: u64) {
        let mut state = self.lock();
        state.newcomers.remove(&id);
        state.of_clients.remove(&id);
    }

    /// Holds the lock for an insertion or, if there are too many connections, for a look at each.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The connection that makes room for one more of a client: of the clients that have the most,
    /// that which has been without a call for the longest time; a client at its fair share closes
    /// only idle ones, its own. A client without any gets its first one from another client, even
    /// if none has more than one.
    fn to_be_closed_for(&self, client: &Client) -> Option<Arc<Connection>> {
        let counts = self.counts();
        let own = counts.get(&Some(client.number)).copied().unwrap_or(0);
        if own == 0 || *counts.values().max()? > own + 1 {
            return self.of_the_client_with_most();
        }
        let own = self.of_clients.values().filter(|connection| connection.number() == Some(client.number));
        longest_quiet(own).filter(|connection| !connection.is_busy())
    }

    /// Of the clients that have the most connections, the one that has been without a call for the
    /// longest time.
    fn of_the_client_with_most(&self) -> Option<Arc<Connection>> {
        let counts = self.counts();
        let most = counts.values().max()?;
        let of_most = |connection: &&Arc<Connection>| counts.get(&connection.number()) == Some(most);
        longest_quiet(self.of_clients.values().filter(of_most))
    }

    /// How many connections each client has.
    fn counts(&self) -> HashMap<Option<u32>, usize> {
        let mut counts = HashMap::new();
        for connection in self.of_clients.values() {
            *counts.entry(connection.number()).or_default() += 1;
        }
        counts
    }
}

fn longest_quiet<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> Option<Arc<Connection>> {
    connections.min_by_key(|connection| (connection.is_busy(), connection.quiet_since())).map(Arc::clone)
}

/// What is known about a connection. Every call has it among its extensions.
#[derive(Clone)]
pub(crate) struct Handle {
    connection: Arc<Connection>,
    limits: Arc<Limits>,
}

struct Connection {
    id: u64,
    /// The network it comes from.
    source: IpAddr,
    descriptor: OwnedFd,
    /// The SHA-256 of the client's certificate, once TLS is through.
    certificate: OnceLock<[u8; 32]>,
    /// Once it is a client's.
    client: OnceLock<Arc<Client>>,
    /// Under way.
    calls: AtomicUsize,
    /// Under way of those that need no token.
    open_calls: AtomicUsize,
    /// What comes without a token.
    allowed_calls: Allowance,
    /// What comes while it is a newcomer's.
    allowed_bytes: Allowance,
    /// When it came, or its last call ended.
    quiet_since: Mutex<Instant>,
}

impl Handle {
    /// Calls that need no token and may be under way on a connection at a time.
    pub(crate) const MOST_OPEN_CALLS: usize = 4;

    /// Ends the connection at once, in the middle of whatever it carries.
    pub(crate) fn cut(&self) {
        self.connection.close();
    }

    /// Ends the connection because it has had its allowance.
    pub(crate) fn cut_stranger(&self) {
        self.cut();
        if let Some(times) = self.limits.cut.admit() {
            let from = self.source();
            tracing::warn!(times, %from, "closed a connection that went on without showing who it is");
        }
    }

    /// Counts a call without a token. `false` if there were too many.
    pub(crate) fn allows_call(&self) -> bool {
        self.connection.allowed_calls.overdraw(1).is_zero()
    }

    /// Counts what has come, if the connection is a newcomer's. `false` if it was too much.
    pub(crate) fn allows_bytes(&self, bytes: usize) -> bool {
        self.client().is_some() || self.connection.allowed_bytes.overdraw(bytes).is_zero()
    }

    /// Counts a call that needs no token until what is returned is dropped; `None` if there are too
    /// many.
    pub(crate) fn begin_open_call(&self) -> Option<OpenCall> {
        let before = self.connection.open_calls.fetch_add(1, Ordering::Relaxed);
        let call = OpenCall(Arc::clone(&self.connection));
        (before < Self::MOST_OPEN_CALLS).then_some(call)
    }

    /// The network it comes from.
    pub(crate) fn source(&self) -> IpAddr {
        self.connection.source
    }

    /// The SHA-256 of the certificate by which the client has proved itself.
    pub(crate) fn certificate(&self) -> Option<[u8; 32]> {
        self.connection.certificate.get().copied()
    }

    /// Remembers by which certificate the client has proved itself.
    pub(crate) fn set_certificate(&self, digest: [u8; 32]) {
        let _ = self.connection.certificate.set(digest);
    }

    /// The client whose connection it is, if it has been admitted.
    pub(crate) fn client(&self) -> Option<&Arc<Client>> {
        self.connection.client.get()
    }

    /// Makes the connection that of a client, unless it is one already. `false` if there is no place for it.
    pub(crate) fn admit(&self, client: &Arc<Client>) -> bool {
        self.client().is_some() || self.limits.admit(&self.connection, client)
    }

    /// Counts a call of a client until what is returned is dropped.
    pub(crate) fn begin_call(&self, client: &Arc<Client>) -> Call {
        self.connection.calls.fetch_add(1, Ordering::Relaxed);
        client.calls.fetch_add(1, Ordering::Relaxed);
        Call { connection: Arc::clone(&self.connection), client: Arc::clone(client) }
    }
}

impl Connection {
    fn close(&self) {
        // Fails only if the connection is no more.
        let _ = shutdown(&self.descriptor, Shutdown::Both);
    }

    fn number(&self) -> Option<u32> {
        self.client.get().map(|client| client.number)
    }

    fn is_busy(&self) -> bool {
        self.calls.load(Ordering::Relaxed) > 0
    }

    fn quiet_since(&self) -> Instant {
        *self.quiet_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way on a connection.
pub(crate) struct Call {
    connection: Arc<Connection>,
    client: Arc<Client>,
}

impl Drop for Call {
    fn drop(&mut self) {
        *self.connection.quiet_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.connection.calls.fetch_sub(1, Ordering::Relaxed);
        self.client.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that needs no token, under way on a connection.
pub(crate) struct OpenCall(Arc<Connection>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open_calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a connection, given back when this is dropped.
pub(crate) struct Place {
    pub(crate) handle: Handle,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handle.limits.leave(self.handle.connection.id);
    }
}

/// Calls without a token: no fewer than a client may have under way, so that it is told of each why
/// it is refused.
const MOST_CALLS: u32 = 256;
const CALLS_PER_SECOND: u32 = 10;
/// More than the window of a connection (1 MiB), which a client may fill before its first call is
/// looked at.
const MOST_BYTES: u32 = 2 << 20;
const BYTES_PER_SECOND: u32 = 16 << 10;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::clients::{Clients, Name};

    struct Scene {
        limits: Arc<Limits>,
        clients: Clients,
    }

    /// A connection, and its other end.
    struct Connected(Place, UnixStream);

    impl Scene {
        fn new(newcomers: usize, of_clients: usize) -> Self {
            Self { limits: Limits::new(newcomers, of_clients), clients: Clients::default() }
        }

        fn connect(&self, address: [u8; 4]) -> Connected {
            let (ours, theirs) = UnixStream::pair().unwrap();
            Connected(self.limits.enter(&ours, address.into()).unwrap(), theirs)
        }

        fn client(&self, number: u8) -> Arc<Client> {
            self.clients.get(Name::Certificate([number; 32]))
        }

        /// A connection of a client, if there was a place for it.
        fn admitted(&self, number: u8) -> Option<Connected> {
            let connected = self.connect([127, 0, 0, 1]);
            connected.0.handle.admit(&self.client(number)).then_some(connected)
        }
    }

    impl Connected {
        fn is_open(&mut self) -> bool {
            self.1.set_nonblocking(true).unwrap();
            self.1.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        }
    }

    #[test]
    fn newcomers_of_the_busiest_network_make_room_the_oldest_first() {
        let scene = Scene::new(4, 4);
        let mut lone = scene.connect([10, 0, 0, 1]);
        let mut flood: Vec<_> = (0..10).map(|_| scene.connect([10, 0, 0, 2])).collect();
        let open: Vec<_> = flood.iter_mut().map(Connected::is_open).collect();
        assert!(lone.is_open());
        assert_eq!(open, [[false; 7].as_slice(), &[true; 3]].concat());
        // Those that have gone leave their places.
        flood.truncate(9);
        let mut newcomer = scene.connect([10, 0, 0, 3]);
        assert!(newcomer.is_open() && lone.is_open() && flood[8].is_open());
    }

    #[test]
    fn the_client_with_the_most_makes_room_idle_connections_first() {
        let scene = Scene::new(10, 4);
        let mut heavy: Vec<_> = (0..4).map(|_| scene.admitted(1).unwrap()).collect();
        let busy: Vec<_> = [0, 1].map(|n: usize| heavy[n].0.handle.begin_call(&scene.client(1))).into();
        let mut first = scene.admitted(2).unwrap();
        let open: Vec<_> = heavy.iter_mut().map(Connected::is_open).collect();
        assert_eq!(open, [true, true, false, true], "the oldest of those without a call");
        let mut second = scene.admitted(2).unwrap();
        assert!(!heavy[3].is_open() && heavy[0].is_open() && heavy[1].is_open());
        // Both have half of the places: the client closes its own, and none that is busy.
        let mut third = scene.admitted(2).unwrap();
        assert!(!first.is_open() && second.is_open() && third.is_open() && heavy[0].is_open());
        let calls = [&second, &third].map(|connected| connected.0.handle.begin_call(&scene.client(1)));
        assert!(scene.admitted(2).is_none());
        assert!(second.is_open() && third.is_open());
        // A third client has less than its share, and gets in though everybody is busy.
        let mut other = scene.admitted(3).unwrap();
        assert!(other.is_open());
        drop((busy, calls));
    }

    #[test]
    fn a_client_without_a_connection_gets_one_from_those_that_have_one_each() {
        let scene = Scene::new(10, 4);
        let mut others: Vec<_> = (1..=4).map(|number| scene.admitted(number).unwrap()).collect();
        let busy = [0, 1, 3].map(|n: usize| others[n].0.handle.begin_call(&scene.client(1)));
        let mut fifth = scene.admitted(5).expect("a place");
        assert!(fifth.is_open());
        let open: Vec<_> = others.iter_mut().map(Connected::is_open).collect();
        assert_eq!(open, [true, true, false, true], "the one without a call");
        // Nor is it kept out by calls that never end.
        let _busy_too = fifth.0.handle.begin_call(&scene.client(1));
        let mut sixth = scene.admitted(6).expect("a place");
        assert!(sixth.is_open());
        drop(busy);
    }

    #[test]
    fn room_is_made_also_where_there_are_clients_alone() {
        let scene = Scene::new(4, 4);
        let mut clients = [1, 1, 2].map(|number| scene.admitted(number).unwrap());
        scene.limits.make_room();
        assert_eq!(clients.each_mut().map(Connected::is_open), [false, true, true]);
        let mut newcomer = scene.connect([127, 0, 0, 1]);
        scene.limits.make_room();
        assert!(!newcomer.is_open());
        assert_eq!(clients.each_mut().map(Connected::is_open), [false, true, true]);
        scene.limits.make_room();
        scene.limits.make_room();
        scene.limits.make_room();
        assert_eq!(clients.each_mut().map(Connected::is_open), [false; 3]);
    }

    #[test]
    fn newcomers_have_an_allowance_and_clients_have_none() {
        let scene = Scene::new(4, 4);
        let newcomer = scene.connect([127, 0, 0, 1]);
        let client = scene.admitted(1).unwrap();
        let most = usize::try_from(MOST_BYTES).unwrap();
        assert!(newcomer.0.handle.allows_bytes(most / 2) && !newcomer.0.handle.allows_bytes(most));
        assert!(client.0.handle.allows_bytes(10 * most));
        let calls: Vec<_> = (0..5).map(|_| newcomer.0.handle.begin_open_call()).collect();
        assert_eq!(calls.iter().filter(|call| call.is_some()).count(), Handle::MOST_OPEN_CALLS);
        drop(calls);
        assert!(newcomer.0.handle.begin_open_call().is_some());
    }

    #[test]
    fn newcomers_take_no_place_of_clients() {
        let scene = Scene::new(2, 2);
        let mut clients: Vec<_> = (0..2).map(|_| scene.admitted(1).unwrap()).collect();
        let mut newcomers: Vec<_> = (0..5).map(|_| scene.connect([127, 0, 0, 1])).collect();
        assert!(clients.iter_mut().all(Connected::is_open));
        assert_eq!(newcomers.iter_mut().filter_map(|one| one.is_open().then_some(())).count(), 2);
        assert!(!newcomers[0].0.handle.admit(&scene.client(2)), "it has been closed");
    }
}
