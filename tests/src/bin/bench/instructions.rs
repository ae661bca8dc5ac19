//! Instructions of a signature on its path from a server to the daemon and back; see
//! [`keyward_tests::cost`]. A difference of a percent between two builds shows. Both builds must
//! use the same settings: CARGO_INCREMENTAL alone changes six percent.
//!
//! RSA 2048 takes so many instructions in the unit that the rest of the path shows on the side of
//! the server only.
//!
//! Callgrind is slow, so periodic work happens more often under it, and even more often on a busy
//! machine. So the lowest of several rounds counts.

use keyward_tests::cost::{Cost, Side, Signatures, instructions};
use serde_json::json;

use super::percentile;
use super::results::{Cell, Results, Table};

pub(super) fn run(quick: bool, results: &mut Results) {
    let (rounds, number) = if quick { (1, 200) } else { (5, 1000) };
    let title = format!(
        "Instructions of a signature, embedded unit: callgrind, {number} signatures, least of {rounds}; unit: instructions of the daemon in Unit::sign"
    );
    let columns = [("message", 20), ("server", 10), ("daemon", 10), ("sum", 10), ("most", 10), ("unit", 10)];
    let mut table = Table::new("instructions", title, &columns);
    for (name, key_type, mode) in [
        ("P-256, TLS 1.3", "p256", "paced-tls13"),
        ("P-256, TLS 1.2", "p256", "paced-tls12"),
        ("RSA 2048, TLS 1.3", "rsa2048", "paced-tls13"),
    ] {
        let signatures = Signatures { key_type, mode, number };
        let rounds: Vec<_> = (0..rounds)
            .map(|_| [Side::Server, Side::Daemon].map(|side| instructions(side, signatures)))
            .collect();
        let [server, daemon] = [0, 1].map(|side| percentile(0, &rounds, |round| round[side].instructions));
        let most = percentile(100, &rounds, |round| round[0].instructions + round[1].instructions);
        let unit = percentile(0, &rounds, |round| round[1].within(UNIT));
        let numbers = [server, daemon, server + daemon, most, unit].map(|number| Cell::Number(number, 0));
        let cells: Vec<_> = [Cell::Text(name.to_owned())].into_iter().chain(numbers).collect();
        let each = |[server, daemon]: &[Cost; 2]| json!({ "server": server.instructions, "daemon": daemon.instructions });
        table.add(&cells, rounds.iter().map(each).collect());
    }
    results.keep(table);
}

/// Function of the unit that signs.
const UNIT: &str = "keyward_unit::unit::Unit::sign";
