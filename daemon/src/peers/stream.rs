//! Stream of a session: a Unix socket that wakes its task for reading only.
//!
//! Other transports were tried. One question and one answer of 200 and 90 bytes between two
//! processes on one processor take, with epoll here (two virtual processors of an EPYC, Linux 6.18;
//! microseconds, with 768 KiB of memory touched in between):
//!
//! ```text
//! stream socket, poll at the peer                        7.8
//! SEQPACKET socket, a timeout of the socket at the peer  7.1
//! pair of pipes, poll at the peer                        5.4
//! ```
//!
//! Pipes are not used, because a peer could make this thread wait, and so all users of the
//! processor: Linux holds the lock of a pipe while it copies to or from the memory of the peer, and
//! that memory can be a file whose file system belongs to the peer and answers late. `O_NONBLOCK`
//! does not help. A socket has no such lock that both ends take. Memory that both sides write can
//! change under the eyes of the reader.
//!
//! The stream of tokio also waits for writing. The kernel reports a socket as writable again, and
//! wakes the thread, each time the peer reads an answer: one needless wake-up for each signature.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};

/// Connection of a peer, registered with the runtime in which it was made.
pub(crate) struct Stream(AsyncFd<UnixStream>);

impl Stream {
    /// Registers a socket that does not block.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        wait_for_reading(stream).map(Self)
    }

    /// Returns the socket, for another runtime.
    pub(crate) fn into_inner(self) -> UnixStream {
        self.0.into_inner()
    }

    /// Waits for bytes and reads as many as the spare capacity of `input` takes. Returns the number
    /// of bytes, 0 at the end of the stream. No bytes are lost if the future is dropped.
    pub(crate) async fn read(&self, input: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let room = input.capacity() - input.len();
            let read = self.try_read(input)?;
            // Less than the spare capacity: the socket is empty until epoll(7) reports it again.
            if read.is_none_or(|count| count < room) {
                ready.clear_ready();
            }
            if let Some(count) = read {
                return Ok(count);
            }
        }
    }

    /// Waits until bytes or the end of the stream can be read, and reads nothing.
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

    /// Reads as [`read`](Self::read), without waiting. `None` if there are no bytes.
    pub(crate) fn try_read(&self, input: &mut Vec<u8>) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(self.0.get_ref(), spare_capacity(input)) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// True if the peer has closed the connection, and not only its sending half.
    pub(crate) fn is_hung_up(&self) -> bool {
        is_hung_up(self.0.get_ref())
    }

    /// Writes as many bytes as the socket takes at once, and returns their number.
    pub(crate) fn try_write(&self, output: &[u8]) -> io::Result<usize> {
        match send(self.0.get_ref(), output, SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all bytes, and waits while the socket is full. Uses a second descriptor meanwhile.
    pub(crate) async fn write_all(&self, output: &[u8]) -> io::Result<()> {
        let mut writer = tokio::net::UnixStream::from_std(self.0.get_ref().try_clone()?)?;
        writer.write_all(output).await
    }
}

/// Registers a socket that does not block with the runtime, for reading only.
pub(super) fn wait_for_reading<S: AsRawFd + Into<OwnedFd>>(socket: S) -> io::Result<AsyncFd<S>> {
    #[allow(unsafe_code, reason = "the safe constructor of AsyncFd is deprecated")]
    // SAFETY: AsyncFd requires a descriptor that stays open and the same until AsyncFd is dropped.
    // A type that converts into `OwnedFd` owns its descriptor, and nothing here replaces it.
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// True if the other end has closed the connection, and not only its sending half.
pub(super) fn is_hung_up(stream: &UnixStream) -> bool {
    let mut state = [PollFd::new(stream, PollFlags::empty())];
    let _ = poll(&mut state, Some(&Timespec::default()));
    state[0].revents().contains(PollFlags::HUP)
}
