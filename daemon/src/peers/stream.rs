//! The connection of a peer as sessions use it: waited for in reading alone.
//!
//! tokio's own stream waits for reading and writing, and the kernel finds a socket writable again, and wakes
//! its thread, each time the peer takes an answer out of it: one wake-up too many for each signature.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};

/// A connection, bound to the runtime in which it was made.
pub(crate) struct Stream(AsyncFd<UnixStream>);

impl Stream {
    /// Takes over a connection that does not block.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        wait_for_reading(stream).map(Self)
    }

    /// Gives the connection away, for another runtime to serve.
    pub(crate) fn into_inner(self) -> UnixStream {
        self.0.into_inner()
    }

    /// Waits for bytes and reads as many as `input` has room for; 0 are the end.
    ///
    /// Nothing is lost if the future is dropped.
    pub(crate) async fn read(&self, input: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let room = input.capacity() - input.len();
            let read = self.read_now(input)?;
            // Less than there was room for: nothing more is there until epoll(7) says so again.
            if read.is_none_or(|count| count < room) {
                ready.clear_ready();
            }
            if let Some(count) = read {
                return Ok(count);
            }
        }
    }

    /// Waits until there are bytes, or the end, and leaves them there.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            match recv(self.0.get_ref(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`Self::read`], with what is there; `None` if that is nothing.
    pub(crate) fn read_now(&self, input: &mut Vec<u8>) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(self.0.get_ref(), spare_capacity(input)) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the peer has closed the connection, rather than only its own direction of it.
    pub(crate) fn is_hung_up(&self) -> bool {
        is_hung_up(self.0.get_ref())
    }

    /// Writes what the socket takes at once, and returns how many bytes that were.
    pub(crate) fn write_now(&self, output: &[u8]) -> io::Result<usize> {
        match send(self.0.get_ref(), output, SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes everything, and waits where the socket is full.
    pub(crate) async fn write_all(&self, output: &[u8]) -> io::Result<()> {
        let mut writer = tokio::net::UnixStream::from_std(self.0.get_ref().try_clone()?)?;
        writer.write_all(output).await
    }
}

/// Registers a socket that does not block with the runtime, which waits for reading alone.
pub(super) fn wait_for_reading<S: AsRawFd + Into<OwnedFd>>(socket: S) -> io::Result<AsyncFd<S>> {
    #[allow(unsafe_code, reason = "the safe constructor of AsyncFd is deprecated")]
    // SAFETY: AsyncFd asks for a descriptor that stays open and the same until it is dropped; a
    // socket that can give its descriptor away owns it, and nothing here replaces it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Whether the other end of a connection has closed it, rather than only its own direction of it.
pub(super) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut state = [PollFd::new(stream, PollFlags::empty())];
    let _ = poll(&mut state, Some(&Timespec::default()));
    state[0].revents().contains(PollFlags::HUP)
}
