//! A client of a proxy, and the connection that the proxy made for it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::Fault;

/// A pair of connections; nothing here blocks.
#[derive(Debug)]
pub(super) struct Link {
    client: TcpStream,
    /// `None` if there is no server. The client does not notice.
    upstream: Option<TcpStream>,
    to_client: Pipe,
    to_upstream: Pipe,
    /// True after bytes were lost: later bytes would make no sense.
    silent: bool,
}

/// Fate of a [`Link`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// The link goes on.
    Alive,
    /// Both sides have ended the link.
    Over,
    /// The connection of one side broke, so the other side must be reset.
    Broken,
}

impl Link {
    /// Connects a client with a server. Resets the client if there is no server, which may show
    /// later.
    pub(super) fn open(client: TcpStream, upstream: SocketAddr) -> Option<Self> {
        let family = if upstream.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None);
        let connected = socket.and_then(|socket| match connect(&socket, &upstream) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
            Err(error) => Err(error),
        });
        match connected {
            Ok(upstream) => Self::new(client, Some(upstream)),
            Err(_) => {
                reset(&client);
                None
            }
        }
    }

    /// Accepts a client that never gets an answer.
    pub(super) fn silent(client: TcpStream) -> Option<Self> {
        Some(Self { silent: true, ..Self::new(client, None)? })
    }

    fn new(client: TcpStream, upstream: Option<TcpStream>) -> Option<Self> {
        for socket in [Some(&client), upstream.as_ref()].into_iter().flatten() {
            // Fails if the client is gone already.
            socket.set_nonblocking(true).and_then(|()| socket.set_nodelay(true)).ok()?;
        }
        Some(Self {
            client,
            upstream,
            to_client: Pipe::default(),
            to_upstream: Pipe::default(),
            silent: false,
        })
    }

    /// Moves all bytes that can move.
    pub(super) fn serve(&mut self, fault: Fault) -> Fate {
        if !self.silent {
            match self.move_bytes(fault) {
                Err(_) => return Fate::Broken,
                Ok(()) if self.to_client.is_over() && self.to_upstream.is_over() => return Fate::Over,
                Ok(()) => {}
            }
        }
        if self.silent { self.swallow() } else { Fate::Alive }
    }

    fn move_bytes(&mut self, fault: Fault) -> io::Result<()> {
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        if fault == Fault::Drop {
            // Everything that arrives now is lost, even an end or an error.
            self.silent = (!self.to_upstream.ending && readable(&self.client))
                || (!self.to_client.ending && readable(upstream));
            return Ok(());
        }
        self.to_upstream.fill(&mut self.client, Duration::ZERO, |_| {})?;
        let late = if let Fault::Delay(late) = fault { late } else { Duration::ZERO };
        self.to_client.fill(upstream, late, |chunk| {
            if fault == Fault::Corrupt {
                let middle = chunk.len() / 2;
                chunk[middle] ^= 1;
            }
        })?;
        self.to_upstream.empty(upstream)?;
        self.to_client.empty(&mut self.client)
    }

    /// Reads and discards. The server may end; the client does not notice.
    fn swallow(&mut self) -> Fate {
        if self.upstream.as_mut().is_some_and(ended) {
            self.upstream = None;
        }
        if ended(&mut self.client) { Fate::Over } else { Fate::Alive }
    }

    /// Drops the bytes that are in the proxy now.
    pub(super) fn lose_what_is_under_way(&mut self) {
        self.silent |= !self.to_client.chunks.is_empty() || !self.to_upstream.chunks.is_empty();
    }

    /// Ends both connections by a reset, if they still exist.
    pub(super) fn reset(&self) {
        reset(&self.client);
        self.upstream.iter().for_each(reset);
    }

    /// Events to wait for.
    pub(super) fn wants(&self, now: Instant) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let flags = |from: &Pipe, to: &Pipe| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.silent || from.has_room());
            flags.set(PollFlags::OUT, !self.silent && to.is_due(now));
            flags
        };
        let client = (self.client.as_fd(), flags(&self.to_upstream, &self.to_client));
        let upstream = self.upstream.as_ref();
        let upstream = upstream.map(|socket| (socket.as_fd(), flags(&self.to_client, &self.to_upstream)));
        [Some(client), upstream].into_iter().flatten()
    }

    /// Moment at which the next chunk is due.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = self.to_client.chunks.front()?.due;
        Some(due).filter(|due| !self.silent && *due > now)
    }
}

/// Makes the connection end with a reset when it is closed.
pub(super) fn reset(socket: &TcpStream) {
    // socket(7), tcp(7): unsent bytes are discarded, and the other side gets a reset.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// True if bytes, an end, or an error wait to be read.
fn readable(socket: &TcpStream) -> bool {
    !socket.peek(&mut [0]).is_err_and(|error| is_for_later(&error))
}

/// Reads and discards; returns true if nothing more can come.
fn ended(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; CHUNK]) {
        Ok(got) => got == 0,
        Err(error) => !is_for_later(&error),
    }
}

/// Bytes on their way in one direction.
#[derive(Debug, Default)]
struct Pipe {
    chunks: VecDeque<Chunk>,
    /// Number of the bytes.
    bytes: usize,
    /// The end has been read.
    ending: bool,
}

#[derive(Debug)]
struct Chunk {
    due: Instant,
    /// The bytes; empty for the end of the stream.
    bytes: Vec<u8>,
}

impl Pipe {
    /// Reads a chunk if there is one, applies a change, and keeps the chunk until it is due.
    fn fill(
        &mut self,
        from: &mut TcpStream,
        late: Duration,
        touch: impl FnOnce(&mut [u8]),
    ) -> io::Result<()> {
        if !self.has_room() {
            return Ok(());
        }
        let mut buffer = [0; CHUNK];
        let chunk = match from.read(&mut buffer) {
            Ok(got) => &mut buffer[..got],
            Err(error) if is_for_later(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if chunk.is_empty() {
            self.ending = true;
        } else {
            touch(chunk);
        }
        self.bytes += chunk.len();
        self.chunks.push_back(Chunk { due: Instant::now() + late, bytes: chunk.to_vec() });
        Ok(())
    }

    /// Writes the chunks that are due.
    fn empty(&mut self, to: &mut TcpStream) -> io::Result<()> {
        let now = Instant::now();
        while let Some(chunk) = self.chunks.front_mut().filter(|chunk| chunk.due <= now) {
            if chunk.bytes.is_empty() {
                to.shutdown(Shutdown::Write)?;
                self.chunks.pop_front();
                continue;
            }
            let sent = match to.write(&chunk.bytes) {
                Ok(sent) => sent,
                Err(error) if is_for_later(&error) => break,
                Err(error) => return Err(error),
            };
            self.bytes -= sent;
            chunk.bytes.drain(..sent);
            // An empty chunk would mean the end.
            if chunk.bytes.is_empty() {
                self.chunks.pop_front();
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        !self.ending && self.bytes < ROOM
    }

    fn is_due(&self, now: Instant) -> bool {
        self.chunks.front().is_some_and(|chunk| chunk.due <= now)
    }

    /// The end has been passed on.
    fn is_over(&self) -> bool {
        self.ending && self.chunks.is_empty()
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Maximum number of bytes in a chunk.
const CHUNK: usize = 64 * 1024;

/// Enough for a gigabit per second with half a second of delay.
const ROOM: usize = 64 * 1024 * 1024;
