//! CPU time of the server and the daemon together per full handshake: key in the daemon against the
//! same key in a file. TLS 1.3, X25519, no resumption.
//!
//! Two servers, which differ only in the key, have one worker each. Clients go to both servers in
//! turn. So other disturbances of the machine affect both servers, and the ratio is more reliable
//! than the times.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::server::{Nginx, Rustls, Site};
use keyward_tests::{Daemon, Handshake, Pki};

use super::{cpu_time, percentile};

/// Measures with nginx.
pub(super) fn run(quick: bool) {
    let keys = [("p256", 1.05), ("rsa2048", 1.05), ("ed25519", 1.00), ("p384", 0.50), ("rsa3072", 0.50)];
    measure(quick, "nginx", &keys, |daemon, site| {
        let nginx = Nginx::start_with(daemon, std::slice::from_ref(site), 1);
        let workers = nginx.workers();
        (Box::new(nginx), workers)
    });
}

/// Measures with a server on rustls, hyper and tokio. rustls itself has the plain keys.
pub(super) fn run_rustls(quick: bool) {
    let keys = [("p256", 1.10), ("rsa2048", 1.10), ("ed25519", 1.10), ("p384", 1.10)];
    measure(quick, "rustls", &keys, |daemon, site| {
        let rustls = Rustls::start_single(daemon, site);
        let process = rustls.id();
        (Box::new(rustls), vec![process])
    });
}

/// A server that runs until it is dropped, and its working processes.
type Running = (Box<dyn Any + Sync>, Vec<u32>);

fn measure(quick: bool, name: &str, keys: &[(&str, f64)], start: fn(&Daemon, &Site) -> Running) {
    let (rounds, time) =
        if quick { (5, Duration::from_millis(300)) } else { (31, Duration::from_millis(500)) };
    println!(
        "Full handshakes of {name}: {CLIENTS} clients, {rounds} rounds of {time:?}; medians, CPU time in us per handshake\n"
    );
    println!(
        "{:<9}{:>9}{:>11}{:>11}{:>11}{:>8}{:>8}  middle half of the ratios",
        "key",
        "file",
        "keyward",
        format!("of {name}"),
        "of daemon",
        "ratio",
        "goal"
    );

    let mut daemon = Daemon::prepare("");
    daemon.start_quiet();
    let pki = Pki::new(daemon.directory());
    for (key_type, goal) in keys {
        let file = daemon.import(key_type, key_type);
        let reference = daemon.reference(key_type);
        let certificate = pki.certify(&daemon, &reference);
        let servers = [file, reference].map(|key| Server::start(&daemon, &pki, &certificate, key, start));
        round(&daemon, &servers, time);
        let rounds: Vec<Round> = (0..rounds).map(|_| round(&daemon, &servers, time)).collect();
        let file = percentile(50, &rounds, |round| round.file);
        let ratio =
            |percent| percentile(percent, &rounds, |round| (round.server + round.daemon) / round.file);
        println!(
            "{key_type:<9}{file:>9.0}{:>11.0}{:>11.0}{:>11.0}{:>8.2}{goal:>8.2}  {:.2} to {:.2}",
            percentile(50, &rounds, |round| round.server + round.daemon),
            percentile(50, &rounds, |round| round.server),
            percentile(50, &rounds, |round| round.daemon),
            ratio(50),
            ratio(25),
            ratio(75),
        );
    }
}

/// A server with one worker, and a client for it.
struct Server {
    _running: Box<dyn Any + Sync>,
    processes: Vec<u32>,
    handshake: Handshake,
}

impl Server {
    fn start(
        daemon: &Daemon,
        pki: &Pki,
        certificate: &Path,
        key: PathBuf,
        start: fn(&Daemon, &Site) -> Running,
    ) -> Self {
        let site = Site::new(certificate.to_owned(), key);
        let (running, processes) = start(daemon, &site);
        Self { _running: running, processes, handshake: Handshake::new(pki, site.address) }
    }

    fn cpu_time(&self) -> f64 {
        self.processes.iter().copied().map(cpu_time).sum()
    }
}

/// Cost of a round, in microseconds of CPU time per handshake.
struct Round {
    /// The server, with the key in a file.
    file: f64,
    /// The server, with the key in the daemon.
    server: f64,
    /// The daemon.
    daemon: f64,
}

fn round(daemon: &Daemon, servers: &[Server; 2], time: Duration) -> Round {
    let spent = || [servers[0].cpu_time(), servers[1].cpu_time(), cpu_time(daemon.id())];
    let before = spent();
    let end = Instant::now() + time;
    let client = || {
        let mut pairs = 0;
        while Instant::now() < end {
            for server in servers {
                server.handshake.make().expect("a handshake");
            }
            pairs += 1;
        }
        pairs
    };
    let handshakes: u32 = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).sum()
    });
    let mut cost = spent();
    for (after, before) in cost.iter_mut().zip(before) {
        *after = (*after - before) / f64::from(handshakes);
    }
    let [file, server, daemon] = cost;
    Round { file, server, daemon }
}

/// Enough clients to keep a worker busy.
const CLIENTS: usize = 4;
