//! Performance of the daemon with units that sign only so many times a second. Measures the used
//! share of that rate, and the results of requests if there are more than the units can handle.
//!
//! Requests are due at even intervals, whatever happened to earlier requests.

use std::time::{Duration, Instant};

use keyward_proto::{Outcome, Scheme};
use keyward_tests::signers::{Signed, due_within};
use keyward_tests::{Daemon, Signers, UnitServer, Units, scratch};
use serde_json::json;

use super::results::{Cell, Results, Table};
use super::{in_ms, percentile, percentiles};

pub(super) fn run(quick: bool, results: &mut Results) {
    let time = Duration::from_secs(if quick { 2 } else { 10 });
    let title = format!(
        "Two units of {RATE} P-256 signatures/s, {LATENCY} each, over mutual TLS; {time:?} of each load; times in ms from when a request was due; a request that finds the queue full is refused"
    );
    let columns = [
        ("load/s", 8),
        ("signatures/s", 14),
        ("goal", 8),
        ("p50", 8),
        ("p99", 8),
        ("goal", 8),
        ("refused/s", 11),
        ("p50", 8),
        ("p99", 8),
        ("max", 8),
        ("goal", 8),
        ("failed", 8),
    ];
    let mut table = Table::new("capacity", title, &columns);
    let directory = scratch();
    let units = Units::new(&directory.path().join("units"));
    let rate = RATE.to_string();
    let arguments = ["--simulate-rate", &rate, "--simulate-latency", LATENCY];
    let servers = ["first", "second"].map(|name| units.start(name, &arguments));
    let section = units.section(&servers.each_ref().map(UnitServer::address), &format!("rate = {RATE}\n"));
    let mut daemon = Daemon::prepare_for_units(section, "");
    daemon.start_quiet();
    daemon.generate("shop", "p256");
    for load in [Load::SATURATION, Load::HEAVY] {
        let served = load.serve(&daemon, time);
        let each_second = |requests: &[Duration]| requests.len() as f64 / time.as_secs_f64();
        let ms = |percent, requests: &[Duration]| Cell::Number(percentile(percent, requests, in_ms), 1);
        let cells = [
            Cell::Text(load.rate.to_string()),
            Cell::Number(each_second(&served.signed), 0),
            Cell::Text(load.throughput_goal.to_owned()),
            ms(50, &served.signed),
            ms(99, &served.signed),
            Cell::Text(load.latency_goal.to_owned()),
            Cell::Number(each_second(&served.refused), 0),
            ms(50, &served.refused),
            ms(99, &served.refused),
            ms(100, &served.refused),
            Cell::Text(load.refusal_goal.to_owned()),
            Cell::Number(served.failed.len() as f64, 0),
        ];
        let (signed, refused) = (percentiles(&served.signed), percentiles(&served.refused));
        let round = json!({ "signed_ms": signed, "refused_ms": refused, "failed": served.failed });
        table.add(&cells, vec![round]);
    }
    results.keep(table);
}

/// A load of requests, and the goals for it.
struct Load {
    /// Requests per second.
    rate: u32,
    throughput_goal: &'static str,
    latency_goal: &'static str,
    refusal_goal: &'static str,
}

impl Load {
    /// A fifth more than the units can handle.
    const SATURATION: Self =
        Self { rate: 1200, throughput_goal: ">= 950", latency_goal: "", refusal_goal: "< 10" };
    /// Nine tenths of the rate of the units.
    const HEAVY: Self =
        Self { rate: 900, throughput_goal: "900", latency_goal: "< 50", refusal_goal: "none" };

    fn serve(&self, daemon: &Daemon, time: Duration) -> Served {
        let signers = Signers::start(daemon, "shop", Scheme::EcdsaSecp256r1Sha256, self.rate.into(), THREADS);
        signers.let_run(LEAD);
        let begin = Instant::now();
        signers.let_run(time);
        let window = begin..Instant::now();
        // So the measurement does not include the end of the load.
        signers.let_run(LEAD);
        Served::new(due_within(&signers.stop(), window))
    }
}

/// Results of the requests: latencies, and the texts of failures other than refusals.
#[derive(Default)]
struct Served {
    signed: Vec<Duration>,
    refused: Vec<Duration>,
    failed: Vec<String>,
}

impl Served {
    fn new(requests: &[Signed]) -> Self {
        let mut served = Self::default();
        for request in requests {
            match &request.outcome {
                Ok(_) => served.signed.push(request.latency()),
                Err(failure) if failure.outcome == Some(Outcome::Overloaded) => {
                    served.refused.push(request.latency());
                }
                Err(failure) => served.failed.push(failure.text.clone()),
            }
        }
        served
    }
}

/// Signatures per second of each unit: the figure that IBM states for its service.
const RATE: u32 = 500;
const LATENCY: &str = "5ms";
/// More requests than can be in progress at the units and in the queue together.
const THREADS: usize = 128;
/// Time for connections and the queue to settle.
const LEAD: Duration = Duration::from_millis(500);
