//! TLS 1.3 handshakes of nginx with its key at a remote unit.
//!
//! nginx waits for each signature, so a worker makes one handshake after the other: at most as many
//! in a second as calls of the unit fit into a second. There are always more clients than workers,
//! so workers never wait for work. So the times of the clients are mostly waiting times.

use std::time::Duration;

use keyward_tests::server::{Nginx, Site};
use keyward_tests::{Daemon, Handshake, Load, Pki, Units, scratch};

use super::results::{Cell, Results, Table};
use super::seen::{Seen, processors};
use super::{in_ms, percentile};

pub(super) fn run(quick: bool, results: &mut Results) {
    let time = Duration::from_secs(if quick { 1 } else { 3 });
    let title = format!(
        "Full handshakes of nginx, key at a remote unit over mutual TLS: TLS 1.3, X25519, P-256, {time:?} of each; {CLIENTS} clients for each worker; a call is what the daemon waits for the unit, on average; all of this runs on {} processors; times in ms",
        processors()
    );
    let columns = [
        ("unit takes", 12),
        ("workers", 9),
        ("a call", 8),
        ("at most/s", 11),
        ("handshakes/s", 14),
        ("p50", 8),
        ("p99", 8),
        ("processors used", 17),
    ];
    let mut table = Table::new("nginx", title, &columns);
    for latency in ["1ms", "5ms", "20ms", "50ms"] {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let unit = units.start("unit", &["--simulate-latency", latency]);
        let mut daemon = Daemon::prepare_for_units(units.section(&[unit.address()], ""), "");
        daemon.start_quiet();
        let pki = Pki::new(daemon.directory());
        daemon.generate("shop", "p256");
        let reference = daemon.reference("shop");
        let certificate = pki.certify(&daemon, &reference);
        for workers in [1, 4, 16] {
            let site = Site::new(certificate.clone(), reference.clone());
            let nginx = Nginx::start_with(&daemon, std::slice::from_ref(&site), workers);
            let load = Load::start(&Handshake::new(&pki, site.address), CLIENTS * workers);
            let seen = Seen::of(&daemon, &unit, &nginx.workers(), load, time);
            let cells = [
                Cell::Text(latency.to_owned()),
                Cell::Text(workers.to_string()),
                Cell::Number(seen.call * 1e3, 1),
                Cell::Number(workers as f64 / seen.call, 0),
                Cell::Number(seen.rate, 0),
                Cell::Number(percentile(50, &seen.latencies, in_ms), 1),
                Cell::Number(percentile(99, &seen.latencies, in_ms), 1),
                Cell::Text(format!("{:.0} %", seen.busy * 100.0)),
            ];
            table.add(&cells, vec![seen.json()]);
        }
    }
    results.keep(table);
}

/// Clients for each worker: enough that the worker never waits for a client.
const CLIENTS: usize = 4;
