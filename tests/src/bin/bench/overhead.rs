//! Cost of the daemon in addition to a bare GREP11 call. A standard client calls a unit directly,
//! and through the daemon.
//!
//! One call at a time over one connection. The unit has its own processor. The client, with or
//! without the daemon, has another processor. Rounds of both kinds alternate, so a disturbance of
//! the machine affects both.

use std::process::Command;
use std::thread;

use keyward_tests::tool::succeed;
use keyward_tests::{Daemon, UnitServer, Units, built, scratch};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::{Value, json};

use super::percentile;
use super::results::{Cell, Results, Table};

pub(super) fn run(quick: bool, results: &mut Results) {
    let rounds = if quick { 3 } else { 15 };
    let title = format!(
        "A GREP11 call through the daemon and a bare one: one call at a time, unit and client on a processor each; {rounds} rounds of {SECONDS} s, medians of their p50 in us"
    );
    let columns = [
        ("line", 9),
        ("key", 9),
        ("bare", 8),
        ("keyward", 10),
        ("more", 8),
        ("goal", 8),
        ("middle half of more", 22),
        ("verify", 8),
        ("rest", 6),
    ];
    let mut table = Table::new("overhead", title, &columns).drawn("more");
    for line in [Line::tls(), Line::plaintext()] {
        for key_type in ["p256", "ed25519", "p384", "rsa2048"] {
            let rounds: Vec<Round> = (0..rounds).map(|_| line.round(key_type)).collect();
            let more = |percent| percentile(percent, &rounds, Round::more);
            let median = |part: fn(&Round) -> f64| Cell::Number(percentile(50, &rounds, part), 0);
            let cells = [
                Cell::Text(line.name.to_owned()),
                Cell::Text(key_type.to_owned()),
                median(|round| round.bare),
                median(|round| round.keyward),
                Cell::Number(more(50), 0),
                Cell::Number(GOAL, 0),
                Cell::Text(format!("{:.0} to {:.0}", more(25), more(75))),
                median(|round| round.verify),
                median(|round| round.more() - round.verify),
            ];
            table.add(&cells, rounds.iter().map(Round::json).collect());
        }
    }
    results.keep(table);
}

/// A unit on one processor, and a daemon on another one.
struct Line {
    name: &'static str,
    daemon: Daemon,
    /// Signs at the unit without the daemon.
    bare: Command,
    _unit: UnitServer,
    _directory: tempfile::TempDir,
}

/// Times of both ways, in microseconds for each call.
struct Round {
    bare: f64,
    keyward: f64,
    /// Average time for verifying the signature in the daemon: a part of `keyward`.
    verify: f64,
}

impl Round {
    fn more(&self) -> f64 {
        self.keyward - self.bare
    }

    fn json(&self) -> Value {
        let Self { bare, keyward, verify } = self;
        json!({ "bare": bare, "keyward": keyward, "verify": verify, "more": self.more() })
    }
}

impl Line {
    fn tls() -> Self {
        let directory = scratch();
        let units = Units::new(&directory.path().join("units"));
        let unit = on_processor(UNIT, || units.start("unit", &[]));
        let section = units.section(&[unit.address()], "");
        Self::start("TLS", section, units.bench(&unit), unit, directory)
    }

    fn plaintext() -> Self {
        let directory = scratch();
        let state = directory.path().join("state").display().to_string();
        let arguments = ["--plaintext", "--dev", "--state-dir", &state];
        let unit = on_processor(UNIT, || UnitServer::start(directory.path(), "unit", &arguments));
        let section =
            format!("[grep11.{}]\nendpoints = [{:?}]\nplaintext = true\n", Units::BACKEND, unit.address());
        let mut bare = Command::new(built("keyward"));
        bare.args(["bench", "--plaintext", "--grep11", &unit.address()]);
        Self::start("plain", section, bare, unit, directory)
    }

    fn start(
        name: &'static str,
        section: String,
        bare: Command,
        unit: UnitServer,
        directory: tempfile::TempDir,
    ) -> Self {
        let mut daemon = Daemon::prepare_for_units(section, "");
        on_processor(OTHERS, || daemon.start_quiet());
        Self { name, daemon, bare, _unit: unit, _directory: directory }
    }

    fn round(&self, key_type: &str) -> Round {
        let mut bare = Command::new(self.bare.get_program());
        let bare = p50(bare.args(self.bare.get_args()), key_type);
        let verified = || {
            let metric = |name| self.daemon.metric(name, &["phase=\"verify\""]);
            [metric("keyward_signature_seconds_sum"), metric("keyward_signature_seconds_count")]
        };
        let before = verified();
        let keyward = p50(&mut self.daemon.keyward(&["bench", "--backend", Units::BACKEND]), key_type);
        let [seconds, count] = [0, 1].map(|which| verified()[which] - before[which]);
        Round { bare, keyward, verify: seconds * 1e6 / count }
    }
}

/// Median time of a call of `keyward bench`.
fn p50(bench: &mut Command, key_type: &str) -> f64 {
    bench.args(["--json", "--connections", "1", "--seconds", SECONDS, "--type", key_type]);
    let printed: Value = serde_json::from_str(&on_processor(OTHERS, || succeed(bench))).expect("JSON");
    printed[0]["p50_us"].as_f64().expect("a number")
}

/// Does something on one processor. Everything that it starts stays on that processor.
fn on_processor<T: Send>(processor: usize, f: impl FnOnce() -> T + Send) -> T {
    let there = || {
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only).expect("a second processor");
        f()
    };
    thread::scope(|scope| scope.spawn(there).join().expect("a measurement"))
}

const UNIT: usize = 0;
const OTHERS: usize = 1;
const SECONDS: &str = "1";
/// Limit of the daemon's cost, in microseconds.
const GOAL: f64 = 60.0;
