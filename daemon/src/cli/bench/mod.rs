//! `keyward bench`: throughput and latency of the daemon over its socket, or of a crypto unit over
//! the network.

mod grep11;
mod interrupt;
mod measurement;
mod socket;

use core::time::Duration;
use std::thread;

use clap::Args;
use keyward_proto::KeyType;

use super::client::Client;
use super::failure::Failure;
use super::output::{print_json, print_table, table};
use grep11::{Grep11Options, RemoteUnit};
use interrupt::Interrupt;
use measurement::Load;
use socket::Daemon;

#[derive(Args, Debug)]
pub(super) struct Bench {
    /// Type of key to sign with; the option may be repeated [default: each type that the unit
    /// generates]
    #[arg(long = "type", value_name = "TYPE")]
    key_types: Vec<KeyType>,
    /// Time to sign with each type, in seconds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Number of concurrent connections [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Option<u16>,
    /// Backend to sign with [default: the only backend]
    #[arg(long, value_name = "NAME", conflicts_with = "grep11")]
    backend: Option<String>,
    #[command(flatten)]
    grep11: Grep11Options,
    #[command(flatten)]
    client: Client,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let types = if self.key_types.is_empty() { &KeyType::GENERATED[..] } else { &self.key_types };
        let connections = match self.connections {
            Some(connections) => connections.into(),
            None => thread::available_parallelism().map_or(1, usize::from),
        };
        let load = Load { connections, duration: Duration::from_secs(self.seconds.into()) };
        let mut interrupt = Interrupt::new()?;
        let mut results = Vec::new();
        // Dropped last: a note about the keys that are left follows the results.
        let daemon = Daemon::new(&self.client.runtime_dir)?;
        match &self.grep11.address {
            None => {
                for key_type in types {
                    results.push(daemon.measure(*key_type, self.backend.as_deref(), load, &mut interrupt)?);
                }
            }
            Some(address) => {
                let unit = RemoteUnit::new(address, &self.grep11)?;
                for key_type in types {
                    results.push(unit.measure(*key_type, load, &mut interrupt)?);
                }
            }
        }
        if self.client.json {
            return print_json(&results);
        }
        let bare = self.grep11.address.is_some().then_some("BARE US");
        let titles = ["KEY", "CALLS", "SIGNATURES/S", "P50 US", "P99 US", "P99.9 US"];
        let mut rows = table(&titles.into_iter().chain(bare).collect::<Vec<_>>());
        for result in &results {
            let cells = [
                result.key_type.clone(),
                result.calls.to_string(),
                format!("{:.0}", result.signatures_per_second),
                format!("{:.0}", result.p50_us),
                format!("{:.0}", result.p99_us),
                format!("{:.0}", result.p99_9_us),
            ];
            rows.add_row(cells.into_iter().chain(result.bare_us.map(|bare| format!("{bare:.0}"))));
        }
        print_table(&rows)
    }
}
