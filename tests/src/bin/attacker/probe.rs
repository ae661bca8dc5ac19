//! A client that only wants signatures and measures their times; and clients that connect and hang
//! up.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use keyward_proto::frame;
use keyward_proto::message::{Outcome, Response};
use serde_json::{Value, json};

use crate::{Settings, request};

/// Requests signatures until the end.
pub(crate) fn run(settings: &Settings) -> Value {
    let request = request::bytes(settings);
    let reconnect = settings.text("reconnect") == Some("yes");
    let count = settings.number("count").unwrap_or(usize::MAX);
    let mut connection = None;
    let (mut latencies, mut outcomes, mut failed) = (Vec::new(), BTreeMap::<_, usize>::new(), 0);
    let mut reasons = Vec::new();
    println!("ready");
    while latencies.len() + failed < count && !settings.is_over() {
        let begin = Instant::now();
        match ask(settings, &mut connection, &request) {
            Ok(outcome) => {
                latencies.push(begin.elapsed());
                *outcomes.entry(outcome.name()).or_default() += 1;
            }
            Err(error) => {
                failed += 1;
                connection = None;
                reasons.push(error.to_string());
                // Tries again after a pause.
                thread::sleep(Duration::from_millis(1));
            }
        }
        if reconnect {
            connection = None;
            // A server connects now and then.
            thread::sleep(Duration::from_millis(1));
        }
    }
    latencies.sort();
    let rank = |share: f64| {
        let rank = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(rank).map(|latency| latency.as_secs_f64() * 1e3)
    };
    reasons.sort();
    reasons.dedup();
    json!({
        "count": latencies.len(),
        "failed": failed,
        "reasons": reasons,
        "outcomes": outcomes,
        "p50_ms": rank(0.5),
        "p99_ms": rank(0.99),
        "max_ms": rank(1.0),
    })
}

/// Connects and hangs up until the end.
pub(crate) fn churn(settings: &Settings) -> Value {
    let (socket, mut connects, mut failed) = (settings.socket(), 0, 0);
    println!("ready");
    while !settings.is_over() {
        match UnixStream::connect(&socket) {
            Ok(_) => connects += 1,
            Err(_) => failed += 1,
        }
    }
    json!({ "connects": connects, "connects_failed": failed })
}

/// Sends single bytes until the end.
pub(crate) fn drip(settings: &Settings) -> Value {
    let socket = settings.socket();
    let connect = || {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_nonblocking(true)?;
        // Short enough to need no memory that is counted, and never complete.
        stream.write_all(&LONG.to_be_bytes())?;
        io::Result::Ok((stream, 0))
    };
    let count = settings.number("connections").unwrap_or(1);
    let mut streams: Vec<_> = (0..count).map(|_| connect().ok()).collect();
    println!("ready");
    let (mut sent, mut failed) = (0_usize, 0_usize);
    while !settings.is_over() {
        for slot in &mut streams {
            match slot {
                Some((stream, written)) if *written + 1 < LONG => match stream.write(&[7]) {
                    Ok(_) => (sent, *written) = (sent + 1, *written + 1),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => failed += 1,
                    Err(_) => *slot = None,
                },
                _ => *slot = connect().ok(),
            }
        }
    }
    json!({ "sent": sent, "failed": failed })
}

/// Length of a frame just below the limit of long frames, in bytes.
const LONG: u32 = 4000;

fn ask(settings: &Settings, connection: &mut Option<UnixStream>, request: &[u8]) -> io::Result<Outcome> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = UnixStream::connect(settings.socket())?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            connection.insert(stream)
        }
    };
    stream.write_all(request)?;
    let mut header = [0; frame::HEADER];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; frame::body_length(header).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    let answer: Response = frame::decode(&body).map_err(io::Error::other)?;
    Ok(answer.outcome())
}

const PATIENCE: Duration = Duration::from_secs(5);
