//! One connection, on which one request at a time is under way.

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
    /// The kernel's own name for this socket (SO_COOKIE, socket(7)); 0 if it gives none.
    cookie: u64,
    /// Whether sending may wait for less than the full time on this socket.
    hurried: bool,
}

impl Connection {
    /// Connects before the deadline. Later each attempt to send waits at most `patience`.
    pub(crate) fn open(address: &Address, patience: Duration, deadline: Instant) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let socket = above_standard_streams(socket)?;
        let cookie = socket_cookie(&socket).unwrap_or(0);
        let address = address.socket()?;
        // Also bounds connect itself, which waits while the queue of the listener is full (unix(7)).
        wait_at_most(&socket, remaining(deadline).ok_or(Errno::TIMEDOUT)?)?;
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(Errno::INTR) if remaining(deadline).is_some() => {}
                Err(Errno::AGAIN | Errno::INTR) => return Err(Errno::TIMEDOUT),
                Err(error) => return Err(error),
            }
        }
        wait_at_most(&socket, patience)?;
        Ok(Self { socket, cookie, hurried: false })
    }

    /// Takes over a socket that [`Connection::open`] made and the pool kept.
    pub(crate) fn from_kept(socket: OwnedFd, cookie: u64) -> Self {
        Self { socket, cookie, hurried: false }
    }

    /// Gives the socket away, for the pool to keep.
    pub(crate) fn into_kept(self) -> (OwnedFd, u64) {
        (self.socket, self.cookie)
    }

    /// Sends one frame. `patience` is what [`Connection::open`] was given. The connection must not be used again after an
    /// error.
    pub(crate) fn send(&mut self, frame: &[u8], patience: Duration, deadline: Instant) -> Result<(), Broken> {
        self.hurry_if_late(patience, deadline)?;
        let mut rest = frame;
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(error) => self.go_on_after(error, deadline)?,
            }
        }
        if self.hurried {
            wait_at_most(&self.socket, patience).map_err(|_| Broken::Lost)?;
            self.hurried = false;
        }
        Ok(())
    }

    /// Takes what has arrived, without waiting. Returns whether `buffer` holds one whole frame.
    pub(crate) fn receive(&self, buffer: &mut Vec<u8>) -> Result<bool, Broken> {
        loop {
            let wanted = match buffer.first_chunk() {
                Some(header) => frame::HEADER + frame::body_length(*header).map_err(|_| Broken::Garbled)?,
                None => FIRST_READ,
            };
            buffer.reserve(wanted.saturating_sub(buffer.len()).max(1));
            match recv(&self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT) {
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

    /// Waits until there is something to receive, or that time has come. In recv itself one would be woken twice: as
    /// soon as the daemon takes the request, since the kernel then tells all who sleep on the socket that there is room to send.
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

    /// Decides what an error of the kernel means: nothing, if the call was merely interrupted in time.
    fn go_on_after(&mut self, error: Errno, deadline: Instant) -> Result<(), Broken> {
        match error {
            Errno::INTR => self.shrink_patience(deadline),
            Errno::AGAIN => Err(Broken::Late),
            _ => Err(Broken::Lost),
        }
    }

    /// Lets sending wait only for what is left, if what came before took a noticeable part of the time: another attempt,
    /// or a daemon that was slow to accept.
    fn hurry_if_late(&mut self, patience: Duration, deadline: Instant) -> Result<(), Broken> {
        match remaining(deadline) {
            Some(left) if left >= patience - patience / 16 => Ok(()),
            _ => self.shrink_patience(deadline),
        }
    }

    /// Lets sending wait only for what is left. Costs a system call, so it is left out on the straight road, where the
    /// time that the kernel was given at first is the time that is left.
    fn shrink_patience(&mut self, deadline: Instant) -> Result<(), Broken> {
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

/// Why an exchange did not end with an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Broken {
    /// What arrived is not a frame, or more than one.
    Garbled,
    /// The deadline passed.
    Late,
    /// The other end is gone, so the request may be sent again elsewhere.
    Lost,
}

/// Moves the descriptor above 2, so that it never takes the place of a closed stdin, stdout or stderr
/// of the host.
fn above_standard_streams(descriptor: OwnedFd) -> Result<OwnedFd, Errno> {
    if descriptor.as_raw_fd() > 2 { Ok(descriptor) } else { fcntl_dupfd_cloexec(&descriptor, 3) }
}

fn wait_at_most(socket: &OwnedFd, patience: Duration) -> Result<(), Errno> {
    // The kernel takes zero for "for ever".
    let patience = patience.max(Duration::from_millis(1));
    set_socket_timeout(socket, Timeout::Send, Some(patience))
}

fn remaining(deadline: Instant) -> Option<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// Room for the answer to any signature of today's key types in one read, in bytes.
const FIRST_READ: usize = 1200;
