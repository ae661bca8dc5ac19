//! Clients: who shares what with whom.
//!
//! A client is the certificate it proved itself with, else the bearer token of the call, else the address it calls
//! from. What the server has is shared between clients, however many connections each of them opens.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use keyward_ground::fair::User;
use keyward_ground::throttle::Throttle;

/// The clients that are there.
#[derive(Default)]
pub(crate) struct Clients {
    known: Mutex<HashMap<Name, Arc<Client>>>,
    next: AtomicU32,
}

impl Clients {
    /// The client of a name.
    pub(crate) fn get(&self, name: Name) -> Arc<Client> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&name) {
            return Arc::clone(client);
        }
        if known.len() >= KEPT {
            // Clients without a connection or a call begin anew when they come back.
            known.retain(|_, client| Arc::strong_count(client) > 1);
        }
        let client = Arc::new(Client::new(name, self.next.fetch_add(1, Ordering::Relaxed)));
        known.insert(name, Arc::clone(&client));
        client
    }
}

/// What a client is told from others by.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Name {
    /// The network it calls from, see [`network`].
    Address(IpAddr),
    /// The SHA-256 of its TLS certificate.
    Certificate([u8; 32]),
    /// The SHA-256 of its bearer token. The number is that of its line in the file, which the log may have.
    Token([u8; 32], usize),
}

impl fmt::Display for Name {
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

/// The part of an address that tells senders apart: of IPv6 the first 64 bits, for a host has all addresses below.
/// All programs of this host are one, for each of them has all addresses of loopback.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        address if address.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// What is known about a client, shared by its connections and calls.
pub(crate) struct Client {
    pub(crate) name: Name,
    /// What the gates know it by.
    pub(crate) number: User,
    /// Calls under way.
    pub(crate) calls: AtomicUsize,
    /// What its requests take, in KiB.
    pub(crate) memory: AtomicUsize,
    /// Refusals in the log.
    pub(crate) refusals: Refusals,
    waiting: AtomicUsize,
    next_refusal: Mutex<Instant>,
}

/// Log lines about refusals of a client: one a second of each kind, with how many of that there
/// were.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<HashMap<Kind, Throttle>>);

/// What was refused, by the name of the call or a word for it, and the number of the error.
type Kind = (&'static str, u64);

impl Refusals {
    /// How often something was refused for the same reason since that was last told; `None` if it
    /// is too soon to tell it again.
    pub(crate) fn admit(&self, what: &'static str, code: u64) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = kinds.contains_key(&(what, code));
        // A client that tries out everything has the rest counted as one kind.
        let kind = if is_known || kinds.len() < MOST_KINDS { (what, code) } else { OTHER };
        kinds.entry(kind).or_default().admit()
    }
}

/// Kinds of refusals that are counted for themselves.
const MOST_KINDS: usize = 32;
const OTHER: Kind = ("", 0);

impl Client {
    fn new(name: Name, number: User) -> Self {
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

    /// Counts a call as waiting until what is returned is dropped; `None` if too many wait already.
    pub(crate) fn begin_to_wait(&self) -> Option<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self);
        (before < MOST_WAITING).then_some(waiting)
    }

    /// When a call that cannot wait may be refused: a client that calls again at once, again and again, would
    /// otherwise keep the server busy with refusals.
    pub(crate) fn refusal_time(&self) -> Instant {
        let mut next = self.next_refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let time = (*next).max(Instant::now());
        *next = time + BETWEEN_REFUSALS;
        time
    }
}

/// A call that waits.
pub(crate) struct Waiting<'a>(&'a Client);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Calls of one client that may wait at a time.
pub(crate) const MOST_WAITING: usize = 1024;
const BETWEEN_REFUSALS: Duration = Duration::from_millis(1);
/// Clients beyond so many are looked through for those that are gone.
const KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_is_the_same_client_and_those_who_left_are_forgotten() {
        let clients = Clients::default();
        let address = |n: u32| Name::Address(IpAddr::V4(n.into()));
        let first = clients.get(address(0));
        for n in 1..10_000 {
            clients.get(address(n));
        }
        assert!(Arc::ptr_eq(&first, &clients.get(address(0))));
        assert!(clients.known.lock().unwrap().len() <= KEPT);
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
        assert_eq!(others, MOST_KINDS - 3 + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded_and_refusals_have_a_rate() {
        let client = Client::new(Name::Certificate([0xab; 32]), 1);
        assert!(client.name.to_string().starts_with("certificate sha256:abab"));
        let waiting: Vec<_> = (0..MOST_WAITING).map(|_| client.begin_to_wait().unwrap()).collect();
        assert!(client.begin_to_wait().is_none());
        drop(waiting);
        assert!(client.begin_to_wait().is_some());
        let now = Instant::now();
        let times = [(); 3].map(|()| client.refusal_time() - now);
        assert_eq!(times, [Duration::ZERO, BETWEEN_REFUSALS, 2 * BETWEEN_REFUSALS]);
    }
}
