//! Messages between the daemon and its starter, each one packet of a socket of unix(7).
//!
//! The daemon is the part that an attacker may take over, so the starter takes nothing from the
//! daemon but what [`Order`] can express.

use core::mem::MaybeUninit;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::serve::sockets::{HandedOver, Role};

/// Message of the daemon.
#[derive(Debug)]
pub enum Order {
    /// Run the installed program with `--check-config`. The answer is a [`Verdict`].
    Check,
    /// Keep a socket for the installed program.
    Socket(HandedOver),
    /// Keep a pipe with the master keys of a unit with owners for the installed program.
    MasterKeys(OwnedFd),
    /// Execute the installed program when the daemon has ended. Last message.
    Continue,
}

impl Order {
    /// Parses a packet, and the descriptor that came with the packet. `None` for anything else
    /// than an order.
    pub fn parse(packet: &[u8], descriptor: Option<OwnedFd>) -> Option<Self> {
        let (tag, place) = packet.split_first()?;
        match (*tag, descriptor) {
            (CHECK, None) if place.is_empty() => Some(Self::Check),
            (CONTINUE, None) if place.is_empty() => Some(Self::Continue),
            (MASTER_KEYS, Some(pipe)) if place.is_empty() => Some(Self::MasterKeys(pipe)),
            (PEERS, Some(listener)) => Self::socket(Role::Peers, listener, place),
            (ADMINISTRATORS, Some(listener)) => Self::socket(Role::Administrators, listener, place),
            (METRICS, Some(listener)) => Self::socket(Role::Metrics, listener, place),
            _ => None,
        }
    }

    fn socket(role: Role, listener: OwnedFd, place: &[u8]) -> Option<Self> {
        let bound_at = str::from_utf8(place).ok()?.to_owned();
        // The places become lines of an environment variable.
        let is_line = !bound_at.contains(['\n', '\0']);
        is_line.then_some(Self::Socket(HandedOver { listener, role, bound_at }))
    }

    /// The packet of the order, and the descriptor that belongs to the packet.
    pub fn packet(&self) -> (Vec<u8>, Option<BorrowedFd<'_>>) {
        match self {
            Self::Check => (vec![CHECK], None),
            Self::Continue => (vec![CONTINUE], None),
            Self::MasterKeys(pipe) => (vec![MASTER_KEYS], Some(pipe.as_fd())),
            Self::Socket(HandedOver { listener, role, bound_at }) => {
                let tag = match role {
                    Role::Peers => PEERS,
                    Role::Administrators => ADMINISTRATORS,
                    Role::Metrics => METRICS,
                };
                ([&[tag], bound_at.as_bytes()].concat(), Some(listener.as_fd()))
            }
        }
    }

    /// Sends the order to the starter.
    pub(super) fn send(&self, starter: BorrowedFd<'_>) -> io::Result<()> {
        let (packet, descriptor) = self.packet();
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        rustix::net::sendmsg(starter, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives an order without waiting.
    pub(super) fn receive(daemon: BorrowedFd<'_>) -> Received {
        let mut packet = [0; LONGEST_ORDER];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(daemon, &mut [IoSliceMut::new(&mut packet)], &mut control, flags);
        let received = match received {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
            Err(_) => return Received::End,
        };
        let mut descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptor = descriptors.next().and_then(|mut descriptors| descriptors.next());
        // Part of the packet, or further descriptors, did not fit.
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Received::Unexpected;
        }
        match packet.get(..received.bytes) {
            Some([]) => Received::End,
            Some(packet) => Self::parse(packet, descriptor).map_or(Received::Unexpected, Received::Order),
            None => Received::Unexpected,
        }
    }
}

/// Result of [`Order::receive`].
pub(super) enum Received {
    Order(Order),
    /// There is no packet yet.
    Nothing,
    /// The daemon has closed the socket.
    End,
    /// A packet that is no order.
    Unexpected,
}

/// Answer to [`Order::Check`].
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// The program would start. The text is the path of the program.
    Good(String),
    /// Reason why the daemon must go on.
    Bad(String),
}

