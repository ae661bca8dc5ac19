//! Many connections with many requests on each, as fast as the daemon takes them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use keyward_proto::frame;
use keyward_proto::message::{Outcome, Response};
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{Settings, request};

/// Floods the daemon, or an [`echo`], until the end.
pub(crate) fn run(settings: &Settings, socket: PathBuf) -> Value {
    let threads = settings.number("threads").unwrap_or(1);
    let connections = settings.number("connections").unwrap_or(1);
    let begin = Instant::now();
    let started = Barrier::new(threads + 1);
    let seen = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                let share = (connections + thread) / threads;
                let (socket, started) = (socket.as_path(), &started);
                scope.spawn(move || {
                    let mut flood = Flood::new(settings, socket, begin);
                    flood.open(share);
                    started.wait();
                    flood.go_on()
                })
            })
            .collect();
        started.wait();
        println!("ready");
        all.into_iter().map(|thread| thread.join().expect("a thread")).fold(Seen::default(), Seen::and)
    });
    let time = clock_gettime(ClockId::ProcessCPUTime);
    json!({
        "seconds": begin.elapsed().as_secs_f64(),
        "cpu_seconds": time.tv_sec as f64 + time.tv_nsec as f64 / 1e9,
        "open": seen.open,
        "most_open": seen.most_open,
        "closed": seen.closed,
        "first_closed_after": seen.first_closed.map(|time| time.as_secs_f64()),
        "connects_failed": seen.failed,
        "bytes_sent": seen.sent,
        "outcomes": seen.outcomes,
        "last_after": seen.last,
        "most_overloaded_in_a_second": seen.most_overloaded(),
    })
}

/// A replacement of the daemon in this process, which answers each frame at once.
pub(crate) fn echo() -> PathBuf {
    let name = format!("attacker-{}", std::process::id());
    let listener =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).expect("a socket");
    thread::spawn(move || {
        let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&events, &listener, epoll::EventData::new_u64(u64::MAX), epoll::EventFlags::IN).unwrap();
        let answer =
            frame::encode(&Response { id: 1, outcome: Outcome::Overloaded.into(), body: None }).unwrap();
        let mut peers: Vec<(UnixStream, Vec<u8>)> = Vec::new();
        let mut ready = Vec::with_capacity(256);
        let mut buffer = vec![0; 65536];
        loop {
            ready.clear();
            let _ = epoll::wait(&events, rustix::buffer::spare_capacity(&mut ready), None);
            for event in &ready {
                let Some((stream, input)) = peers.get_mut(event.data.u64() as usize) else {
                    let (stream, _) = listener.accept().unwrap();
                    let number = epoll::EventData::new_u64(peers.len() as u64);
                    epoll::add(&events, &stream, number, epoll::EventFlags::IN).unwrap();
                    peers.push((stream, Vec::new()));
                    continue;
                };
                let read = stream.read(&mut buffer).unwrap_or(0);
                if read == 0 {
                    let _ = epoll::delete(&events, &*stream);
                }
                input.extend_from_slice(&buffer[..read]);
                let mut used = 0;
                while let Ok(Some((_, length))) = frame::split(&input[used..]) {
                    used += length;
                    let _ = stream.write_all(&answer);
                }
                input.drain(..used);
            }
        }
    });
    // The usual notation of an abstract name.
    PathBuf::from(format!("@{name}"))
}

/// The connections of one thread.
struct Flood<'a> {
    settings: &'a Settings,
    socket: &'a Path,
    /// The request, repeated as many times as requests may be in progress.
    requests: Vec<u8>,
    length: usize,
    in_flight: usize,
    count: Option<usize>,
    is_answered: bool,
    reopen: bool,
    events: OwnedFd,
    connections: Vec<Connection>,
    begin: Instant,
    seen: Seen,
}

/// A connection, open or closed.
struct Connection {
    stream: Option<UnixStream>,
    opened: Instant,
    /// Time to open the connection again.
    retry: Option<Instant>,
    input: Vec<u8>,
    /// Requests without an answer, sent or waiting to be sent.
    in_flight: usize,
    /// Requests of the whole life of the connection.
    begun: usize,
    /// Bytes of requests that wait to be sent.
    owed: usize,
    /// Position of the next byte in the requests.
    position: usize,
}

impl<'a> Flood<'a> {
    fn new(settings: &'a Settings, socket: &'a Path, begin: Instant) -> Self {
        let in_flight = settings.number("in-flight").unwrap_or(0);
        let request = request::bytes(settings);
        Self {
            settings,
            socket,
            length: request.len(),
            requests: request.repeat(in_flight.max(1)),
            in_flight,
            count: settings.number("count"),
            is_answered: !matches!(settings.text("request"), Some("half" | "garbage")),
            reopen: settings.text("reopen") == Some("yes"),
            events: epoll::create(epoll::CreateFlags::CLOEXEC).unwrap(),
            connections: Vec::new(),
            begin,
            seen: Seen::default(),
        }
    }

