//! Metric of expiry times of certificates. A page of metrics reads memory only, never the store.

use core::fmt;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Label;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Expiry times of the certificates in use: one for each enabled key, of the newest version that
/// has certificates. Shared by reference between tasks.
#[derive(Debug, Default)]
pub(crate) struct Expiries(Mutex<HashMap<Label, Expiry>>);

/// Expiry time of the certificates of a version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expiry {
    /// Number of the version.
    pub(crate) version: u32,
    /// Time from which and until which the certificate of the chain that expires first is valid, in
    /// seconds since 1970.
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

impl Expiries {
    /// Replaces all entries.
    pub(crate) fn replace(&self, all: HashMap<Label, Expiry>) {
        self.with(|known| *known = all);
    }

    /// Sets the entry of a key, or removes the entry.
    pub(crate) fn set(&self, label: Label, expiry: Option<Expiry>) {
        self.with(|known| match expiry {
            Some(expiry) => known.insert(label, expiry),
            None => known.remove(&label),
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Label, Expiry>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Collector for Expiries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let long_expired = now.saturating_sub(LONG_EXPIRED).as_secs();
        let (mut first, left_out) = self.with(|known| {
            let mut all: Vec<_> = known.iter().collect();
            let left_out = all.len().saturating_sub(MAX_CERTIFICATES);
            if left_out > 0 {
                let rank = |expiry: &Expiry| (expiry.not_after < long_expired, expiry.not_after);
                all.select_nth_unstable_by_key(MAX_CERTIFICATES, |(_, expiry)| rank(expiry));
                all.truncate(MAX_CERTIFICATES);
            }
            let first: Vec<_> = all.into_iter().map(|(label, expiry)| (label.clone(), *expiry)).collect();
            (first, left_out)
        });
        if first.is_empty() {
            return Ok(());
        }
        // Sorted, so that a page with the same entries is the same text.
        first.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        let mut write = |name: &str, help: &str, time: fn(&Expiry) -> u64| -> fmt::Result {
            let mut family =
                encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
            for (label, expiry) in &first {
                let labels = [("key", label.as_str().to_owned()), ("version", expiry.version.to_string())];
                let gauge = ConstGauge::new(i64::try_from(time(expiry)).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&labels)?)?;
            }
            Ok(())
        };
        let help = "Expiry time of the certificate of an enabled key, with its chain, as attached in the daemon, since 1970";
        write("certificate_not_after_timestamp", help, |expiry| expiry.not_after)?;
        let help = "First time at which that certificate is valid, since 1970";
        write("certificate_not_before_timestamp", help, |expiry| expiry.not_before)?;
        let help = "Certificates in use without a metric of their expiry time, since there are too many";
        let left_out = ConstGauge::new(i64::try_from(left_out).unwrap_or(i64::MAX));
        left_out.encode(encoder.encode_descriptor("certificates_left_out", help, None, MetricType::Gauge)?)
    }
}

/// Maximum number of certificates on a page of metrics. The certificates that expire first are
/// kept. Certificates that expired long ago are left out first.
const MAX_CERTIFICATES: usize = 1000;
/// Time since the expiry after which a certificate is left out first: nobody has missed it.
const LONG_EXPIRED: Duration = Duration::from_secs(30 * 24 * 3600);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn the_certificates_that_expire_first_are_shown() {
        let expiries = Arc::new(Expiries::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&expiries)));
        let page = || {
            let mut text = String::new();
            prometheus_text::encode(&mut text, &registry).unwrap();
            text
        };
        assert_eq!(page(), "");
        let most = u64::try_from(MAX_CERTIFICATES).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let day = 24 * 3600;
        let insert = |name: &str, number: u64, not_after: u64| {
            let label = format!("{name}-{number:04}").parse().unwrap();
            expiries.with(|known| known.insert(label, Expiry { version: 2, not_before: 1, not_after }));
        };
        let shown = || {
            let page = page();
            let lines = page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
            let (begins, mut shown): (Vec<_>, Vec<_>) = lines.partition(|line| line.contains("not_before"));
            assert_eq!(begins.len() + 1, shown.len(), "and the number of those that are left out");
            let left_out = shown.pop().unwrap();
            (shown, left_out.strip_prefix("certificates_left_out ").unwrap().parse::<u64>().unwrap())
        };
        let line = |name: &str, not_after: u64| {
            format!("certificate_not_after_timestamp_seconds{{key=\"{name}\",version=\"2\"}} {not_after}")
        };
        insert("old", 0, now - 31 * day);
        assert_eq!(shown(), (vec![line("old-0000", now - 31 * day)], 0));
        for number in 1..2 * most {
            insert("old", number, now - 31 * day - number);
        }
        insert("gone", 0, now - 29 * day);
        for number in 0..most {
            insert("soon", number, now + day + number);
        }
        let (first, left_out) = shown();
        assert_eq!((first.len(), left_out), (MAX_CERTIFICATES, 2 * most + 1));
        assert_eq!(first[0], line("gone-0000", now - 29 * day));
        assert_eq!(*first.last().unwrap(), line("soon-0998", now + day + 998));
    }
}
