//! Instructions of a signature on its path from a server to the daemon and back, counted by
//! callgrind. Unlike times, instructions are the same on a busy machine, so a difference of a
//! percent between two builds shows. Both builds must use the same settings: CARGO_INCREMENTAL
//! alone changes six percent.
//!
//! Each side is counted with few signatures and with many, while the other side runs without
//! callgrind. The difference does not include start and end. A key in the embedded unit, one
//! connection, no other peer. RSA 2048 takes so many instructions in the unit that the rest of the
//! path shows on the side of the server only.
//!
//! Callgrind is slow, so periodic work happens more often under it, and even more often on a busy
//! machine. So the lowest of several rounds counts.

use std::fs;
use std::path::{Path, PathBuf};

use keyward_tests::pki::plain_key;
use keyward_tests::tool::succeed;
use keyward_tests::{Daemon, Host, OpenSsl, target};

use super::{percentile, start_quiet};

pub(super) fn run(quick: bool) {
    let (rounds, many) = if quick { (1, FEW + 200) } else { (5, FEW + 1000) };
    println!(
        "Instructions of a signature, embedded unit: callgrind, difference of {FEW} and {many} signatures, least of \
         {rounds}\n"
    );
    println!("{:<20}{:>10}{:>10}{:>10}{:>10}", "message", "server", "daemon", "sum", "most");
    for (name, key_type, mode) in [
        ("P-256, TLS 1.3", "p256", "paced-tls13"),
        ("P-256, TLS 1.2", "p256", "paced-tls12"),
        ("RSA 2048, TLS 1.3", "rsa2048", "paced-tls13"),
    ] {
        let rounds: Vec<_> = (0..rounds).map(|_| Round::count(key_type, mode, many)).collect();
        let part = |percent, part: fn(&Round) -> f64| percentile(percent, &rounds, part);
        let [server, daemon] = [part(0, |round| round.server), part(0, |round| round.daemon)];
        let most = part(100, |round| round.server + round.daemon);
        println!("{name:<20}{server:>10.0}{daemon:>10.0}{:>10.0}{most:>10.0}", server + daemon);
    }
}

/// Instructions of each signature.
struct Round {
    server: f64,
    daemon: f64,
}

impl Round {
    fn count(key_type: &str, mode: &str, many: u32) -> Self {
        let [fewer, more] = [FEW, many].map(|signatures| {
            let server = Scene::new(Side::Server).count(key_type, mode, signatures);
            let daemon = Scene::new(Side::Daemon).count(key_type, mode, signatures);
            [server, daemon]
        });
        let each = |side: usize| (more[side] - fewer[side]) / f64::from(many - FEW);
        Self { server: each(0), daemon: each(1) }
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Side {
    Server,
    Daemon,
}

/// A daemon with one key, and a program that requests signatures with it.
struct Scene {
    daemon: Daemon,
    counted: Side,
}

impl Scene {
    fn new(counted: Side) -> Self {
        let mut daemon = Daemon::prepare("");
        if counted == Side::Daemon {
            daemon.run_without_starter_by(callgrind(&daemon.path(COUNTS)));
        }
        start_quiet(&mut daemon);
        Self { daemon, counted }
    }

    /// The instructions of one side during its whole life.
    fn count(mut self, key_type: &str, mode: &str, signatures: u32) -> f64 {
        let key = kept_key(key_type);
        let words = ["import", "shop", "--in", key.to_str().expect("a path in UTF-8")];
        succeed(&mut self.daemon.new_key(&words));
        let reference = self.daemon.reference("shop");
        // The program does not use the certificate to sign.
        let mut host =
            Host::new(&self.daemon, OpenSsl::System).mode(mode, &reference, &reference, signatures);
        if self.counted == Side::Server {
            host.run_by(&callgrind(&self.daemon.path(COUNTS)));
        }
        host.run();
        assert!(self.daemon.stop().success(), "{}", self.daemon.log());
        total(&self.daemon.path(COUNTS))
    }
}

/// File of a key that all counted builds share, because signatures with two RSA keys differ by up
/// to a tenth in their instructions.
fn kept_key(key_type: &str) -> PathBuf {
    let path = target().join(format!("instructions-{key_type}.key"));
    if !path.exists() {
        fs::write(&path, plain_key(key_type)).expect("a key file");
    }
    path
}

fn callgrind(counts: &Path) -> Vec<String> {
    let out = format!("--callgrind-out-file={}", counts.display());
    // The seed of random numbers comes from the jitter of the processor's clock, which takes a
    // varying time.
    let seed = ["--toggle-collect=*jent_measure_jitter*", "--collect-atstart=yes"];
    ["valgrind", "--quiet", "--tool=callgrind", &out, seed[0], seed[1]].map(str::to_owned).into()
}

/// The sum in a file of callgrind, over all threads.
fn total(counts: &Path) -> f64 {
    let text = fs::read_to_string(counts).expect("a file of callgrind");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.expect("a line with the sum")
}

const COUNTS: &str = "callgrind.out";
/// Enough signatures that all one-time work is done.
const FEW: u32 = 100;
