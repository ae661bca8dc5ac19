//! What `make bench` measures: TLS handshakes with the key in the daemon, and the crypto unit as a GREP11 server.

#![forbid(unsafe_code)]
// A benchmark that cannot set up its scene has nothing better to do than to stop.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod handshakes;
mod unit;

use std::fs;

fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    println!("{}\n", cpu_model());
    handshakes::run(quick);
    println!();
    unit::run(quick);
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(String::new, |(_, name)| format!("CPU {}", name.trim()))
}

/// CPU time that all threads of a process have used, in microseconds: the first number of `schedstat`, see
/// the kernel's documentation of sched-stats.
fn cpu_time(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
    let nanoseconds: u64 = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    nanoseconds as f64 / 1000.0
}
