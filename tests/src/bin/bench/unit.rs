//! The crypto unit as a GREP11 server with its own processor, over TLS: signatures per second, and
//! the cost of a call in addition to the signature.

use std::process::Command;

use keyward_tests::tool::succeed;
use keyward_tests::{Pki, UnitServer, built, scratch};
use serde_json::{Value, json};

use super::results::{Cell, Results, Table};
use super::{cpu_time, percentile};

pub(super) fn run(quick: bool, results: &mut Results) {
    let (rounds, seconds) = if quick { (1, "1") } else { (5, "2") };
    let title = format!(
        "GREP11 server on one processor, over TLS; the client on another one; medians of {rounds} rounds of {seconds} s, times in us"
    );
    let columns = [
        ("key", 9),
        ("calls at a time", 17),
        ("signatures/s", 14),
        ("goal", 8),
        ("p50", 8),
        ("p99", 8),
        ("CPU a call", 12),
        ("bare", 8),
        ("beside", 8),
    ];
    let mut table = Table::new("unit", title, &columns).drawn("signatures/s");
    let directory = scratch();
    let pki = Pki::new(directory.path());
    let (certificate, key) = pki.leaf("server");
    let state = directory.path().join("unit");
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(built("keyward")).args(["unit", "serve", "--listen", "127.0.0.1:0"]);
    command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
    command.arg("--dev").arg("--state-dir").arg(state);
    let server = UnitServer::start_command(&mut command, directory.path(), "unit");
    for (key_type, goal) in [
        ("p256", Some(8000.0)),
        ("ed25519", None),
        ("p384", None),
        ("rsa2048", Some(2500.0)),
        ("rsa3072", None),
    ] {
        for [connections, calls] in [["1", "1"], ["2", "16"]] {
            let round = || {
                let before = cpu_time(server.id());
                let mut bench = Command::new("taskset");
                bench.args(["-c", "1"]).arg(built("keyward")).args(["bench", "--json", "--grep11"]);
                bench.arg(server.address()).arg("--tls-ca").arg(pki.ca()).args(["--type", key_type]);
                bench.args(["--seconds", seconds, "--connections", connections, "--calls", calls]);
                let printed: Value = serde_json::from_str(&succeed(&mut bench)).expect("JSON");
                let number = |name: &str| printed[0][name].as_f64().expect("a number");
                let signatures = number("signatures");
                let cpu = (cpu_time(server.id()) - before) / signatures;
                let bare = number("bare_us");
                let [p50, p99] = ["p50_us", "p99_us"].map(number);
                [number("calls"), number("signatures_per_second"), p50, p99, cpu, bare, cpu - bare]
            };
            let measured: Vec<_> = (0..rounds).map(|_| round()).collect();
            let median = |which: usize| percentile(50, &measured, |round| round[which]);
            let cells = [
                Cell::Text(key_type.to_owned()),
                Cell::Text(format!("{:.0}", median(0))),
                Cell::Number(median(1), 0),
                goal.filter(|_| connections != "1").map_or(Cell::None, |goal| Cell::Number(goal, 0)),
                Cell::Number(median(2), 0),
                Cell::Number(median(3), 0),
                Cell::Number(median(4), 1),
                Cell::Number(median(5), 1),
                Cell::Number(median(6), 1),
            ];
            let rounds = measured.iter().map(|round| {
                let [_, rate, p50, p99, cpu, bare, _] = round;
                json!({ "signatures/s": rate, "p50_us": p50, "p99_us": p99, "cpu_us": cpu, "bare_us": bare })
            });
            table.add(&cells, rounds.collect());
        }
    }
    results.keep(table);
}