    fn open(&mut self, connections: usize) {
        for number in 0..connections {
            self.connections.push(Connection {
                stream: None,
                opened: Instant::now(),
                retry: None,
                input: Vec::new(),
                in_flight: 0,
                begun: 0,
                owed: 0,
                position: 0,
            });
            // The queue of the listener may be full for a moment.
            let patience = Instant::now() + Duration::from_millis(100);
            while !self.connect(number) && Instant::now() < patience {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn go_on(mut self) -> Seen {
        let mut ready = Vec::with_capacity(256);
        while !self.settings.is_over() && !self.is_done() {
            ready.clear();
            let tick = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            let _ = epoll::wait(&self.events, rustix::buffer::spare_capacity(&mut ready), Some(&tick));
            for event in &ready {
                self.serve(event.data.u64() as usize);
            }
            if self.reopen {
                let now = Instant::now();
                for number in 0..self.connections.len() {
                    if self.connections[number].retry.is_some_and(|at| at <= now) {
                        self.connect(number);
                    }
                }
            }
        }
        self.seen.open = self.connections.iter().filter(|connection| connection.stream.is_some()).count();
        self.seen
    }

    fn is_done(&self) -> bool {
        let Some(count) = self.count else { return false };
        self.connections.iter().all(|one| one.stream.is_none() || one.begun == count && one.in_flight == 0)
    }

    /// Opens a connection and sends the waiting bytes.
    fn connect(&mut self, number: usize) -> bool {
        let connection = &mut self.connections[number];
        connection.retry = None;
        let Some(stream) = connect_now(self.socket) else {
            self.seen.failed += 1;
            connection.retry = Some(retry(number));
            return false;
        };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.events, &stream, epoll::EventData::new_u64(number as u64), flags).unwrap();
        *connection = Connection {
            stream: Some(stream),
            opened: Instant::now(),
            input: std::mem::take(&mut connection.input),
            in_flight: 0,
            begun: 0,
            owed: 0,
            position: 0,
            retry: None,
        };
        connection.input.clear();
        let open = self.connections.iter().filter(|connection| connection.stream.is_some()).count();
        self.seen.most_open = self.seen.most_open.max(open);
        self.serve(number);
        true
    }

    /// Reads the bytes that have arrived, and sends as many bytes as the socket takes.
    fn serve(&mut self, number: usize) {
        if self.receive(number).is_none() || self.send(number).is_none() {
            let connection = &mut self.connections[number];
            if connection.stream.take().is_some() {
                self.seen.closed += 1;
                let age = connection.opened.elapsed();
                self.seen.first_closed = Some(self.seen.first_closed.map_or(age, |first| first.min(age)));
                connection.retry = Some(retry(number));
            }
        }
    }

    fn receive(&mut self, number: usize) -> Option<()> {
        let connection = &mut self.connections[number];
        let mut buffer = [0; 16384];
        loop {
            match connection.stream.as_ref()?.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => connection.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        let mut used = 0;
        while let Some((body, length)) =
            frame::split(&connection.input[used..]).expect("a frame of the daemon")
        {
            used += length;
            let answer: Response = frame::decode(body).expect("an answer of the daemon");
            connection.in_flight -= 1;
            self.seen.answered(answer.outcome(), self.begin.elapsed());
        }
        connection.input.drain(..used);
        Some(())
    }

    fn send(&mut self, number: usize) -> Option<()> {
        let connection = &mut self.connections[number];
        let most = match self.count {
            None => self.in_flight.saturating_sub(connection.in_flight),
            Some(count) => (self.in_flight - connection.in_flight).min(count - connection.begun),
        };
        // Requests of other kinds have no answer, so one round is enough.
        let new = if self.is_answered || connection.begun == 0 { most } else { 0 };
        connection.in_flight += new;
        connection.begun += new;
        connection.owed += new * self.length;
        while connection.owed > 0 {
            let piece = &self.requests[connection.position..];
            match connection.stream.as_ref()?.write(&piece[..piece.len().min(connection.owed)]) {
                Ok(sent) => {
                    connection.owed -= sent;
                    connection.position = (connection.position + sent) % self.requests.len();
                    self.seen.sent += sent;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}

/// Connects without waiting for a place in the queue of the listener.
fn connect_now(path: &Path) -> Option<UnixStream> {
    let text = path.to_str().expect("a path in UTF-8");
    let address = match text.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(path),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &address.expect("an address")).ok()?;
    Some(socket.into())
}

/// Result of the request.
#[derive(Default)]
struct Seen {
    outcomes: BTreeMap<&'static str, usize>,
    /// The last answer with each outcome, in seconds since the begin.
    last: BTreeMap<&'static str, f64>,
    /// Counts for each tenth of a second.
    overloaded: Vec<usize>,
    open: usize,
    most_open: usize,
    closed: usize,
    first_closed: Option<Duration>,
    failed: usize,
    sent: usize,
}

impl Seen {
    fn answered(&mut self, outcome: Outcome, time: Duration) {
        *self.outcomes.entry(outcome.name()).or_default() += 1;
        self.last.insert(outcome.name(), time.as_secs_f64());
        if outcome == Outcome::Overloaded {
            let tenth = (time.as_millis() / 100) as usize;
            self.overloaded.resize(self.overloaded.len().max(tenth + 1), 0);
            self.overloaded[tenth] += 1;
        }
    }

    fn most_overloaded(&self) -> usize {
        let whole = self.overloaded.windows(10).map(|second| second.iter().sum()).max();
        whole.unwrap_or_else(|| self.overloaded.iter().sum())
    }

    fn and(mut self, other: Self) -> Self {
        for (outcome, count) in other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        for (outcome, time) in other.last {
            let last = self.last.entry(outcome).or_default();
            *last = last.max(time);
        }
        self.overloaded.resize(self.overloaded.len().max(other.overloaded.len()), 0);
        for (sum, count) in self.overloaded.iter_mut().zip(other.overloaded) {
            *sum += count;
        }
        Self {
            open: self.open + other.open,
            most_open: self.most_open + other.most_open,
            closed: self.closed + other.closed,
            first_closed: self.first_closed.into_iter().chain(other.first_closed).min(),
            failed: self.failed + other.failed,
            sent: self.sent + other.sent,
            ..self
        }
    }
}

/// Time of the next attempt after a refused or closed connection: after one to two seconds,
/// different for each connection. [`crate::probe::churn`] is faster.
fn retry(number: usize) -> Instant {
    Instant::now() + Duration::from_millis(1000 + (number as u64 * 7919) % 1000)
}
