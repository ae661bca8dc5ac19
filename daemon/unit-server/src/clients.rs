//! Clients: the parties between which the server shares its resources.
//!
//! A client is known by its TLS certificate, else by the bearer token of the call, else by its
//! network address. The share of a client does not depend on the number of its connections.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use keyward_ground::fair::User;
use keyward_ground::throttle::Throttle;

/// All known clients.
#[derive(Default)]
pub(crate) struct Clients {
    known: Mutex<HashMap<ClientName, Arc<Client>>>,
    next: AtomicU32,
}

impl Clients {
    /// Client with this name. A new client is added.
    pub(crate) fn get(&self, name: ClientName) -> Arc<Client> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&name) {
            return Arc::clone(client);
        }
        if known.len() >= MAX_KNOWN {
            // A client without a connection or a call loses its state.
            known.retain(|_, client| Arc::strong_count(client) > 1);
        }
        let client = Arc::new(Client::new(name, self.next.fetch_add(1, Ordering::Relaxed)));
        known.insert(name, Arc::clone(&client));
        client
    }
}

/// Name by which the server distinguishes clients.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum ClientName {
    /// Network of the client, see [`network`].
    Address(IpAddr),
    /// SHA-256 of the TLS certificate of the client.
    Certificate([u8; 32]),
    /// SHA-256 of the bearer token, and the number of its line in the file. The log shows the
    /// number only.
    Token([u8; 32], usize),
}

impl fmt::Display for ClientName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(formatter, "address {address}"),
            Self::Certificate(digest) => {
                formatter.write_str("certificate sha256:")?;
                digest.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
            }
            Self::Token(_, line) => write!(formatter, "token in line {line}"),
        }
    }
}

/// Returns the part of an address that identifies the sender. For IPv6 the part is the first 64
/// bits, because a host can use all addresses with them. All loopback addresses are one sender,
/// because every program of this host can use all of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// State of a client, shared by its connections and calls.
pub(crate) struct Client {
    pub(crate) name: ClientName,
    /// Number of the client in the queues.
    pub(crate) number: User,
    /// Number of calls under way.
    pub(crate) calls: AtomicUsize,
    /// Memory of its requests and responses, in KiB.
    pub(crate) memory: AtomicUsize,
    /// Limit for log lines about refusals.
    pub(crate) refusals: Refusals,
    waiting: AtomicUsize,
    next_refusal: Mutex<Instant>,
}

/// Limit for log lines about refusals of a client: one a second of each kind, with the number of
/// refusals of that kind.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<HashMap<Kind, Throttle>>);

/// Kind of refusal: the name of the call or another word, and the number of the error.
type Kind = (&'static str, u64);

impl Refusals {
    /// Counts a refusal. Returns the number of refusals of this kind since its last log line;
    /// `None` less than a second after that line.
    pub(crate) fn admit(&self, what: &'static str, code: u64) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = kinds.contains_key(&(what, code));
        // Bounds the memory for a client that provokes many kinds: the rest counts as one kind.
        let kind = if is_known || kinds.len() < MAX_KINDS { (what, code) } else { OTHER };
        kinds.entry(kind).or_default().admit()
    }
}

/// Maximum number of kinds of refusals that are counted separately.
const MAX_KINDS: usize = 32;
const OTHER: Kind = ("", 0);

impl Client {
    fn new(name: ClientName, number: User) -> Self {
        Self {
            name,
            number,
            calls: AtomicUsize::new(0),
            memory: AtomicUsize::new(0),
            refusals: Refusals::default(),
            waiting: AtomicUsize::new(0),
            next_refusal: Mutex::new(Instant::now()),
        }
    }

    /// Counts a call as waiting until the returned value is dropped. `None` if too many calls wait.
    pub(crate) fn begin_to_wait(&self) -> Option<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self);
        (before < MAX_WAITING).then_some(waiting)
    }

    /// Time at which the next call that cannot wait is refused. The delay stops a client that
    /// retries at once from keeping the server busy with refusals.
    pub(crate) fn refusal_time(&self) -> Instant {
        let mut next = self.next_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let time = (*next).max(Instant::now());
        *next = time + REFUSAL_INTERVAL;
        time
    }
}

/// Counter of a waiting call.
pub(crate) struct Waiting<'a>(&'a Client);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Maximum number of waiting calls of one client.
pub(crate) const MAX_WAITING: usize = 1024;
/// Minimum interval between refusals of one client.
const REFUSAL_INTERVAL: Duration = Duration::from_millis(1);
/// Number of known clients at which unused ones are removed.
const MAX_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_client_and_unused_clients_are_removed() {
        let clients = Clients::default();
        let address = |n: u32| ClientName::Address(IpAddr::V4(n.into()));
        let first = clients.get(address(0));
        for n in 1..10_000 {
            clients.get(address(n));
        }
        assert!(Arc::ptr_eq(&first, &clients.get(address(0))));
        assert!(clients.known.lock().unwrap().len() <= MAX_KNOWN);
    }

    #[test]
    fn a_host_has_one_network() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.1"), "192.0.2.1");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        for loopback in ["127.1.2.3", "::ffff:127.0.0.2", "::1"] {
            assert_eq!(network(loopback), "127.0.0.1");
        }
    }

    #[test]
    fn refusals_are_counted_by_kind_and_kinds_are_bounded() {
        let refusals = Refusals::default();
        assert_eq!(refusals.admit("Sign", 1), Some(1));
        assert_eq!(refusals.admit("Sign", 1), None);
        assert_eq!((refusals.admit("Sign", 2), refusals.admit("Verify", 1)), (Some(1), Some(1)));
        let others = (3..1000).filter(|code| refusals.admit("Sign", *code).is_some()).count();
        assert_eq!(others, MAX_KINDS - 3 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_calls_are_bounded_and_refusals_have_a_rate() {
        let client = Client::new(ClientName::Certificate([0xab; 32]), 1);
        assert!(client.name.to_string().starts_with("certificate sha256:abab"));
        let waiting: Vec<_> = (0..MAX_WAITING).map(|_| client.begin_to_wait().unwrap()).collect();
        assert!(client.begin_to_wait().is_none());
        drop(waiting);
        assert!(client.begin_to_wait().is_some());
        let now = Instant::now();
        let times = [(); 3].map(|()| client.refusal_time() - now);
        assert_eq!(times, [Duration::ZERO, REFUSAL_INTERVAL, 2 * REFUSAL_INTERVAL]);
    }
}
