//! Handshakes of one thread of HAProxy with its key at a remote unit, in asynchronous jobs.

use std::time::Duration;

use keyward_tests::server::Site;
use keyward_tests::{Daemon, Handshake, Haproxy, Load, Pki, Units, scratch};

use super::results::{Cell, Results, Table};
use super::seen::Seen;
use super::{in_ms, percentile};

pub(super) fn run(quick: bool, results: &mut Results) {
    let time = Duration::from_secs(if quick { 1 } else { 5 });
    let title = format!(
        "Full handshakes of one thread of HAProxy with ssl-mode-async: TLS 1.3, X25519, P-256, {time:?} of each; in flight: limit of the daemon, with 1.5 times as many clients and a unit that takes 20 ms; a call: average wait of the daemon for the unit; possible: in flight, divided by that wait; times in ms"
    );
    let columns = [
        ("in flight", 11),
        ("a call", 8),
        ("possible/s", 12),
        ("handshakes/s", 14),
        ("ratio", 8),
        ("goal", 8),
        ("p50", 8),
        ("p99", 8),
        ("processors used", 17),
        ("HAProxy's thread", 18),
    ];
    let mut table = Table::new("async", title, &columns);
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let unit = units.start("unit", &["--simulate-latency", "20ms"]);
    for in_flight in [1_usize, 5, 10, 20, 50] {
        let section = units.section(&[unit.address()], &format!("in-flight = {in_flight}\n"));
        let mut daemon = Daemon::prepare_for_units(section, "");
        daemon.start_quiet();
        let pki = Pki::new(daemon.directory());
        daemon.generate("shop", "p256");
        let reference = daemon.reference("shop");
        let site = Site::new(pki.certify(&daemon, &reference), reference);
        let haproxy = Haproxy::start_asynchronous(&daemon, std::slice::from_ref(&site));
        let clients = in_flight + in_flight.div_ceil(2);
        let load = Load::start(&Handshake::new(&pki, site.address), clients);
        let seen = Seen::of(&daemon, &unit, &haproxy.workers(), load, time);
        let possible = in_flight as f64 / seen.call;
        let cells = [
            Cell::Text(in_flight.to_string()),
            Cell::Number(seen.call * 1e3, 1),
            Cell::Number(possible, 0),
            Cell::Number(seen.rate, 0),
            Cell::Number(seen.rate / possible, 2),
            Cell::Number(0.95, 2),
            Cell::Number(percentile(50, &seen.latencies, in_ms), 1),
            Cell::Number(percentile(99, &seen.latencies, in_ms), 1),
            Cell::Text(format!("{:.0} %", seen.busy * 100.0)),
            Cell::Text(format!("{:.0} %", seen.of_server * 100.0)),
        ];
        table.add(&cells, vec![seen.json()]);
    }
    results.keep(table);
}
