//! Handshakes of one thread of HAProxy with its key at a remote unit, in asynchronous jobs, as a
//! table in Markdown.

use std::time::Duration;

use keyward_tests::server::Site;
use keyward_tests::{Daemon, Handshake, Haproxy, Load, Pki, Units, scratch};

use super::seen::Seen;
use super::{in_ms, percentile};

pub(super) fn run(quick: bool) {
    let time = Duration::from_secs(if quick { 1 } else { 5 });
    println!(
        "Full handshakes of one thread of HAProxy with ssl-mode-async: TLS 1.3, X25519, P-256, {time:?} of each; the daemon"
    );
    println!(
        "lets so many signatures be under way, which with 20 ms for each gives what is possible; the clients are"
    );
    println!("half as many again, since a handshake is more than its signature\n");
    println!("| under way | possible | handshakes/s | ratio | goal | p50 | p99 | processors used |");
    println!("|---|---|---|---|---|---|---|---|");
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let unit = units.start("unit", &["--simulate-latency", "20ms"]);
    for under_way in [1_usize, 5, 10, 20, 50] {
        let section = units.section(&[unit.address()], &format!("in-flight = {under_way}\n"));
        let mut daemon = Daemon::prepare_for_units(section, "");
        daemon.start_quiet();
        let pki = Pki::new(daemon.directory());
        daemon.generate("shop", "p256");
        let reference = daemon.reference("shop");
        let site = Site::new(pki.certify(&daemon, &reference), reference);
        let haproxy = Haproxy::start_asynchronous(&daemon, std::slice::from_ref(&site));
        let clients = under_way + under_way.div_ceil(2);
        let load = Load::start(&Handshake::new(&pki, site.address), clients);
        let seen = Seen::of(&daemon, &unit, &haproxy.workers(), load, time);
        let possible = under_way as f64 / 0.02;
        println!(
            "| {under_way} | {possible:.0}/s | {:.0} | {:.2} | 0.9 | {:.1} ms | {:.1} ms | {:.0} % |",
            seen.rate,
            seen.rate / possible,
            percentile(50, &seen.latencies, in_ms),
            percentile(99, &seen.latencies, in_ms),
            seen.busy * 100.0,
        );
    }
}
