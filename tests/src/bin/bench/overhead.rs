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
use serde_json::Value;

use super::percentile;

pub(super) fn run(quick: bool) {
    let rounds = if quick { 3 } else { 15 };
    println!(
        "A GREP11 call through the daemon and a bare one: one call at a time, unit and client on a processor each"
    );
    println!("{rounds} rounds of {SECONDS} s; medians of their p50, times in us\n");
    println!(
        "{:<9}{:<9}{:>8}{:>10}{:>8}{:>8}  {:<20}{:>8}{:>6}",
        "line", "key", "bare", "keyward", "more", "goal", "middle half of more", "verify", "rest"
    );
    for line in [Line::tls(), Line::plaintext()] {
        for key_type in ["p256", "ed25519", "p384", "rsa2048"] {
            let rounds: Vec<Round> = (0..rounds).map(|_| line.round(key_type)).collect();
            let more = |percent| percentile(percent, &rounds, Round::more);
            println!(
                "{:<9}{key_type:<9}{:>8.0}{:>10.0}{:>8.0}{GOAL:>8}  {:<20}{:>8.0}{:>6.0}",
                line.name,
                percentile(50, &rounds, |round| round.bare),
                percentile(50, &rounds, |round| round.keyward),
                more(50),
                format!("{:.0} to {:.0}", more(25), more(75)),
                percentile(50, &rounds, |round| round.verify),
                percentile(50, &rounds, |round| round.more() - round.verify),
            );
        }
    }
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
const GOAL: &str = "60";
