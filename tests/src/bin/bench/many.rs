//! Very many keys: the time to make them, to be ready again, and to use a key for the first time,
//! and the memory of the daemon.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use keyward_client::{Address, Client, Input};
use keyward_proto::{Label, Scheme};
use keyward_tests::Daemon;
use serde_json::json;

use super::percentile;
use super::results::{Cell, Results, Table};

pub(super) fn run(quick: bool, results: &mut Results) {
    let count = if quick { 20_000 } else { 1_000_000 };
    let columns = [("measurement", 62), ("figure", 10), ("goal", 8)];
    let mut table = Table::new("keys", format!("{count} P-256 keys"), &columns);
    let mut add = |name: &str, figure: f64, digits: usize, goal: Option<f64>| {
        let cells = [
            Cell::Text(name.to_owned()),
            Cell::Number(figure, digits),
            goal.map_or(Cell::None, |goal| Cell::Number(goal, 0)),
        ];
        table.add(&cells, vec![json!({ "figure": figure })]);
    };
    let mut daemon = Daemon::prepare("");
    let one_core = || ["taskset", "-c", "0"].map(str::to_owned).to_vec();
    daemon.run_by(one_core());
    daemon.start_quiet();
    let list = daemon.path("list");
    fs::write(&list, (0..count).map(|number| format!("{}\n", label_of(number))).collect::<String>())
        .expect("the list");
    let begin = Instant::now();
    let list = list.display().to_string();
    let keyward = daemon.keyward(&["key", "generate", "--type", "p256", "--from", &list]);
    let mut generate = std::process::Command::new("taskset");
    generate.args(["-c", "0"]).arg(keyward.get_program()).args(keyward.get_args());
    assert!(generate.stdout(Stdio::null()).status().expect("taskset").success());
    add(
        "durable keys a second, with daemon and command on one core",
        f64::from(count) / seconds(begin),
        0,
        Some(2000.0),
    );

    daemon.stop();
    daemon.run_by(Vec::new());
    let begin = Instant::now();
    daemon.resume();
    add("ms until the daemon is ready again", seconds(begin) * 1e3, 0, Some(1000.0));
    let unfinished = || daemon.status()["problems"].to_string().contains("since the start");
    while unfinished() {
        thread::sleep(Duration::from_millis(100));
    }
    add("s until all records are checked", seconds(begin), 1, None);
    add("MiB of memory then", resident(&daemon), 0, Some(200.0));

    let address = Address::try_from(daemon.socket().as_path()).expect("a path for a socket");
    let client = Client::new(address, Client::DEFAULT_TIMEOUT);
    let sign = |number: u32| {
        let label: Label = label_of(number).parse().expect("a label");
        let begin = Instant::now();
        client.sign(&label, Scheme::EcdsaSecp256r1Sha256, Input::Message(&MESSAGE)).expect("a signature");
        seconds(begin) * 1e6
    };
    let step = count / USED;
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    sign(1);
    for number in (0..USED).map(|number| number * step + 2) {
        cold.push(sign(number));
        warm.push(sign(number));
    }
    let median = |times: &[f64]| percentile(50, times, |time| *time);
    add(
        "us more for the first use of a key than for the second one",
        median(&cold) - median(&warm),
        0,
        Some(100.0),
    );

    let begin = Instant::now();
    let mut list = daemon.keyward(&["key", "list", "--json"]);
    assert!(list.stdout(Stdio::null()).status().expect("keyward").success());
    add("s for the list of all keys", seconds(begin), 1, None);
    results.keep(table);
}

fn label_of(number: u32) -> String {
    format!("host-{number:07}.example.com")
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// Resident memory of the daemon in MiB.
fn resident(daemon: &Daemon) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.id())).expect("a running daemon");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// A CertificateVerify of a server (RFC 8446, 4.4.3) with a hash of zeros.
static MESSAGE: std::sync::LazyLock<Vec<u8>> =
    std::sync::LazyLock::new(|| [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify\0", &[0; 32]].concat());

/// Keys that are used for the first time.
const USED: u32 = 500;
