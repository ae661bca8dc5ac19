//! SIGUSR2, by which the daemon becomes another program, and the way to the end that it has in
//! common with SIGTERM.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyward_proto::frame;
use keyward_proto::message::{GetStatus, Request, request};
use rustix::process::Signal;

use crate::fixture::Daemon;

/// Longest time that users may take who ask without end, or administrators who take their time.
const SOON: Duration = Duration::from_secs(3);

/// A user without a grant must not have others wait for the daemon.
#[test]
fn who_asks_without_end_does_not_keep_the_daemon_from_its_end() {
    let mut daemon = Daemon::production(&[]);
    for signal in [Signal::USR2, Signal::TERM] {
        let streams: Vec<_> = (0..16).map(|_| daemon.connect()).collect();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for (number, stream) in streams.iter().enumerate() {
                let is_over = &is_over;
                // Some take their answers.
                scope.spawn(move || flood(stream, is_over, number % 2 == 0));
            }
            // So that all of them are under way.
            daemon.client().status().unwrap();
            let began = Instant::now();
            match signal {
                Signal::TERM => assert!(daemon.end(signal).success()),
                _ => {
                    daemon.signal(signal);
                    daemon.await_ready();
                }
            }
            let took = began.elapsed();
            is_over.store(true, Ordering::Relaxed);
            assert!(took < SOON, "{signal:?}: {took:?}");
        });
    }
    assert!(!daemon.log().contains("unanswered"), "{}", daemon.log());
}

/// Asks for the status again and again, and perhaps takes the answers.
fn flood(mut stream: &UnixStream, is_over: &AtomicBool, takes: bool) {
    let body = Some(request::Body::GetStatus(GetStatus {}));
    let ask = frame::encode(&Request { id: 1, body, ..Request::default() }).unwrap();
    let asks = ask.repeat(4096 / ask.len());
    stream.set_nonblocking(true).unwrap();
    // The part of a frame that did not fit comes first.
    let (mut at, mut answers) = (0, [0; 64 * 1024]);
    let would_block = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    while !is_over.load(Ordering::Relaxed) {
        match stream.write(&asks[at..]) {
            Ok(count) => at = (at + count) % asks.len(),
            Err(error) if would_block(&error) => thread::yield_now(),
            Err(_) => return,
        }
        while takes {
            match stream.read(&mut answers) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if would_block(&error) => break,
                Err(_) => return,
            }
        }
    }
}
