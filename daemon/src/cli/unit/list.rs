//! `keyward unit list`: the units of a daemon.

use crate::admin::api::UnitView;
use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json, print_table, table};

pub(super) fn list(client: &Client) -> Result<(), Failure> {
    let units = AdminClient::new(&client.runtime_dir)
        .and_then(|admin| admin.units())
        .map_err(|error| Failure::from(error).while_trying("cannot list units"))?;
    if client.json {
        return print_json(&units);
    }
    let titles = ["BACKEND", "UNIT", "HEALTH", "LATENCY", "IN FLIGHT", "MASTER KEY", "MECHS"];
    let mut rows = table(&titles);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    for unit in &units {
        // The first characters are enough to distinguish master keys.
        let wkid = or_dash(unit.wkid.as_ref().map(|wkid| wkid.chars().take(8).collect()));
        rows.add_row([
            unit.backend.clone(),
            unit.address.clone(),
            unit.health.clone(),
            or_dash(unit.latency_us.map(|us| format!("{:.1} ms", us as f64 / 1000.0))),
            or_dash(unit.in_flight.map(|calls| calls.to_string())),
            match (unit.other_master_key, unit.next_master_key) {
                (true, _) => format!("{wkid}, wrong"),
                (false, true) => format!("{wkid}, next"),
                (false, false) => wkid,
            },
            or_dash(unit.breaker.as_ref().map(|_| unit.mechanisms.len().to_string())),
        ]);
    }
    print_table(&rows)?;
    let problem = |unit: &UnitView| {
        let problem = unit.problem.as_ref()?;
        Some(format!("{} of {}: {problem}\n", unit.address, unit.backend))
    };
    print(&units.iter().filter_map(problem).collect::<String>())
}
