//! Cost of loading plain key files in a process that also has the provider.

use std::fs;

use keyward_tests::pki::plain_key;
use keyward_tests::{Daemon, Host, OpenSsl};

use super::percentile;

pub(super) fn run(quick: bool) {
    let rounds = if quick { 3 } else { 21 };
    println!(
        "Loading 1000 plain key files, with the provider in the process and without: medians of {rounds} rounds\n"
    );
    println!("| OpenSSL | key | without | with | ratio | goal |");
    println!("|---|---|---|---|---|---|");
    let daemon = Daemon::prepare("");
    let without = daemon.path("without.cnf");
    fs::write(&without, WITHOUT).unwrap();
    for openssl in OpenSsl::ALL {
        for key_type in ["p256", "rsa2048"] {
            let plain = daemon.path(&format!("{key_type}.pem"));
            fs::write(&plain, plain_key(key_type)).unwrap();
            let load = |with: bool| {
                let mut host = Host::new(&daemon, openssl).mode("loads", &plain, &plain, 1000);
                if !with {
                    host.command.env("OPENSSL_CONF", &without);
                }
                host.run()["seconds"]
            };
            let mut times = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (with, times) in times.iter_mut().enumerate() {
                    times.push(load(with == 1));
                }
            }
            let [without, with] = times.map(|times| percentile(50, &times, |time| *time));
            println!(
                "| {openssl:?} | {key_type} | {:.1} ms | {:.1} ms | {:.3} | 1.1 |",
                without * 1e3,
                with * 1e3,
                with / without
            );
        }
    }
}

/// Configuration of OpenSSL that loads the default provider only.
const WITHOUT: &str =
    "openssl_conf = init\n[init]\nproviders = list\n[list]\ndefault = one\n[one]\nactivate = 1\n";
