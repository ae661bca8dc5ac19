//! TLS 1.3 handshakes of nginx with its key at a remote unit, as a table in Markdown.
//!
//! nginx waits for each signature, so a worker makes one handshake after the other: no more in a second than calls of
//! the unit would fit into it. There are always more clients than workers, so that these never wait for work; what
//! clients see is therefore mostly the wait for their turn.

use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::server::{Nginx, Site};
use keyward_tests::{Daemon, Handshake, Load, Pki, UnitServer, Units, scratch};

use super::{cpu_time, in_ms, percentile, start_quiet};

pub(super) fn run(quick: bool) {
    let time = Duration::from_secs(if quick { 1 } else { 3 });
    println!(
        "Full handshakes of nginx, key at a remote unit over mutual TLS: TLS 1.3, X25519, P-256, {time:?} of each"
    );
    println!(
        "{CLIENTS} clients for each worker; a call is what the daemon waits for the unit, on average; \
         all of this runs on {} processors\n",
        processors()
    );
    println!("| unit takes | a call | workers | at most | handshakes/s | p50 | p99 | processors used |");
    println!("|---|---|---|---|---|---|---|---|");
    for latency in ["1ms", "5ms", "20ms", "50ms"] {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let unit = units.start("unit", &["--simulate-latency", latency]);
        let mut daemon = Daemon::prepare_for_units(units.section(&[unit.address()], ""), "");
        start_quiet(&mut daemon);
        let pki = Pki::new(daemon.directory());
        daemon.generate("shop", "p256");
        let reference = daemon.reference("shop");
        let certificate = pki.certify(&daemon, &reference);
        for workers in [1, 4, 16] {
            let site = Site::new(certificate.clone(), reference.clone());
            let nginx = Nginx::start_with(&daemon, std::slice::from_ref(&site), workers);
            let load = Load::start(&Handshake::new(&pki, site.address), CLIENTS * workers);
            let seen = Seen::of(&daemon, &unit, &nginx.workers(), load, time);
            println!(
                "| {latency} | {:.1} ms | {workers} | {:.0}/s | {:.0} | {:.1} ms | {:.1} ms | {:.0} % |",
                seen.call * 1e3,
                workers as f64 / seen.call,
                seen.rate,
                percentile(50, &seen.latencies, in_ms),
                percentile(99, &seen.latencies, in_ms),
                seen.busy * 100.0,
            );
        }
    }
}

/// What was measured of a server under load.
pub(super) struct Seen {
    /// What a call of the unit took on average, in seconds.
    pub(super) call: f64,
    /// Handshakes in a second.
    pub(super) rate: f64,
    /// What they took.
    pub(super) latencies: Vec<Duration>,
    /// The share of the time of all processors that was spent on these handshakes, by clients, too.
    pub(super) busy: f64,
}

impl Seen {
    /// Looks for a while at a load on a server, of which these are the processes at work.
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
            busy: (after.at_work - before.at_work) / (end - begin).as_secs_f64() / processors() as f64,
        }
    }
}

/// What has been counted since each of them was started.
struct Counters {
    /// Signatures by units.
    calls: f64,
    /// How long these took, in seconds.
    called: f64,
    /// CPU time of the unit, the daemon, the server, and the clients, in seconds.
    at_work: f64,
}

impl Counters {
    fn now(daemon: &Daemon, unit: &UnitServer, server: &[u32]) -> Self {
        let metric =
            |name: &str, phase| daemon.metric(&format!("keyward_signature_seconds_{name}"), &[phase]);
        let [at_unit, network] = ["phase=\"unit\"", "phase=\"network\""];
        let processes = server.iter().copied().chain([unit.id(), daemon.id(), std::process::id()]);
        Self {
            calls: metric("count", at_unit),
            called: metric("sum", at_unit) + metric("sum", network),
            at_work: processes.map(cpu_time).sum::<f64>() / 1e6,
        }
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// For each worker: enough for it never to wait for one.
const CLIENTS: usize = 4;
/// For connections to be made and workers to be busy.
const LEAD: Duration = Duration::from_millis(500);
