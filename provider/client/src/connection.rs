//! A connection, with at most one request in progress.

use core::time::Duration;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use keyward_proto::frame;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_cookie};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

use crate::Address;

/// A connected socket.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// The kernel's number for this socket (SO_COOKIE, socket(7)); 0 if the kernel gives none.
    cookie: u64,
    /// True while sending on this socket may wait for less than the full timeout.
    hurried: bool,
}

impl Connection {
    /// Connects before the deadline. After that, each attempt to send waits at most `timeout`, and
    /// each attempt to receive at most three quarters of that.
    pub(crate) fn open(address: &Address, timeout: Duration, deadline: Instant) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let socket = above_standard_streams(socket)?;
        let cookie = socket_cookie(&socket).unwrap_or(0);
        let address = address.socket()?;
        // The limit also holds for connect, which waits while the listener's queue is full
        // (unix(7)).
        wait_at_most(&socket, remaining(deadline).ok_or(Errno::TIMEDOUT)?)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) if remaining(deadline).is_some() => {}
                Err(Errno::AGAIN | Errno::INTR) => return Err(Errno::TIMEDOUT),
                Err(error) => return Err(error),
            }
        }
        wait_at_most(&socket, timeout)?;
        // Timers of sockets are late by up to an eighth (the timer wheel of the kernel), so the
        // wait ends before the 15/16 that `has_most_of` has found left.
        set_socket_timeout(&socket, Timeout::Recv, Some(not_zero(timeout / 4 * 3)))?;
        Ok(Self { socket, cookie, hurried: false })
    }

    /// Makes a connection from a socket that the pool kept.
    pub(crate) fn from_kept(socket: OwnedFd, cookie: u64) -> Self {
        Self { socket, cookie, hurried: false }
    }

    /// True if the kernel has given the socket a number.
    pub(crate) fn has_cookie(&self) -> bool {
        self.cookie != 0
    }

    /// Gives the socket and its cookie to the pool.
    pub(crate) fn into_kept(self) -> (OwnedFd, u64) {
        (self.socket, self.cookie)
    }

    /// Sends one frame. `timeout` must be the timeout that [`Connection::open`] was given. The
    /// connection must not be used again after an error.
    pub(crate) fn send(&mut self, frame: &[u8], timeout: Duration, deadline: Instant) -> Result<(), Broken> {
        self.hurry_if_late(timeout, deadline)?;
        let mut rest = frame;
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) => self.go_on_after(error, deadline)?,
            }
        }
        if self.hurried {
            wait_at_most(&self.socket, timeout).map_err(|_| Broken::Lost)?;
            self.hurried = false;
        }
        Ok(())
    }

    /// Appends to `buffer` what has arrived. Returns true if `buffer` holds one whole frame. With
    /// `wait`, waits for the first bytes, but not to the deadline: [`Self::wait_for_answer`] waits
    /// for the rest of the time, with a finer timer.
    ///
    /// A wait in recv is one system call, a wait in poll two. The kernel also wakes a sleeper in
    /// recv when the daemon reads the request, because there is room to send again. That costs
    /// little, because the daemon answers on the same processor.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>, wait: bool) -> Result<bool, Broken> {
        let mut flags = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        loop {
            let wanted = match buffer.first_chunk() {
                Some(header) => frame::HEADER + frame::body_length(*header).map_err(|_| Broken::Garbled)?,
                None => FIRST_READ,
            };
            buffer.reserve(wanted.saturating_sub(buffer.len()).max(1));
            let received = recv(&self.socket, spare_capacity(buffer), flags);
            // The kernel would wait for the whole time again, for each piece and after each signal.
            flags = RecvFlags::DONTWAIT;
            match received {
                Ok((0, _)) => return Err(Broken::Lost),
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Broken::Lost),
            }
            match frame::split(buffer).map_err(|_| Broken::Garbled)? {
                Some((_, used)) if used == buffer.len() => return Ok(true),
                Some(_) => return Err(Broken::Garbled),
                None => {}
            }
        }
    }

    /// Sleeps until there is something to receive, or until that moment.
    pub(crate) fn wait_for_answer(&self, until: Instant) -> Result<(), Broken> {
        loop {
            let left = remaining(until).and_then(|left| Timespec::try_from(left).ok());
            let Some(left) = left else { return Ok(()) };
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(_) => return Err(Broken::Lost),
            }
        }
    }

    /// True if sending continues after an error: a signal came before the deadline.
    fn go_on_after(&mut self, error: Errno, deadline: Instant) -> Result<(), Broken> {
        match error {
            Errno::INTR => self.shorten_timeout(deadline),
            Errno::AGAIN => Err(Broken::Late),
            _ => Err(Broken::Lost),
        }
    }

    /// Shortens the wait for sending if a noticeable part of the time is over: after a first
    /// attempt, or with a daemon that was slow to accept.
    fn hurry_if_late(&mut self, timeout: Duration, deadline: Instant) -> Result<(), Broken> {
        if has_most_of(timeout, deadline) { Ok(()) } else { self.shorten_timeout(deadline) }
    }

    /// Shortens the wait for sending to the time that is left. This costs a system call, which the
    /// usual path avoids: there the kernel's limit from the beginning is right.
    fn shorten_timeout(&mut self, deadline: Instant) -> Result<(), Broken> {
        let remaining = remaining(deadline).ok_or(Broken::Late)?;
        self.hurried = true;
        wait_at_most(&self.socket, remaining).map_err(|_| Broken::Lost)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reason why an exchange has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Broken {
    /// The bytes that arrived are not exactly one frame.
    Garbled,
    /// The deadline passed.
    Late,
    /// The other end is gone, so the request may be sent again on another connection.
    Lost,
}

/// Moves the descriptor above 2, so that it never takes the place of a closed stdin, stdout or
/// stderr of the host.
fn above_standard_streams(descriptor: OwnedFd) -> Result<OwnedFd, Errno> {
    if descriptor.as_raw_fd() > 2 { Ok(descriptor) } else { fcntl_dupfd_cloexec(&descriptor, 3) }
}

fn wait_at_most(socket: &OwnedFd, timeout: Duration) -> Result<(), Errno> {
    set_socket_timeout(socket, Timeout::Send, Some(not_zero(timeout)))
}

/// A timeout for a socket: zero would mean no limit.
fn not_zero(timeout: Duration) -> Duration {
    timeout.max(Duration::from_millis(1))
}

/// True if at least 15/16 of the timeout are left, so that the limits of the socket are right.
fn has_most_of(timeout: Duration, deadline: Instant) -> bool {
    remaining(deadline).is_some_and(|left| left >= timeout - timeout / 16)
}

/// True if [`Connection::receive`] may wait: a short timeout would end late by one or two ticks of
/// the kernel.
pub(crate) fn may_wait(timeout: Duration, deadline: Instant) -> bool {
    timeout >= SHORTEST_WAIT && has_most_of(timeout, deadline)
}

fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// Shortest timeout with a wait in recv. A tick takes 1 to 10 ms.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// Size of the first read, in bytes: enough for the answer with an RSA-8192 signature.
const FIRST_READ: usize = 1200;
