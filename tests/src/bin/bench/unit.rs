//! The crypto unit as a GREP11 server with its own processor, over TLS: signatures per second, and
//! the cost of a call in addition to the signature.

use std::process::Command;

use keyward_tests::tool::succeed;
use keyward_tests::{Pki, UnitServer, built, scratch};
use serde_json::Value;

use super::{cpu_time, percentile};

pub(super) fn run(quick: bool) {
    let (rounds, seconds) = if quick { (1, "1") } else { (5, "2") };
    println!("GREP11 server on one processor, over TLS; the client on another one");
    println!("medians of {rounds} rounds of {seconds} s; times in us\n");
    println!(
        "{:<9}{:>6}{:>14}{:>8}{:>8}{:>8}{:>12}{:>8}{:>8}",
        "key", "calls", "signatures/s", "goal", "p50", "p99", "CPU a call", "bare", "beside"
    );
    let directory = scratch();
    let pki = Pki::new(directory.path());
    let (certificate, key) = pki.leaf("server");
    let state = directory.path().join("unit");
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(built("keyward")).args(["unit", "serve", "--listen", "127.0.0.1:0"]);
    command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
    command.arg("--dev").arg("--state-dir").arg(state);
    let server = UnitServer::start_command(&mut command, directory.path(), "unit");
    for (key_type, goal) in
        [("p256", "8000"), ("ed25519", ""), ("p384", ""), ("rsa2048", "2500"), ("rsa3072", "")]
    {
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
                [
                    number("calls"),
                    number("signatures_per_second"),
                    number("p50_us"),
                    number("p99_us"),
                    cpu,
                    bare,
                    cpu - bare,
                ]
            };
            let measured: Vec<_> = (0..rounds).map(|_| round()).collect();
            let median = |which: usize| percentile(50, &measured, |round| round[which]);
            let goal = if connections == "1" { "" } else { goal };
            println!(
                "{key_type:<9}{:>6.0}{:>14.0}{goal:>8}{:>8.0}{:>8.0}{:>12.1}{:>8.1}{:>8.1}",
                median(0),
                median(1),
                median(2),
                median(3),
                median(4),
                median(5),
                median(6),
            );
        }
    }
}
