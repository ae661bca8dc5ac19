//! The measurements of `make bench`, part by part. The figures are of one machine and one moment,
//! so this is no test.
//!
//! ```text
//! target/dist/bench [--quick] [PART]...
//! target/dist/bench --draw FILE
//!
//! handshakes   CPU time of a handshake, key in the daemon against key in a file
//! rustls       the same with servers on rustls
//! unit         the crypto unit as a GREP11 server
//! overhead     what the daemon costs beside a bare GREP11 call
//! capacity     remote units that are asked for more than they can do
//! nginx        handshakes with keys at remote units, far away and near
//! async        handshakes of one thread that waits for many signatures at a time
//! loads        plain key files, loaded in a process that has the provider, too
//! instructions what a signature executes in server and daemon, counted by valgrind
//! keys         a million keys
//!
//! --quick      short rounds, which show that it works and little else
//! --draw FILE  draws the tables of a kept bench.json beside that file, and measures nothing
//! ```
//!
//! Without a PART all of them are measured, in this order. The tables are also written to
//! `target/bench.json`, with the figures of each round, and drawn beside it as SVG. The build that
//! is measured is the one of this program. KEYWARD_BUILD names another one, as in
//! KEYWARD_BUILD=../older/target/dist.

#![forbid(unsafe_code)]
// A benchmark that cannot set up its scene stops.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod asynchronous;
mod capacity;
mod handshakes;
mod instructions;
mod loads;
mod many;
mod nginx;
mod overhead;
mod plots;
mod results;
mod seen;
mod softhsm;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use keyward_tests::pki::openssl;
use keyward_tests::tool::succeed;
use keyward_tests::{build, target};
use results::Results;

fn main() -> ExitCode {
    let (mut quick, mut chosen) = (false, Vec::new());
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match PARTS.iter().find(|(name, _)| *name == word) {
            Some(part) => chosen.push(part),
            None if word == "--quick" => quick = true,
            None if word == "--draw" => return draw(words.next()),
            None => {
                let parts = PARTS.map(|(name, _)| name).join(", ");
                eprintln!("bench: there is no {word}; say --quick, --draw FILE, or a part: {parts}");
                return ExitCode::from(USAGE);
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend(&PARTS);
    }
    let about = [
        ("processors", cpu_model()),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("nginx", nginx_version()),
        ("openssl", openssl_version()),
        ("build", build().display().to_string()),
        ("rounds", if quick { "few and short" } else { "all" }.to_owned()),
    ];
    for (name, text) in &about {
        println!("{name}: {text}");
    }
    // Pictures of an earlier run would be beside the figures of this one.
    for (name, _) in &PARTS {
        let _ = fs::remove_file(target().join(format!("{name}.svg")));
    }
    let mut results = Results::new(&about);
    let mut written = Vec::new();
    for (_, run) in chosen {
        println!();
        run(quick, &mut results);
        // After each part: a long run may be interrupted.
        written = results.write();
    }
    println!("\nThe tables with the figures of each round, and pictures:");
    for path in written {
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}

/// Draws the tables of a kept file beside it.
fn draw(kept: Option<String>) -> ExitCode {
    let Some(kept) = kept.map(PathBuf::from) else {
        eprintln!("bench: --draw needs the path of a bench.json");
        return ExitCode::from(USAGE);
    };
    let drawn = fs::read_to_string(&kept).map_err(Into::into).and_then(|text| {
        let directory = kept.parent().unwrap_or(Path::new("."));
        plots::draw(&serde_json::from_str(&text)?, directory)
    });
    match drawn {
        Ok(pictures) if pictures.is_empty() => {
            eprintln!("bench: no table of {} has a figure to draw", kept.display());
            ExitCode::FAILURE
        }
        Ok(pictures) => {
            pictures.iter().for_each(|picture| println!("{}", picture.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: cannot draw the tables of {}: {error}", kept.display());
            ExitCode::FAILURE
        }
    }
}

/// Name of a part, and its measurement, quick or not, which may keep its tables.
type Part = (&'static str, fn(bool, &mut Results));

/// The parts in the order of their measurement.
const PARTS: [Part; 10] = [
    ("handshakes", handshakes::run),
    ("rustls", handshakes::run_rustls),
    ("unit", unit::run),
    ("overhead", overhead::run),
    ("capacity", capacity::run),
    ("nginx", nginx::run),
    ("async", asynchronous::run),
    ("loads", loads::run),
    ("instructions", instructions::run),
    ("keys", many::run),
];

/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = || text.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(':'));
    models().next().map_or_else(String::new, |(_, name)| format!("{} x {}", models().count(), name.trim()))
}

fn nginx_version() -> String {
    let output = Command::new("nginx").arg("-v").output().expect("nginx");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.trim().trim_start_matches("nginx version: nginx/").to_owned()
}

fn openssl_version() -> String {
    let text = succeed(&mut openssl(&["version"]));
    text.split(" (").next().unwrap_or_default().trim().to_owned()
}

/// CPU time that all threads of a process have used, in microseconds: the first number of
/// `schedstat`, see the kernel's documentation of sched-stats.
fn cpu_time(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let nanoseconds: u64 = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1000.0
}

/// Percentile of measured values; zero if there are none.
fn percentile<T>(percent: usize, measured: &[T], part: impl Fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = measured.iter().map(part).collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent / 100).min(values.len().saturating_sub(1));
    values.get(rank).copied().unwrap_or_default()
}

/// Every percentile of times, from the least to the longest, in milliseconds. Enough to draw them,
/// without the thousands of times themselves.
fn percentiles(times: &[Duration]) -> Vec<f64> {
    (0..=100).map(|percent| percentile(percent, times, in_ms)).collect()
}

fn in_ms(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
