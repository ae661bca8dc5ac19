//! tokio servers that continue with other work while a unit makes a signature.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use keyward_rustls::handshake::Acceptor;
use keyward_tests::server::Site;
use keyward_tests::{Daemon, Handshake, Load, Pki};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Time that a unit takes for a signature.
const LATENCY: &str = "20ms";

#[test]
fn slow_signatures_leave_a_runtime_of_two_threads_to_others() {
    others_go_on(Builder::new_multi_thread().worker_threads(2), Kind::OfKeyward, None);
}

#[test]
fn slow_signatures_leave_a_runtime_whoever_makes_the_handshakes() {
    others_go_on(Builder::new_multi_thread().worker_threads(2), Kind::OfTokioRustls, None);
}

#[test]
fn slow_signatures_leave_a_runtime_of_one_thread_to_others() {
    let handshakes = Builder::new_multi_thread().enable_all().build().unwrap();
    others_go_on(&mut Builder::new_current_thread(), Kind::OfKeyward, Some(handshakes.handle()));
}

/// tokio panics if code blocks in place on these threads.
#[test]
fn slow_signatures_succeed_where_nothing_may_block_in_place() {
    let daemon = Daemon::start_slow(LATENCY);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let threads = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let thread = Builder::new_current_thread().enable_all().build().unwrap();
    for (runtime, kind) in [
        (&threads, Kind::OfKeyward),
        (&threads, Kind::OfTokioRustls),
        (&thread, Kind::OfKeyward),
        (&thread, Kind::OfTokioRustls),
    ] {
        let acceptor = AnyAcceptor::new(&daemon, &pki, kind);
        for is_local in [true, false] {
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let handshake = Handshake::new(&pki, listener.local_addr().unwrap());
            let acceptor = acceptor.clone();
            // From the second signature on, the key is known to be slow.
            let clients = thread::spawn(move || (0..3).try_for_each(|_| handshake.make().map(drop)));
            let serving = async move {
                for _ in 0..3 {
                    let (stream, _) = listener.accept().await.unwrap();
                    serve(stream, acceptor.clone()).await;
                }
            };
            if is_local {
                let local = async { spawn_local(serving).await.unwrap() };
                LocalSet::new().block_on(runtime, local);
            } else {
                runtime.block_on(serving);
            }
            clients.join().unwrap().unwrap();
        }
    }
}

/// Two hundred handshakes are always in progress, of clients far away that have all come at once. A
/// client nearby sends bytes and wants each byte back.
///
/// Threads that waited for the signatures would make only fifty handshakes a second each.
///
/// The acceptor makes the handshakes on the runtime `handshakes`, if there is one.
fn others_go_on(runtime: &mut Builder, kind: Kind, handshakes: Option<&Handle>) {
    // Parallel tests would slow each other down.
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let _turn = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::start_slow(LATENCY);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let mut acceptor = AnyAcceptor::new(&daemon, &pki, kind);
    if let Some(handshakes) = handshakes {
        acceptor = acceptor.with_runtime(handshakes);
    }
    let runtime = runtime.enable_all().build().unwrap();
    let (tls, echo) = runtime.block_on(async {
        let [tls, echo] = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
        let (tls, echo) = (tls.unwrap(), echo.unwrap());
        let addresses = (tls.local_addr().unwrap(), echo.local_addr().unwrap());
        tokio::spawn(shake_hands(tls, acceptor));
        tokio::spawn(give_back(echo));
        addresses
    });
    let (end, ended) = tokio::sync::oneshot::channel();
    let server = thread::spawn(move || runtime.block_on(ended).unwrap());

    let handshake = Handshake::new(&pki, tls);
    handshake.make().unwrap();
    let load = Load::start(&handshake.from_far(Duration::from_millis(300)), 200);
    let times = round_trips(echo, Duration::from_secs(3));
    let attempts = load.stop();
    end.send(()).unwrap();
    server.join().unwrap();
    let failed: Vec<_> = attempts.iter().filter(|attempt| attempt.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), attempts.len(), failed[0]);
    let [median, p99] = [50, 99].map(|percent| times[times.len() * percent / 100]);
    println!("{} handshakes, {} round trips: median {median:?}, p99 {p99:?}", attempts.len(), times.len());
    assert!(attempts.len() > 500, "only {} handshakes", attempts.len());
    assert!(p99 < Duration::from_millis(5), "p99 {p99:?}");
}

/// Library whose acceptor makes the handshakes.
#[derive(Clone, Copy)]
enum Kind {
    OfKeyward,
    OfTokioRustls,
}

#[derive(Clone)]
enum AnyAcceptor {
    OfKeyward(Acceptor),
    OfTokioRustls(TlsAcceptor),
}

impl AnyAcceptor {
    fn new(daemon: &Daemon, pki: &Pki, kind: Kind) -> Self {
        let configuration = configuration(daemon, pki);
        match kind {
            Kind::OfKeyward => Self::OfKeyward(Acceptor::new(configuration)),
            Kind::OfTokioRustls => Self::OfTokioRustls(configuration.into()),
        }
    }

    fn with_runtime(self, runtime: &Handle) -> Self {
        match self {
            Self::OfKeyward(acceptor) => Self::OfKeyward(acceptor.with_runtime(runtime.clone())),
            Self::OfTokioRustls(_) => panic!("the acceptor of tokio-rustls takes no runtime"),
        }
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        match self {
            Self::OfKeyward(acceptor) => acceptor.accept(stream).await,
            Self::OfTokioRustls(acceptor) => acceptor.accept(stream).await,
        }
    }
}

fn configuration(daemon: &Daemon, pki: &Pki) -> Arc<ServerConfig> {
    let key = daemon.key_for_rustls(&Site::with_key(daemon, pki, "shop"));
    let mut configuration = ServerConfig::builder().with_no_client_auth().with_cert_resolver(key);
    configuration.send_tls13_tickets = 0;
    configuration.into()
}

async fn shake_hands(listener: TcpListener, acceptor: AnyAcceptor) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(serve(stream, acceptor.clone()));
    }
}

async fn serve(stream: TcpStream, acceptor: AnyAcceptor) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    let mut request = [0; 64];
    let _ = stream.read(&mut request).await;
    let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
    let _ = stream.shutdown().await;
}

async fn give_back(listener: TcpListener) {
    let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
    stream.set_nodelay(true).unwrap();
    while let Ok(byte) = stream.read_u8().await {
        stream.write_u8(byte).await.unwrap();
    }
}

/// Times until bytes came back, the longest time last.
fn round_trips(address: SocketAddr, time: Duration) -> Vec<Duration> {
    let mut stream = StdTcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let end = Instant::now() + time;
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        stream.write_all(&[7]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        times.push(began.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    times.sort_unstable();
    times
}
