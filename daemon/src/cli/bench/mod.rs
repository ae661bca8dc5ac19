//! `keyward bench`: what the daemon can do on this machine, seen from the socket, and what a crypto unit can do,
//! seen from the network.

mod grep11;
mod socket;

use core::time::Duration;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use clap::{ArgGroup, Args};
use hdrhistogram::Histogram;
use keyward_proto::{KeyType, Scheme};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use super::output::{print_json, print_table, table};
use crate::ground::exit;
use grep11::RemoteUnit;
use socket::Daemon;

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("transport").args(["plaintext", "tls_ca"]))]
pub(super) struct Bench {
    /// Type of key to sign with, any number of times [default: each that the unit generates]
    #[arg(long = "type", value_name = "TYPE")]
    key_types: Vec<KeyType>,
    /// How long to sign with each, in seconds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// How many connections to sign over at a time [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: Option<u16>,
    /// The backend to sign with [default: the only one there is]
    #[arg(long, value_name = "NAME", conflicts_with = "grep11")]
    backend: Option<String>,
    /// Measure a GREP11 server instead of the daemon
    #[arg(long, value_name = "HOST:PORT", requires = "transport", help_heading = "GREP11")]
    grep11: Option<String>,
    /// How many calls to have under way on each connection
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1024),
        requires = "grep11",
        help_heading = "GREP11"
    )]
    calls: u16,
    /// Without TLS
    #[arg(long, requires = "grep11", help_heading = "GREP11")]
    plaintext: bool,
    /// CA of the server's certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "grep11", help_heading = "GREP11")]
    tls_ca: Option<PathBuf>,
    /// Certificate chain to show to the server, as PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"], help_heading = "GREP11")]
    tls_cert: Option<PathBuf>,
    /// Private key of that certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "GREP11")]
    tls_key: Option<PathBuf>,
    /// File with the bearer token to bring
    #[arg(long, value_name = "FILE", requires = "grep11", help_heading = "GREP11")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    client: super::Client,
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
        match &self.grep11 {
            None => {
                let daemon = Daemon::new(&self.client.runtime_dir)?;
                for key_type in types {
                    results.push(daemon.measure(*key_type, self.backend.as_deref(), load, &mut interrupt)?);
                }
            }
            Some(address) => {
                let unit = RemoteUnit::new(address, &self)?;
                for key_type in types {
                    results.push(unit.measure(*key_type, load, &mut interrupt)?);
                }
            }
        }
        if self.client.json {
            return print_json(&results);
        }
        let bare = self.grep11.is_some().then_some("BARE US");
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

/// How much is asked for, and for how long.
#[derive(Clone, Copy)]
struct Load {
    connections: usize,
    duration: Duration,
}

/// What was measured with one type of key.
#[derive(Debug, Serialize)]
struct Measured {
    #[serde(rename = "type")]
    key_type: String,
    connections: usize,
    /// Calls under way at a time, over all connections.
    calls: usize,
    signatures: u64,
    signatures_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    /// What a signature alone takes here, by the software crypto unit in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    bare_us: Option<f64>,
}

impl Measured {
    fn new(key_type: KeyType, load: Load, calls: usize, start: Instant, latencies: &Latencies) -> Self {
        let seconds = start.elapsed().as_secs_f64();
        let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            key_type: key_type.to_string(),
            connections: load.connections,
            calls,
            signatures: latencies.len(),
            signatures_per_second: latencies.len() as f64 / seconds,
            p50_us: us(0.5),
            p99_us: us(0.99),
            p99_9_us: us(0.999),
            bare_us: None,
        }
    }
}

/// How long signatures took, in nanoseconds.
type Latencies = Histogram<u64>;

fn no_latencies() -> Result<Latencies, Failure> {
    Histogram::new(3).map_err(|error| Failure::new(exit::SOFTWARE, format_args!("cannot measure: {error}")))
}

fn record(latencies: &mut Latencies, begin: Instant) {
    let _ = latencies.record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
}

fn interrupted() -> Failure {
    Failure::new(exit::SOFTWARE, "interrupted")
}

/// What a server signs in TLS 1.3 (RFC 8446, 4.4.3), with the transcript hash of a SHA-256 cipher suite.
fn certificate_verify() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[0; 32]].concat()
}

/// Makes it another message: every handshake has another transcript.
fn vary(message: &mut [u8]) {
    if let Some(last) = message.last_chunk_mut::<8>() {
        *last = u64::from_be_bytes(*last).wrapping_add(1).to_be_bytes();
    }
}

/// The scheme that TLS 1.3 uses with a type of key.
fn scheme(key_type: KeyType) -> Scheme {
    key_type.schemes().first().copied().unwrap_or(Scheme::EcdsaSecp256r1Sha256)
}

/// SIGINT and SIGTERM, which end a measurement instead of the process, so that its key is deleted.
struct Interrupt {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    fn new() -> Result<Self, Failure> {
        let failed = |error| Failure::new(exit::OS, format_args!("cannot wait for signals: {error}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let signals = runtime
            .block_on(async { Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) });
        let (interrupt, terminate) = signals.map_err(failed)?;
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Waits that long, or until `over`, or for a signal; returns whether one came.
    fn within(&mut self, duration: Duration, over: impl Fn() -> bool) -> bool {
        let Self { runtime, interrupt, terminate } = self;
        let end = Instant::now() + duration;
        runtime.block_on(async {
            while Instant::now() < end && !over() {
                tokio::select! {
                    _ = interrupt.recv() => return true,
                    _ = terminate.recv() => return true,
                    () = tokio::time::sleep(LOOK.min(end.saturating_duration_since(Instant::now()))) => {}
                }
            }
            false
        })
    }
}

/// How often to look whether a signer has failed.
const LOOK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::purpose::{Purpose, classify};

    #[test]
    fn what_is_signed_is_what_a_tls_server_signs() {
        assert_eq!(classify(&certificate_verify(), &[]), Purpose::Tls13ServerCertificateVerify);
    }

    #[test]
    fn schemes_belong_to_their_types() {
        for key_type in KeyType::GENERATED {
            assert!(key_type.schemes().contains(&scheme(key_type)), "{key_type}");
        }
    }
}
