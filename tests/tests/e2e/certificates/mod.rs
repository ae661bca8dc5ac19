//! Certificates that are kept with their keys in the daemon.

mod attached;
mod followed;
mod versions;

use std::path::{Path, PathBuf};

use keyward_tests::tool::succeed;
use keyward_tests::{Backend, Daemon, Pki};
use serde_json::Value;

fn scene(backend: Backend) -> (Daemon, Pki) {
    let daemon = Daemon::start_on(backend);
    let pki = Pki::new(daemon.directory());
    (daemon, pki)
}

/// A certificate for the current version of a key.
fn certify(daemon: &Daemon, pki: &Pki, label: &str) -> PathBuf {
    pki.certify(daemon, &daemon.reference(label))
}

fn attach(daemon: &Daemon, label: &str, file: &Path) -> Value {
    let words = ["cert", "attach", label, "--json", "--in", file.to_str().unwrap()];
    serde_json::from_str(&succeed(&mut daemon.keyward(&words))).unwrap()
}

/// Label and version of each certificate, in the order of the list.
fn listed(daemon: &Daemon) -> Vec<(String, u64)> {
    let list = succeed(&mut daemon.keyward(&["cert", "list", "--json"]));
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    let row = |row: &Value| (row["label"].as_str().unwrap().to_owned(), row["version"].as_u64().unwrap());
    list.iter().map(row).collect()
}
