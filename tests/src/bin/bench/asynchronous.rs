//! Handshakes of one thread of HAProxy with its key at a remote unit, in asynchronous jobs, as a table in Markdown.

use std::time::Duration;

use keyward_tests::server::Site;
use keyward_tests::{Daemon, Handshake, Haproxy, Load, Pki, Units, scratch};

use super::nginx::Seen;
use super::{in_ms, percentile, start_quiet};

pub(super) fn run(quick: bool) {
    let time = Duration::from_secs(if quick { 1 } else { 5 });
    println!(
        "Full handshakes of one thread of HAProxy with ssl-mode-async: TLS 1.3, X25519, P-256, {time:?} of each;"
    );
    println!(
        "possible is what so many signatures at a time give, each of which takes as long as the daemon waits\n"
    );
    println!(
        "| unit takes | a call | at a time | possible | handshakes/s | ratio | p50 | p99 | processors used |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let unit = units.start("unit", &["--simulate-latency", "20ms"]);
    let section = units.section(&[unit.address()], "in-flight = 256\n");
    let mut daemon = Daemon::prepare_for_units(section, "");
    start_quiet(&mut daemon);
    let pki = Pki::new(daemon.directory());
    daemon.generate("shop", "p256");
    let reference = daemon.reference("shop");
    let site = Site::new(pki.certify(&daemon, &reference), reference);
    let haproxy = Haproxy::start_asynchronous(&daemon, std::slice::from_ref(&site));
    for clients in [1, 5, 10, 20, 50] {
        let load = Load::start(&Handshake::new(&pki, site.address), clients);
        let seen = Seen::of(&daemon, &unit, &haproxy.workers(), load, time);
        let possible = clients as f64 / seen.call;
        println!(
            "| 20ms | {:.1} ms | {clients} | {possible:.0}/s | {:.0} | {:.2} | {:.1} ms | {:.1} ms | {:.0} % |",
            seen.call * 1e3,
            seen.rate,
            seen.rate / possible,
            percentile(50, &seen.latencies, in_ms),
            percentile(99, &seen.latencies, in_ms),
            seen.busy * 100.0,
        );
    }
}
