//! A TCP proxy on loopback that delays, loses, damages and cuts the bytes that pass through it.
//!
//! A single thread does all work. So a fault is in force on every connection when [`Proxy::set`]
//! returns.

mod link;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::free_port;
use crate::tool::wait_for;
use link::{Fate, Link, reset};

/// Treatment that a [`Proxy`] gives its connections, present and future.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Nothing: bytes and ends of streams pass both ways.
    None,
    /// Bytes to clients arrive this much later. Throughput stays the same, because many bytes can
    /// be on their way at a time.
    Delay(Duration),
    /// A black hole: connections are accepted, bytes are swallowed, and there is no answer. A
    /// connection that was made during the fault, or lost bytes, stays silent for good. An idle
    /// connection works again after the fault.
    Drop,
    /// Connections are reset, new connections as soon as they are accepted.
    Reset,
    /// Connections are reset, and new connections are refused.
    Refuse,
    /// A bit in the middle of every chunk to clients is flipped.
    Corrupt,
}

/// A proxy on a port of loopback, which it keeps until it is dropped. If a connection breaks on one
/// side, or the server is gone, the other side is reset.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: Sender<Order>,
    /// A byte sent here wakes the thread to read its orders.
    bell: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy without a fault.
    pub fn start(upstream: SocketAddr) -> Self {
        let port = free_port();
        let (orders, taken) = mpsc::channel();
        let (bell, rung) = UnixStream::pair().expect("a pair of sockets");
        rung.set_nonblocking(true).expect("O_NONBLOCK");
        let relay = Relay {
            port,
            listener: Some(open(reserve(port))),
            reserved: None,
            upstream,
            fault: Fault::None,
            links: Vec::new(),
            orders: taken,
            bell: rung,
        };
        let thread = std::thread::spawn(|| relay.run());
        Self { port, orders, bell, thread: Some(thread) }
    }

    /// Address of the listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Address of the listener, by the name in the certificates of servers.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Puts a fault in force instead of the previous fault.
    pub fn set(&self, fault: Fault) {
        self.order(What::Set(fault));
    }

    /// Sends new connections to another server: a restarted server may have another port.
    pub fn retarget(&self, upstream: SocketAddr) {
        self.order(What::Retarget(upstream));
    }

    fn order(&self, what: What) {
        let (done, wait) = mpsc::channel();
        self.orders.send(Order { what, done }).expect("the thread of a proxy");
        (&self.bell).write_all(&[0]).expect("the thread of a proxy");
        wait.recv().expect("the thread of a proxy");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread ends when the last proxy that can send orders is gone.
        self.orders = mpsc::channel().0;
        let _ = (&self.bell).write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Order {
    what: What,
    /// Informed when the order is in force.
    done: Sender<()>,
}

#[derive(Debug)]
enum What {
    Set(Fault),
    Retarget(SocketAddr),
}

/// The side of a proxy that is its thread.
struct Relay {
    port: u16,
    listener: Option<TcpListener>,
    /// Keeps the port while there is no listener: connections to it are refused.
    reserved: Option<OwnedFd>,
    upstream: SocketAddr,
    fault: Fault,
    links: Vec<Link>,
    orders: Receiver<Order>,
    bell: UnixStream,
}

impl Relay {
    fn run(mut self) {
        loop {
            self.accept();
            self.links.retain_mut(|link| match link.serve(self.fault) {
                Fate::Alive => true,
                Fate::Over => false,
                Fate::Broken => {
                    link.reset();
                    false
                }
            });
            self.wait();
            if !self.obey() {
                return;
            }
        }
    }

    /// Accepts the clients that wait.
    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        while let Ok((client, _)) = listener.accept() {
            match self.fault {
                Fault::Reset | Fault::Refuse => reset(&client),
                Fault::Drop => self.links.extend(Link::silent(client)),
                Fault::None | Fault::Delay(_) | Fault::Corrupt => {
                    self.links.extend(Link::open(client, self.upstream));
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let now = Instant::now();
        let mut wanted: Vec<(BorrowedFd<'_>, PollFlags)> = vec![(self.bell.as_fd(), PollFlags::IN)];
        wanted.extend(self.listener.iter().map(|listener| (listener.as_fd(), PollFlags::IN)));
        wanted.extend(self.links.iter().flat_map(|link| link.wants(now)));
        // A socket without events to wait for is left out, because poll would report its end again
        // and again.
        let mut wanted: Vec<_> = wanted
            .into_iter()
            .filter(|(_, flags)| !flags.is_empty())
            .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        let due = self.links.iter().filter_map(|link| link.next_due(now)).min();
        let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
        let patience = patience.map(|patience| Timespec::try_from(patience).expect("a short time"));
        // An interruption only costs another round.
        let _ = poll(&mut wanted, patience.as_ref());
    }

    /// Carries out the orders. Returns true while there is a proxy that can send orders.
    fn obey(&mut self) -> bool {
        while self.bell.read(&mut [0; 64]).is_ok_and(|got| got > 0) {}
        loop {
            match self.orders.try_recv() {
                Ok(order) => {
                    // The previous order applies to clients that came before the new order.
                    self.accept();
                    match order.what {
                        What::Set(fault) => self.set(fault),
                        What::Retarget(upstream) => self.upstream = upstream,
                    }
                    let _ = order.done.send(());
                }
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn set(&mut self, fault: Fault) {
        match fault {
            Fault::Reset | Fault::Refuse => self.links.drain(..).for_each(|link| link.reset()),
            Fault::Drop => self.links.iter_mut().for_each(Link::lose_what_is_under_way),
            Fault::None | Fault::Delay(_) | Fault::Corrupt => {}
        }
        if fault == Fault::Refuse {
            self.listener = None;
            self.reserved.get_or_insert_with(|| reserve(self.port));
        } else if let Some(socket) = self.reserved.take() {
            self.listener = Some(open(socket));
        }
        self.fault = fault;
    }
}

/// A socket that is bound to a port of loopback and does not listen.
fn reserve(port: u16) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).expect("a socket");
    sockopt::set_socket_reuseaddr(&socket, true).expect("SO_REUSEADDR");
    // A process that another thread is just starting holds a copy of a closed listener, until it
    // executes its program (execve(2)).
    wait_for(&format!("port {port} of a proxy"), || {
        bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()
    });
    socket
}

fn open(socket: OwnedFd) -> TcpListener {
    listen(&socket, 128).expect("a listener");
    socket.into()
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::net::{Shutdown, TcpStream};

    use super::*;

    /// A server that sends back what it gets, as long as the process lives.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends a text and returns the answer.
    fn ask(stream: &TcpStream, text: &str) -> io::Result<Vec<u8>> {
        (&*stream).write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        (&*stream).read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Sends a text, and asserts that there is no answer.
    fn ask_in_vain(stream: &TcpStream) {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(ask(stream, "lost").unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    fn assert_reset(stream: &TcpStream) {
        assert_eq!((&*stream).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let proxy = Proxy::start(echo());
        let stream = connect(&proxy).unwrap();
        let sent: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut got = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(&sent).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            (&stream).read_to_end(&mut got).unwrap();
        });
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }

    #[test]
    fn delayed_answers_are_late_and_no_fewer() {
        let proxy = Proxy::start(echo());
        let late = Duration::from_millis(100);
        proxy.set(Fault::Delay(late));
        let stream = connect(&proxy).unwrap();
        for _ in 0..2 {
            let asked = Instant::now();
            assert_eq!(ask(&stream, "question").unwrap(), b"question");
            assert!(asked.elapsed() >= late);
        }
        // At least a hundred chunks, which would take seconds one after the other.
        let sent = vec![b'x'; 8_000_000];
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| (&stream).write_all(&sent).unwrap());
            (&stream).read_exact(&mut vec![0; sent.len()]).unwrap();
        });
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        proxy.set(Fault::None);
        // The median, because one of them may have waited for a processor.
        let mut took = [(); 5].map(|()| {
            let asked = Instant::now();
            assert_eq!(ask(&stream, "question").unwrap(), b"question");
            asked.elapsed()
        });
        took.sort_unstable();
        assert!(took[2] < late, "{took:?}");
    }

    #[test]
    fn a_black_hole_answers_nothing() {
        let proxy = Proxy::start(echo());
        let [asking, idle] = [(); 2].map(|()| connect(&proxy).unwrap());
        for stream in [&asking, &idle] {
            assert_eq!(ask(stream, "question").unwrap(), b"question");
        }
        proxy.set(Fault::Drop);
        let new = connect(&proxy).unwrap();
        ask_in_vain(&asking);
        ask_in_vain(&new);
        proxy.set(Fault::None);
        ask_in_vain(&asking);
        ask_in_vain(&new);
        assert_eq!(ask(&idle, "question").unwrap(), b"question");
        assert_eq!(ask(&connect(&proxy).unwrap(), "question").unwrap(), b"question");
    }

    #[test]
    fn a_black_hole_swallows_what_is_under_way() {
        let proxy = Proxy::start(echo());
        proxy.set(Fault::Delay(Duration::from_millis(20)));
        let stream = connect(&proxy).unwrap();
        ask(&stream, "question").unwrap();
        (&stream).write_all(b"another").unwrap();
        proxy.set(Fault::Drop);
        ask_in_vain(&stream);
    }

    #[test]
    fn connections_are_reset() {
        let proxy = Proxy::start(echo());
        let stream = connect(&proxy).unwrap();
        ask(&stream, "question").unwrap();
        proxy.set(Fault::Reset);
        assert_reset(&stream);
        assert_reset(&connect(&proxy).unwrap());
        proxy.set(Fault::None);
        assert_eq!(ask(&connect(&proxy).unwrap(), "question").unwrap(), b"question");
    }

    #[test]
    fn connections_are_refused_until_the_port_is_open_again() {
        let proxy = Proxy::start(echo());
        let stream = connect(&proxy).unwrap();
        ask(&stream, "question").unwrap();
        for _ in 0..2 {
            proxy.set(Fault::Refuse);
            assert_eq!(connect(&proxy).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        assert_reset(&stream);
        proxy.set(Fault::None);
        assert_eq!(ask(&connect(&proxy).unwrap(), "question").unwrap(), b"question");
    }

    #[test]
    fn one_bit_is_flipped() {
        let proxy = Proxy::start(echo());
        proxy.set(Fault::Corrupt);
        let stream = connect(&proxy).unwrap();
        assert_eq!(ask(&stream, "aaaaa").unwrap(), b"aa`aa");
        proxy.set(Fault::None);
        assert_eq!(ask(&stream, "aaaaa").unwrap(), b"aaaaa");
    }

    #[test]
    fn a_server_may_go_and_come_back_elsewhere() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start(gone.local_addr().unwrap());
        let stream = connect(&proxy).unwrap();
        drop(gone.accept().unwrap());
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0, "its end is passed on");
        drop(gone);
        assert_reset(&connect(&proxy).unwrap());
        proxy.retarget(echo());
        assert_eq!(ask(&connect(&proxy).unwrap(), "question").unwrap(), b"question");
    }

    #[test]
    fn everything_ends_with_the_proxy() {
        let proxy = Proxy::start(echo());
        let stream = connect(&proxy).unwrap();
        ask(&stream, "question").unwrap();
        let port = proxy.port();
        drop(proxy);
        assert_eq!((&stream).read(&mut [0]).unwrap(), 0);
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
