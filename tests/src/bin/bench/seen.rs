//! A server under load whose keys are at a remote unit: the times of its clients, and the CPU time
//! of the machine.

use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::{Daemon, Load, UnitServer};
use serde_json::{Value, json};

use super::{cpu_time, percentiles};

/// Measurements of a server under load.
pub(super) struct Seen {
    /// Average time of a call of the unit, in seconds.
    pub(super) call: f64,
    /// Handshakes per second.
    pub(super) rate: f64,
    /// Times of the handshakes.
    pub(super) latencies: Vec<Duration>,
    /// The share of the time of all processors that these handshakes took, including the clients.
    pub(super) busy: f64,
    /// The share of the time of one processor that the processes of the server took.
    pub(super) of_server: f64,
}

impl Seen {
    /// The measurements, with the percentiles of the times in milliseconds.
    pub(super) fn json(&self) -> Value {
        let Self { call, rate, latencies, busy, of_server } = self;
        json!({
            "call_ms": call * 1e3,
            "handshakes/s": rate,
            "handshake_ms": percentiles(latencies),
            "busy": busy,
            "of_server": of_server,
        })
    }

    /// Observes a load on a server for a while. The server has these working processes.
    pub(super) fn of(daemon: &Daemon, unit: &UnitServer, server: &[u32], load: Load, time: Duration) -> Self {
        thread::sleep(LEAD);
        let (before, begin) = (Counters::now(daemon, unit, server), Instant::now());
        thread::sleep(time);
        let (after, end) = (Counters::now(daemon, unit, server), Instant::now());
        let attempts = load.stop();
        if let Some(error) = attempts.iter().find_map(|attempt| attempt.result.as_ref().err()) {
            panic!("a handshake failed: {error}");
        }
        let meanwhile = attempts.iter().filter(|attempt| (begin..end).contains(&attempt.ended));
        let latencies: Vec<_> = meanwhile.map(|attempt| attempt.ended - attempt.began).collect();
        Self {
            call: (after.called - before.called) / (after.calls - before.calls),
            rate: latencies.len() as f64 / (end - begin).as_secs_f64(),
            latencies,
            of_server: (after.of_server - before.of_server) / (end - begin).as_secs_f64(),
            busy: (after.at_work - before.at_work) / (end - begin).as_secs_f64() / processors() as f64,
        }
    }
}

/// Counts since the start of each process.
struct Counters {
    /// Signatures of units.
    calls: f64,
    /// Time of these signatures, in seconds.
    called: f64,
    /// CPU time of the unit, the daemon, the server, and the clients, in seconds.
    at_work: f64,
    /// CPU time of the server, in seconds.
    of_server: f64,
}

impl Counters {
    fn now(daemon: &Daemon, unit: &UnitServer, server: &[u32]) -> Self {
        let metric =
            |name: &str, phase| daemon.metric(&format!("keyward_signature_seconds_{name}"), &[phase]);
        let [at_unit, network] = ["phase=\"unit\"", "phase=\"network\""];
        let seconds = |processes: &[u32]| processes.iter().copied().map(cpu_time).sum::<f64>() / 1e6;
        let of_server = seconds(server);
        Self {
            calls: metric("count", at_unit),
            called: metric("sum", at_unit) + metric("sum", network),
            at_work: of_server + seconds(&[unit.id(), daemon.id(), std::process::id()]),
            of_server,
        }
    }
}

/// Number of processors.
pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Time for connections to be made and workers to be busy.
const LEAD: Duration = Duration::from_millis(500);
