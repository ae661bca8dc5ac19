//! Cost of loading plain key files in a process that also has the provider.

use std::fs;

use keyward_tests::pki::plain_key;
use keyward_tests::{Daemon, Host, OpenSsl};
use serde_json::json;

use super::percentile;
use super::results::{Cell, Results, Table};

pub(super) fn run(quick: bool, results: &mut Results) {
    let rounds = if quick { 3 } else { 21 };
    let title = format!(
        "Loading 1000 plain key files, with the provider in the process and without: medians of {rounds} rounds, in ms"
    );
    let columns = [("OpenSSL", 9), ("key", 9), ("without", 10), ("with", 10), ("ratio", 8), ("goal", 8)];
    let mut table = Table::new("loads", title, &columns).drawn("ratio");
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
            let rounds: Vec<_> = (0..rounds).map(|_| [false, true].map(load)).collect();
            let [without, with] = [0, 1].map(|which| percentile(50, &rounds, |round| round[which]));
            let cells = [
                Cell::Text(format!("{openssl:?}")),
                Cell::Text(key_type.to_owned()),
                Cell::Number(without * 1e3, 1),
                Cell::Number(with * 1e3, 1),
                Cell::Number(percentile(50, &rounds, |[without, with]| with / without), 3),
                Cell::Number(1.1, 1),
            ];
            let each = |[without, with]: &[f64; 2]| json!({ "without": without, "with": with, "ratio": with / without });
            table.add(&cells, rounds.iter().map(each).collect());
        }
    }
    results.keep(table);
}

/// Configuration of OpenSSL that loads the default provider only.
const WITHOUT: &str =
    "openssl_conf = init\n[init]\nproviders = list\n[list]\ndefault = one\n[one]\nactivate = 1\n";
