//! TLS 1.3 handshakes of nginx with its key at a remote unit, as a table in Markdown.
//!
//! nginx waits for each signature, so a worker makes one handshake after the other: no more in a second than calls of
//! the unit would fit into it. There are always more clients than workers, so that these never wait for work; what
//! clients see is therefore mostly the wait for their turn.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::server::{Nginx, Site};
use keyward_tests::{Daemon, Handshake, Load, Pki, Units, scratch};

use super::{in_ms, percentile, start_quiet};

pub(super) fn run(quick: bool) {
    let time = Duration::from_secs(if quick { 1 } else { 3 });
    println!(
        "Full handshakes of nginx, key at a remote unit over mutual TLS: TLS 1.3, X25519, P-256, {time:?} of each"
    );
    println!("{CLIENTS} clients for each worker; a call is what the daemon waits for the unit, on average\n");
    println!("| unit takes | a call | workers | at most | handshakes/s | p50 | p99 | processors busy |");
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
            let seen = Seen::of(&daemon, &pki, &site, workers, time);
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

/// What was measured of an nginx.
struct Seen {
    /// What a call of the unit took on average, in seconds.
    call: f64,
    /// Handshakes in a second.
    rate: f64,
    /// What they took.
    latencies: Vec<Duration>,
    /// The share of the time that the processors of the machine were at work.
    busy: f64,
}

impl Seen {
    fn of(daemon: &Daemon, pki: &Pki, site: &Site, workers: usize, time: Duration) -> Self {
        let _nginx = Nginx::start_with(daemon, std::slice::from_ref(site), workers);
        let load = Load::start(&Handshake::new(pki, site.address), CLIENTS * workers);
        thread::sleep(LEAD);
        let before = Counters::now(daemon);
        let begin = Instant::now();
        thread::sleep(time);
        let end = Instant::now();
        let after = Counters::now(daemon);
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
            busy: (after.at_work - before.at_work) / (after.passed - before.passed),
        }
    }
}

/// What has been counted since the daemon, or the machine, was started.
struct Counters {
    /// Signatures by units.
    calls: f64,
    /// How long these took, in seconds.
    called: f64,
    /// Time of all processors, in units of the kernel.
    passed: f64,
    /// The part of it in which they were not idle.
    at_work: f64,
}

impl Counters {
    fn now(daemon: &Daemon) -> Self {
        let metric =
            |name: &str, phase| daemon.metric(&format!("keyward_signature_seconds_{name}"), &[phase]);
        let [unit, network] = ["phase=\"unit\"", "phase=\"network\""];
        // user, nice, system, idle, iowait and others: proc(5).
        let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let times = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        let times: Vec<f64> = times.filter_map(|time| time.parse().ok()).collect();
        let passed = times.iter().sum();
        Self {
            calls: metric("count", unit),
            called: metric("sum", unit) + metric("sum", network),
            passed,
            at_work: passed - times[3] - times[4],
        }
    }
}

/// For each worker: enough for it never to wait for one.
const CLIENTS: usize = 4;
/// For connections to be made and workers to be busy.
const LEAD: Duration = Duration::from_millis(500);
