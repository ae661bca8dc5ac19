//! CPU time of the server and the daemon together per full handshake: key in the daemon against the same key
//! in a file, by the same nginx, in turn. TLS 1.3, X25519, no resumption.
//!
//! Absolute times say little on a shared machine; the ratio of two medians taken in turn says more.

#![forbid(unsafe_code)]
// A benchmark that cannot set up its scene has nothing better to do than to stop.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;

use keyward_tests::server::{Nginx, Site};
use keyward_tests::tool::succeed;
use keyward_tests::{Daemon, Handshake, Pki, pki::openssl};

/// What a round costs, in microseconds of CPU time per handshake.
#[derive(Clone, Copy)]
struct Cost {
    server: f64,
    daemon: f64,
}

impl Cost {
    fn total(&self) -> f64 {
        self.server + self.daemon
    }
}

fn main() {
    let quick = std::env::args().any(|word| word == "--quick");
    let (rounds, handshakes) = if quick { (3, 60) } else { (9, 400) };
    println!("{}", succeed(&mut openssl(&["version"])).trim());
    println!("nginx {}", nginx_version());
    println!("{}", cpu_model());
    println!("{rounds} rounds of {handshakes} handshakes each way; medians, CPU time in us per handshake\n");
    println!(
        "{:<9}{:>11}{:>11}{:>11}{:>11}{:>8}{:>8}",
        "key", "file", "keyward", "of nginx", "of daemon", "ratio", "goal"
    );

    // As an operator runs it: info level, which logs nothing per request.
    let daemon = Daemon::prepare("");
    let quiet = fs::read_to_string(daemon.path("keyward.toml")).unwrap().replace("\"debug\"", "\"info\"");
    daemon.configure(&quiet);
    let mut daemon = daemon;
    daemon.resume();
    let pki = Pki::new(daemon.directory());
    for (key_type, goal) in
        [("p256", 1.05), ("rsa2048", 1.05), ("ed25519", 1.00), ("p384", 0.50), ("rsa3072", 0.50)]
    {
        let file = generate_file(&daemon, key_type);
        succeed(&mut daemon.keyward(&["key", "import", key_type, "--in", file.to_str().unwrap()]));
        let reference = daemon.reference(key_type);
        let certificate = pki.certify(&daemon, &reference);
        let in_file = Site::new(certificate.clone(), file);
        let in_daemon = Site::new(certificate, reference);
        let nginx = Nginx::start_with(&daemon, &[in_file.clone(), in_daemon.clone()], 1);
        let measure = |site: &Site| round(&daemon, &nginx, &Handshake::new(&pki, site.address), handshakes);
        measure(&in_file);
        measure(&in_daemon);
        let (mut file, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            file.push(measure(&in_file));
            ours.push(measure(&in_daemon));
        }
        let file = median(&file, Cost::total);
        let total = median(&ours, Cost::total);
        let (server, own) = (median(&ours, |cost| cost.server), median(&ours, |cost| cost.daemon));
        println!(
            "{key_type:<9}{file:>11.0}{total:>11.0}{server:>11.0}{own:>11.0}{:>8.2}{goal:>8.2}",
            total / file
        );
    }
}

fn round(daemon: &Daemon, nginx: &Nginx, handshake: &Handshake, count: usize) -> Cost {
    let workers = nginx.workers();
    let server = || workers.iter().map(|worker| cpu_time(*worker)).sum::<f64>();
    let before = (server(), cpu_time(daemon.id()));
    for _ in 0..count {
        handshake.make().expect("a handshake");
    }
    let per_handshake = |spent: f64| spent / count as f64;
    Cost {
        server: per_handshake(server() - before.0),
        daemon: per_handshake(cpu_time(daemon.id()) - before.1),
    }
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

fn median(costs: &[Cost], part: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(part).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn generate_file(daemon: &Daemon, key_type: &str) -> std::path::PathBuf {
    let file = daemon.path(&format!("{key_type}.key"));
    let algorithm: &[&str] = match key_type {
        "p256" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "p384" => &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "ed25519" => &["ED25519"],
        "rsa2048" => &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "rsa3072" => &["RSA", "-pkeyopt", "rsa_keygen_bits:3072"],
        other => panic!("no recipe for {other}"),
    };
    succeed(openssl(&["genpkey", "-algorithm"]).args(algorithm).arg("-out").arg(&file));
    file
}

fn nginx_version() -> String {
    let output = Command::new("nginx").arg("-v").output().expect("nginx");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.trim().trim_start_matches("nginx version: nginx/").to_owned()
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(String::new, |(_, name)| format!("CPU {}", name.trim()))
}
