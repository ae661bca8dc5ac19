//! `keyward bench`: what the daemon can do on this machine, seen from the socket.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::path::Path;
use std::thread;
use std::time::Instant;

use clap::Args;
use hdrhistogram::Histogram;
use keyward_client::{Address, Client, Input};
use keyward_proto::{KeyType, Label, Scheme, Use};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use super::output::{print_json, print_table, table};
use crate::admin_client::AdminClient;
use crate::api::NewKey;
use crate::exit;
use crate::sockets::PEERS;

#[derive(Args, Debug)]
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
    #[command(flatten)]
    client: super::Client,
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        let runtime_dir = std::path::absolute(&self.client.runtime_dir).map_err(|error| {
            Failure::new(exit::USAGE, format_args!("cannot use the runtime directory: {error}"))
        })?;
        let types = if self.key_types.is_empty() { &KeyType::GENERATED[..] } else { &self.key_types };
        let connections = match self.connections {
            Some(connections) => connections.into(),
            None => thread::available_parallelism().map_or(1, usize::from),
        };
        let mut interrupt = Interrupt::new()?;
        let duration = Duration::from_secs(self.seconds.into());
        let mut results = Vec::new();
        for key_type in types {
            results.push(measure(&runtime_dir, *key_type, connections, duration, &mut interrupt)?);
        }
        if self.client.json {
            return print_json(&results);
        }
        let mut rows = table(&["KEY", "CONNECTIONS", "SIGNATURES/S", "P50 US", "P99 US", "P99.9 US"]);
        for result in &results {
            rows.add_row([
                result.key_type.clone(),
                result.connections.to_string(),
                format!("{:.0}", result.signatures_per_second),
                format!("{:.0}", result.p50_us),
                format!("{:.0}", result.p99_us),
                format!("{:.0}", result.p99_9_us),
            ]);
        }
        print_table(&rows)
    }
}

/// What was measured with one type of key.
#[derive(Debug, Serialize)]
struct Measured {
    #[serde(rename = "type")]
    key_type: String,
    connections: usize,
    signatures: u64,
    signatures_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
}

fn measure(
    runtime_dir: &Path,
    key_type: KeyType,
    connections: usize,
    duration: Duration,
    interrupt: &mut Interrupt,
) -> Result<Measured, Failure> {
    let key = TemporaryKey::make(runtime_dir, key_type)?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut latencies = Histogram::<u64>::new(3)
        .map_err(|error| Failure::new(exit::SOFTWARE, format_args!("cannot measure: {error}")))?;
    let interrupted = thread::scope(|scope| {
        let signers: Vec<_> =
            (0..connections).map(|_| scope.spawn(|| sign(runtime_dir, &key, &stop))).collect();
        let interrupted =
            interrupt.within(duration, || signers.iter().any(thread::ScopedJoinHandle::is_finished));
        stop.store(true, Ordering::Relaxed);
        for signer in signers {
            let signed =
                signer.join().map_err(|_| Failure::new(exit::SOFTWARE, "a thread of the benchmark died"))?;
            let _ = latencies.add(signed?);
        }
        Ok::<_, Failure>(interrupted)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    if interrupted {
        return Err(Failure::new(exit::SOFTWARE, "interrupted"));
    }
    let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Measured {
        key_type: key_type.to_string(),
        connections,
        signatures: latencies.len(),
        signatures_per_second: latencies.len() as f64 / seconds,
        p50_us: us(0.5),
        p99_us: us(0.99),
        p99_9_us: us(0.999),
    })
}

/// Signs over one connection until told to stop; returns how long each signature took, in nanoseconds.
fn sign(runtime_dir: &Path, key: &TemporaryKey, stop: &AtomicBool) -> Result<Histogram<u64>, Failure> {
    let failed = |error| {
        Failure::new(exit::UNAVAILABLE, error)
            .while_trying(format_args!("cannot sign with key {}", key.label))
    };
    let address =
        Address::from_path(&runtime_dir.join(PEERS)).map_err(|error| Failure::new(exit::USAGE, error))?;
    let client = Client::new(address, Client::DEFAULT_TIMEOUT);
    let mut latencies = Histogram::new(3)
        .map_err(|error| Failure::new(exit::SOFTWARE, format_args!("cannot measure: {error}")))?;
    let scheme = scheme(key.key_type);
    let mut message = certificate_verify();
    // The first one opens the connection and has the unit unwrap the key.
    client.sign(&key.label, 0, scheme, Input::Message(&message)).map_err(failed)?;
    while !stop.load(Ordering::Relaxed) {
        // Every handshake has another transcript.
        if let Some(last) = message.last_chunk_mut::<8>() {
            *last = u64::from_be_bytes(*last).wrapping_add(1).to_be_bytes();
        }
        let begin = Instant::now();
        client.sign(&key.label, 0, scheme, Input::Message(&message)).map_err(failed)?;
        let _ = latencies.record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(latencies)
}

/// What a server signs in TLS 1.3 (RFC 8446, 4.4.3), with the transcript hash of a SHA-256 cipher suite.
fn certificate_verify() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[0; 32]].concat()
}

/// The scheme that TLS 1.3 uses with a type of key.
fn scheme(key_type: KeyType) -> Scheme {
    match key_type {
        KeyType::P384 => Scheme::EcdsaSecp384r1Sha384,
        KeyType::P521 => Scheme::EcdsaSecp521r1Sha512,
        other => other.schemes().first().copied().unwrap_or(Scheme::EcdsaSecp256r1Sha256),
    }
}

/// A key that exists as long as this does.
struct TemporaryKey {
    admin: AdminClient,
    label: Label,
    key_type: KeyType,
}

impl TemporaryKey {
    fn make(runtime_dir: &Path, key_type: KeyType) -> Result<Self, Failure> {
        let label = format!("keyward-bench-{key_type}-{}", std::process::id());
        let label: Label = label.parse().map_err(|error| Failure::new(exit::SOFTWARE, error))?;
        let admin = AdminClient::new(runtime_dir)?;
        let wanted = NewKey {
            label: label.to_string(),
            key_type: key_type.to_string(),
            uses: vec![Use::TlsServer.name().into()],
        };
        admin.generate(&wanted).map_err(|error| {
            Failure::from(error).while_trying(format_args!("cannot generate key {label}"))
        })?;
        Ok(Self { admin, label, key_type })
    }
}

impl Drop for TemporaryKey {
    fn drop(&mut self) {
        if let Err(error) = self.admin.delete(self.label.as_str()) {
            eprintln!("keyward: cannot delete key {}: {error}", self.label);
        }
    }
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
    use crate::purpose::{Purpose, classify};

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