impl Verdict {
    /// Sends the verdict to the daemon. A daemon that does not wait for the verdict any more has
    /// no use for it.
    pub(super) fn send(&self, daemon: BorrowedFd<'_>) {
        let (tag, text) = match self {
            Self::Good(program) => (GOOD, program),
            Self::Bad(reason) => (BAD, reason),
        };
        let text = text.as_bytes();
        let packet = [&[tag], text.get(..LONGEST_VERDICT).unwrap_or(text)].concat();
        let _ = rustix::net::send(daemon, &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Waits for a verdict.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if the starter has closed the socket, or the error of the
    /// system.
    pub(super) fn receive(starter: BorrowedFd<'_>) -> io::Result<Self> {
        let mut packet = [0; 1 + LONGEST_VERDICT];
        let (_, length) = rustix::net::recv(starter, &mut packet, RecvFlags::empty())?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match packet.get(..length) {
            Some([GOOD, program @ ..]) => Ok(Self::Good(text(program))),
            Some([BAD, reason @ ..]) => Ok(Self::Bad(text(reason))),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

const CHECK: u8 = b'c';
const CONTINUE: u8 = b'x';
const MASTER_KEYS: u8 = b'k';
const PEERS: u8 = b'p';
const ADMINISTRATORS: u8 = b'a';
const METRICS: u8 = b'm';
const GOOD: u8 = b'g';
const BAD: u8 = b'b';

/// Maximum length of an order, in bytes: a path (PATH_MAX of limits.h is 4,096), with the numbers
/// of its file.
const LONGEST_ORDER: usize = 4096 + 64;
/// Maximum length of the text of a verdict, in bytes.
const LONGEST_VERDICT: usize = 2000;

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn orders_arrive_as_they_were_sent() {
        let (daemon, starter) = pair();
        let socket = |role, bound_at: &str| {
            Order::Socket(HandedOver { listener: null(), role, bound_at: bound_at.into() })
        };
        let orders = [
            Order::Check,
            socket(Role::Peers, ""),
            socket(Role::Administrators, "1 2 /run/a b"),
            socket(Role::Metrics, "0 0 127.0.0.1:9463"),
            Order::MasterKeys(null()),
            Order::Continue,
        ];
        for order in &orders {
            order.send(daemon.as_fd()).unwrap();
        }
        for order in &orders {
            let Received::Order(received) = Order::receive(starter.as_fd()) else { panic!("{order:?}") };
            let ((sent, with), (received, came_with)) = (order.packet(), received.packet());
            assert_eq!((sent, with.is_some()), (received, came_with.is_some()));
        }
        assert!(matches!(Order::receive(starter.as_fd()), Received::Nothing));
        drop(daemon);
        // A child that another test has just forked has a copy of the socket until it runs its
        // program.
        poll(&mut [PollFd::new(&starter, PollFlags::IN)], None).unwrap();
        assert!(matches!(Order::receive(starter.as_fd()), Received::End));
    }

    #[test]
    fn anything_else_is_no_order() {
        for (packet, has_descriptor) in [
            (&b""[..], false),
            (b"z", false),
            (b"c", true),
            (b"c ", false),
            (b"x", true),
            (b"xx", false),
            (b"k", false),
            (b"k1", true),
            (b"p", false),
            (b"m", false),
            (b"p1 2 /run\n/x", true),
            (b"p1 2 /run\0/x", true),
            (b"a\xff", true),
        ] {
            let descriptor = has_descriptor.then(null);
            assert!(Order::parse(packet, descriptor).is_none(), "{packet:?}");
        }
        let (daemon, starter) = pair();
        rustix::net::send(&daemon, &[b'p'; LONGEST_ORDER + 1], SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(Order::receive(starter.as_fd()), Received::Unexpected));
        // Two descriptors.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let null = null();
        let descriptors = [null.as_fd(); 8];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        rustix::net::sendmsg(&daemon, &[IoSlice::new(b"k")], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(Order::receive(starter.as_fd()), Received::Unexpected));
    }

    #[test]
    fn a_verdict_is_bounded() {
        let (daemon, starter) = pair();
        Verdict::Good("/usr/bin/keyward".into()).send(starter.as_fd());
        Verdict::Bad("x".repeat(10 * LONGEST_VERDICT)).send(starter.as_fd());
        let receive = || Verdict::receive(daemon.as_fd());
        assert_eq!(receive().unwrap(), Verdict::Good("/usr/bin/keyward".into()));
        assert_eq!(receive().unwrap(), Verdict::Bad("x".repeat(LONGEST_VERDICT)));
        drop(starter);
        assert_eq!(receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
