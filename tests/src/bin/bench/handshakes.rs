//! CPU time of the server and the daemon together per full handshake: key in the daemon against the
//! same key in a file. TLS 1.3, X25519, no resumption. With nginx also the same key in SoftHSM2,
//! through the PKCS #11 engine, if that is installed.
//!
//! Two servers with one worker each, which differ only in the place of the key. Clients go to both
//! in turn. So other disturbances of the machine affect both servers, and the ratio is more
//! reliable than the times. SoftHSM2 has rounds of its own, between the others: a third server in
//! turn would cool the caches of the other two.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use keyward_tests::server::{Nginx, Rustls, Site};
use keyward_tests::{Daemon, Handshake, Pki};
use serde_json::json;

use super::results::{Cell, Results, Table};
use super::softhsm::SoftHsm;
use super::{cpu_time, percentile};

/// Measures with nginx.
pub(super) fn run(quick: bool, results: &mut Results) {
    let keys = [
        ("p256", 1.05),
        ("rsa2048", 1.05),
        ("ed25519", 1.00),
        ("p384", 0.50),
        ("rsa3072", 0.50),
        ("rsa4096", 0.42),
    ];
    let start: Start = |daemon, site| {
        let nginx = Nginx::start_with(daemon, std::slice::from_ref(site), 1);
        let workers = nginx.workers();
        (Box::new(nginx), workers)
    };
    results.keep(measure(quick, ("handshakes", "nginx"), &keys, start, true));
}

/// Measures with a server on rustls, hyper and tokio. rustls itself has the plain keys.
pub(super) fn run_rustls(quick: bool, results: &mut Results) {
    let keys = [("p256", 1.10), ("rsa2048", 1.10), ("ed25519", 1.10), ("p384", 1.10)];
    let start: Start = |daemon, site| {
        let rustls = Rustls::start_single(daemon, site);
        let process = rustls.id();
        (Box::new(rustls), vec![process])
    };
    results.keep(measure(quick, ("rustls", "rustls"), &keys, start, false));
}

/// A server that runs until it is dropped, and its working processes.
type Running = (Box<dyn Any + Sync>, Vec<u32>);

/// Starts a server for a site.
type Start = fn(&Daemon, &Site) -> Running;

fn measure(
    quick: bool,
    (part, name): (&'static str, &str),
    keys: &[(&str, f64)],
    start: Start,
    with_softhsm: bool,
) -> Table {
    let (rounds, time) =
        if quick { (5, Duration::from_millis(300)) } else { (31, Duration::from_millis(500)) };
    let title = format!(
        "Full handshakes of {name}: {CLIENTS} clients, {rounds} rounds of {time:?}; medians, CPU time in us per handshake"
    );
    let of_server = format!("of {name}");
    let mut columns = vec![
        ("key", 9),
        ("file", 9),
        ("keyward", 11),
        (&of_server, 11),
        ("of daemon", 11),
        ("ratio", 8),
        ("goal", 8),
        ("middle half", 16),
    ];
    let mut daemon = Daemon::prepare("");
    daemon.start_quiet();
    let softhsm = with_softhsm.then(|| SoftHsm::new(&daemon)).flatten();
    if softhsm.is_some() {
        columns.extend([("SoftHSM2", 10), ("its ratio", 11)]);
    }
    let mut table = Table::new(part, title, &columns).drawn("ratio");
    let pki = Pki::new(daemon.directory());
    for (key_type, goal) in keys {
        let file = daemon.import(key_type, key_type);
        let reference = daemon.reference(key_type);
        let certificate = pki.certify(&daemon, &reference);
        let [plain, kept] =
            [file.clone(), reference].map(|key| Server::start(&daemon, &pki, &certificate, key, start));
        // The engine has no Ed25519.
        let in_softhsm = softhsm
            .as_ref()
            .filter(|_| *key_type != "ed25519")
            .map(|softhsm| Server::with_softhsm(softhsm, &pki, key_type, &certificate, &file));
        let round = || {
            let [file, server, of_daemon] = costs(&daemon, [&plain, &kept], time);
            let softhsm = in_softhsm.as_ref().map(|softhsm| {
                let [file, softhsm, _] = costs(&daemon, [&plain, softhsm], time);
                (file, softhsm)
            });
            Round { file, server, daemon: of_daemon, softhsm }
        };
        round();
        let rounds: Vec<Round> = (0..rounds).map(|_| round()).collect();
        table.add(
            &cells(key_type, *goal, &rounds, softhsm.is_some()),
            rounds.iter().map(Round::json).collect(),
        );
    }
    table
}

/// The row of a key type.
fn cells(key_type: &str, goal: f64, rounds: &[Round], with_softhsm: bool) -> Vec<Cell> {
    let median = |part: fn(&Round) -> f64| Cell::Number(percentile(50, rounds, part), 0);
    let ratio = |percent| percentile(percent, rounds, Round::ratio);
    let mut cells = vec![
        Cell::Text(key_type.to_owned()),
        median(|round| round.file),
        median(|round| round.server + round.daemon),
        median(|round| round.server),
        median(|round| round.daemon),
        Cell::Number(ratio(50), 2),
        Cell::Number(goal, 2),
        Cell::Text(format!("{:.2} to {:.2}", ratio(25), ratio(75))),
    ];
    if with_softhsm && rounds.iter().any(|round| round.softhsm.is_some()) {
        let of_softhsm = |round: &Round| round.softhsm.unwrap_or_default();
        cells.push(median(|round| round.softhsm.unwrap_or_default().1));
        let ratio = percentile(50, rounds, |round| of_softhsm(round).1 / of_softhsm(round).0);
        cells.push(Cell::Number(ratio, 2));
    } else if with_softhsm {
        cells.extend([Cell::None, Cell::None]);
    }
    cells
}

/// A server with one worker, and a client for it.
struct Server {
    _running: Box<dyn Any + Sync>,
    processes: Vec<u32>,
    handshake: Handshake,
}

impl Server {
    fn start(daemon: &Daemon, pki: &Pki, certificate: &Path, key: PathBuf, start: Start) -> Self {
        let site = Site::new(certificate.to_owned(), key);
        let (running, processes) = start(daemon, &site);
        Self { _running: running, processes, handshake: Handshake::new(pki, site.address) }
    }

    fn with_softhsm(softhsm: &SoftHsm, pki: &Pki, name: &str, certificate: &Path, key: &Path) -> Self {
        let site = Site::new(certificate.to_owned(), key.to_owned());
        let running = softhsm.start(name, key, &site);
        let processes = running.workers();
        Self { _running: Box::new(running), processes, handshake: Handshake::new(pki, site.address) }
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
    /// The server with the key in a file, and the server with the key in SoftHSM2, in turn.
    softhsm: Option<(f64, f64)>,
}

impl Round {
    /// Cost with the key in the daemon, as a multiple of that with the key in a file.
    fn ratio(&self) -> f64 {
        (self.server + self.daemon) / self.file
    }

    fn json(&self) -> serde_json::Value {
        let Self { file, server, daemon, softhsm } = self;
        let ratio = self.ratio();
        json!({ "file": file, "server": server, "daemon": daemon, "ratio": ratio, "softhsm": softhsm })
    }
}

/// Lets clients go to two servers in turn for a time. Returns what a handshake costs each server
/// and the daemon.
fn costs(daemon: &Daemon, servers: [&Server; 2], time: Duration) -> [f64; 3] {
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
    cost
}

/// Enough clients to keep a worker busy.
const CLIENTS: usize = 4;
