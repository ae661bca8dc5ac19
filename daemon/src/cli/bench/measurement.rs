//! Measurement of signatures: load, latencies and results.

use core::time::Duration;
use std::time::Instant;

use hdrhistogram::Histogram;
use keyward_proto::{KeyType, Scheme};
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::ground::exit;

/// Number of connections, and duration of the load.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) connections: usize,
    pub(super) duration: Duration,
}

/// Results for one type of key.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    #[serde(rename = "type")]
    pub(super) key_type: String,
    pub(super) connections: usize,
    /// Concurrent calls over all connections.
    pub(super) calls: usize,
    pub(super) signatures: u64,
    pub(super) signatures_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
    /// Time of one signature by the software crypto unit in this process, without any transport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bare_us: Option<f64>,
}

impl Measured {
    pub(super) fn new(
        key_type: KeyType,
        load: Load,
        calls: usize,
        start: Instant,
        latencies: &Latencies,
    ) -> Self {
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

/// Latencies of signatures, in nanoseconds.
pub(super) type Latencies = Histogram<u64>;

pub(super) fn no_latencies() -> Result<Latencies, Failure> {
    Histogram::new(3).map_err(|error| Failure::new(exit::SOFTWARE, format_args!("cannot measure: {error}")))
}

pub(super) fn record(latencies: &mut Latencies, begin: Instant) {
    let _ = latencies.record(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX));
}

/// The message that a TLS 1.3 server signs (RFC 8446, 4.4.3), with the transcript hash of a SHA-256
/// cipher suite.
pub(super) fn certificate_verify() -> Vec<u8> {
    [&[b' '; 64][..], b"TLS 1.3, server CertificateVerify", &[0], &[0; 32]].concat()
}

/// Changes the message, since every handshake has another transcript.
pub(super) fn vary(message: &mut [u8]) {
    if let Some(last) = message.last_chunk_mut::<8>() {
        *last = u64::from_be_bytes(*last).wrapping_add(1).to_be_bytes();
    }
}

/// The scheme that TLS 1.3 uses with a type of key.
pub(super) fn scheme(key_type: KeyType) -> Scheme {
    key_type.schemes().first().copied().unwrap_or(Scheme::EcdsaSecp256r1Sha256)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::purpose::{Purpose, classify};

    #[test]
    fn the_message_is_one_of_a_tls_server() {
        assert_eq!(classify(&certificate_verify(), &[]), Purpose::Tls13ServerCertificateVerify);
    }

    #[test]
    fn schemes_belong_to_their_types() {
        for key_type in KeyType::GENERATED {
            assert!(key_type.schemes().contains(&scheme(key_type)), "{key_type}");
        }
    }
}
