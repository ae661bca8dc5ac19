//! Connections beyond the limit: silent, half open, idle, with and without a token.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;
use tonic::Code;

use super::client::Client;
use super::{FIRST, MOMENT, OVER_LIMIT, SECOND, Scene, runtime};

#[test]
fn silent_connections_keep_nobody_out() {
    for tls in [false, true] {
        let scene = Scene::new(tls);
        let known = runtime();
        let mut client = known.block_on(scene.connect(FIRST)).unwrap();
        known.block_on(client.list()).unwrap();
        let _silent = Silent::open(scene.address(), OVER_LIMIT, b"");
        scene.newcomers_get_through();
        // The connection of an active client stays open too.
        known.block_on(client.list()).unwrap();
    }
}

#[test]
fn handshakes_that_stop_half_way_keep_nobody_out() {
    // The preface of HTTP/2 without its last byte (RFC 9113, 3.4).
    let scene = Scene::new(false);
    let _half = Silent::open(scene.address(), OVER_LIMIT, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r");
    scene.newcomers_get_through();

    // The first bytes of a TLS record with a ClientHello of 512 bytes (RFC 8446, 4 and 5.1).
    let scene = Scene::new(true);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    let _half = Silent::open(scene.address(), OVER_LIMIT, hello);
    scene.newcomers_get_through();
}

#[test]
fn connections_without_a_token_keep_nobody_out() {
    let scene = Scene::new(true);
    let strangers = Runtime::new().unwrap();
    let open: Vec<Client> = strangers.block_on(async {
        let mut open = Vec::new();
        for _ in 0..OVER_LIMIT {
            let mut stranger = scene.connect("0123456789abcdef-unknown").await.unwrap();
            let refused = stranger.list().await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
            open.push(stranger);
        }
        open
    });
    scene.newcomers_get_through();
    drop(open);
}

#[test]
fn idle_connections_of_one_client_keep_neither_others_nor_itself_out() {
    let scene = Scene::new(false);
    let hoarder = Runtime::new().unwrap();
    let open: Vec<Client> = hoarder.block_on(async {
        let mut open = Vec::new();
        for _ in 0..OVER_LIMIT {
            let mut client = scene.connect(FIRST).await.unwrap();
            client.list().await.unwrap();
            open.push(client);
        }
        open
    });
    scene.newcomers_get_through();
    let own = scene.newcomer(FIRST);
    assert!(own < MOMENT, "{own:?}");
    drop(open);
}

#[test]
fn as_many_clients_as_there_are_places_keep_no_other_out() {
    let tokens: Vec<String> = (0..OVER_LIMIT).map(|number| format!("0123456789abcdef-{number:04}")).collect();
    let mut known: Vec<&str> = tokens.iter().map(String::as_str).collect();
    known.push(SECOND);
    let scene = Scene::with_tokens(false, &known);
    let clients = Runtime::new().unwrap();
    let open: Vec<Client> = clients.block_on(async {
        let mut open = Vec::new();
        for token in &tokens {
            let mut client = scene.connect(token).await.unwrap();
            client.list().await.unwrap_or_else(|refused| panic!("client {}: {refused:?}", open.len()));
            open.push(client);
        }
        open
    });
    scene.newcomers_get_through();
    drop(open);
}

/// Connections that send some bytes and then nothing. A thread opens a new connection for each
/// closed connection.
struct Silent {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<usize>>,
}

impl Silent {
    fn open(address: SocketAddr, number: usize, bytes: &'static [u8]) -> Self {
        let connect = move || {
            let mut stream = TcpStream::connect(address).ok()?;
            stream.write_all(bytes).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(stream)
        };
        let mut streams: Vec<_> = (0..number).map(|_| connect()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut again = 0;
            while !stopped.load(Ordering::Relaxed) {
                for stream in &mut streams {
                    if !stream.as_mut().is_some_and(is_open) {
                        *stream = connect();
                        again += 1;
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
            again
        });
        Self { stop, thread: Some(thread) }
    }
}

/// True if the other side has not closed the connection. Bytes that it has sent are discarded.
fn is_open(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 256]) {
        Ok(length) => length > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let again = self.thread.take().map(thread::JoinHandle::join);
        println!("opened again: {again:?}");
    }
}
