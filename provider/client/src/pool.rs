//! Connections between requests, kept without a lock, so a fork at any moment leaves no lock held.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::os::fd::{IntoRawFd, OwnedFd};

use rustix::process::{getegid, geteuid, getpid};

use crate::connection::Connection;
use crate::system;

/// Process and user that a connection belongs to, asked of the kernel each time.
///
/// After a fork the process is another. A process may also become another user, but the daemon sees
/// the user who connected (SO_PEERCRED, unix(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl Owner {
    pub(crate) fn current() -> Self {
        Self {
            pid: getpid().as_raw_nonzero().get().unsigned_abs(),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        }
    }
}

/// At most [`SLOTS`] idle connections.
///
/// A slot records its owner. If a fork happens while a slot is being filled or emptied, the slot
/// stays closed in the child: one slot less, and nothing waits for it.
#[derive(Debug)]
pub(crate) struct Pool {
    slots: [Slot; SLOTS],
}

impl Pool {
    pub(crate) const fn new() -> Self {
        Self { slots: [const { Slot::new() }; SLOTS] }
    }

    /// Takes a connection that `owner` kept, preferably a connection last used on the same
    /// processor. Connections of other owners are closed on the way.
    pub(crate) fn take(&self, owner: Owner, processor: u32) -> Option<Connection> {
        self.slots_from(processor).find_map(|slot| slot.take(owner))
    }

    /// Keeps a connection of `owner` for the next request. Closes it if every slot is full, or if
    /// nothing would show later that its descriptor is still its own.
    pub(crate) fn put(&self, owner: Owner, processor: u32, connection: Connection) {
        let mut connection = Some(connection).filter(Connection::has_cookie);
        for slot in self.slots_from(processor) {
            connection = match connection.take() {
                Some(connection) => slot.put(owner, connection).err(),
                None => return,
            };
        }
    }

    fn slots_from(&self, processor: u32) -> impl Iterator<Item = &Slot> {
        let (before, from) = self.slots.split_at(processor as usize % SLOTS);
        from.iter().chain(before)
    }
}

#[derive(Debug)]
struct Slot {
    state: AtomicU32,
    // Only the thread that moved `state` to BUSY reads and writes the other fields.
    pid: AtomicU32,
    uid: AtomicU32,
    gid: AtomicU32,
    descriptor: AtomicI32,
    cookie: AtomicU64,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicU32::new(EMPTY),
            pid: AtomicU32::new(0),
            uid: AtomicU32::new(0),
            gid: AtomicU32::new(0),
            descriptor: AtomicI32::new(-1),
            cookie: AtomicU64::new(0),
        }
    }

    fn claim(&self, from: u32) -> bool {
        // The cheap load comes first, because most slots are empty most of the time.
        self.state.load(Ordering::Relaxed) == from
            && self.state.compare_exchange(from, BUSY, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn take(&self, owner: Owner) -> Option<Connection> {
        if !self.claim(FULL) {
            return None;
        }
        let descriptor = self.descriptor.load(Ordering::Relaxed);
        let cookie = self.cookie.load(Ordering::Relaxed);
        let filled_by = Owner {
            pid: self.pid.load(Ordering::Relaxed),
            uid: self.uid.load(Ordering::Relaxed),
            gid: self.gid.load(Ordering::Relaxed),
        };
        let kept = system::take_back(descriptor, cookie);
        self.state.store(EMPTY, Ordering::Release);
        // The connection of another process or user is closed.
        kept.filter(|_| filled_by == owner).map(|socket| Connection::from_kept(socket, cookie))
    }

    fn put(&self, owner: Owner, connection: Connection) -> Result<(), Connection> {
        if !self.claim(EMPTY) {
            return Err(connection);
        }
        let (socket, cookie): (OwnedFd, u64) = connection.into_kept();
        self.pid.store(owner.pid, Ordering::Relaxed);
        self.uid.store(owner.uid, Ordering::Relaxed);
        self.gid.store(owner.gid, Ordering::Relaxed);
        self.cookie.store(cookie, Ordering::Relaxed);
        self.descriptor.store(socket.into_raw_fd(), Ordering::Relaxed);
        self.state.store(FULL, Ordering::Release);
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        drop(self.take(Owner::current()));
    }
}

const EMPTY: u32 = 0;
const BUSY: u32 = 1;
const FULL: u32 = 2;

/// Number of kept connections. Only large machines and asynchronous jobs have more signatures in
/// progress at a time; each further signature connects again.
const SLOTS: usize = 64;

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Otherwise each request would leave a descriptor behind: nothing shows that it may be used
    /// or closed.
    #[test]
    fn a_socket_without_a_cookie_is_closed() {
        let pool = Pool::new();
        let owner = Owner::current();
        let (socket, mut other) = UnixStream::pair().unwrap();
        pool.put(owner, 0, Connection::from_kept(socket.into(), 0));
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
        assert!(pool.take(owner, 0).is_none());
    }
}
