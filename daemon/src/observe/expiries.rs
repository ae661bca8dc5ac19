//! Until when certificates hold, for metrics: from memory, however many keys there are.

use core::fmt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use keyward_proto::Label;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use tokio::time::{Duration, sleep};

use crate::daemon::Daemon;
use crate::keys::certificates::first_to_expire;
use crate::keys::{Key, StoreError};

/// When the certificates in use expire: of each enabled key those of the newest version that has
/// some. Shared by reference between tasks.
#[derive(Debug, Default)]
pub(crate) struct Expiries(Mutex<HashMap<Label, Expiry>>);

/// The certificate of a version.
#[derive(Clone, Copy, Debug)]
struct Expiry {
    version: u32,
    /// Of the certificate of its chain that expires first, in seconds since 1970.
    not_after: u64,
}

impl Expiries {
    /// Sees to it that they are those of the key store: looks at every key, and then at those that
    /// are changed. Never returns.
    pub(crate) async fn follow(daemon: Arc<Daemon>) {
        let expiries = Arc::clone(&daemon.metrics.expiries);
        let changes = daemon.keys.changes();
        let mut revisions = changes.subscribe();
        let mut seen = 0;
        loop {
            // A change that comes while the keys are read is looked at in the next round.
            revisions.mark_unchanged();
            let new = changes.since(seen, |_| true);
            let read = match new.everything {
                true => expiries.read_all(&daemon).await,
                false => expiries.read_some(&daemon, &new.labels).await,
            };
            match read {
                Ok(()) => {
                    seen = new.revision;
                    if revisions.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!("the metric of expiring certificates is not up to date: {error}");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// A page at a time: other work with the store is not kept waiting.
    async fn read_all(&self, daemon: &Daemon) -> Result<(), StoreError> {
        let (mut found, mut after) = (HashMap::new(), None);
        loop {
            let page = daemon.keys.list(after, PAGE).await?;
            let last = page.len() < PAGE;
            after = page.last().map(|listed| listed.label().to_string());
            let keys = page.into_iter().filter_map(|listed| listed.key().ok());
            found.extend(keys.filter_map(|key| Some((key.label.clone(), Expiry::of(&key)?))));
            if last {
                break;
            }
        }
        self.with(|known| *known = found);
        Ok(())
    }

    async fn read_some(&self, daemon: &Daemon, labels: &[String]) -> Result<(), StoreError> {
        for label in labels.iter().filter_map(|label| label.parse::<Label>().ok()) {
            let expiry = match daemon.keys.stored(&label).await {
                Ok(key) => key.as_ref().and_then(Expiry::of),
                Err(StoreError::Altered(_) | StoreError::Unlisted(_)) => None,
                Err(error) => return Err(error),
            };
            self.with(|known| match expiry {
                Some(expiry) => known.insert(label, expiry),
                None => known.remove(&label),
            });
        }
        Ok(())
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Label, Expiry>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Expiry {
    fn of(key: &Key) -> Option<Self> {
        if !key.state.may_sign() {
            return None;
        }
        let version = key.certified()?;
        let (_, first) = first_to_expire(&version.certificates)?;
        Some(Self { version: version.number, not_after: first.not_after() })
    }
}

impl Collector for Expiries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let forgotten = now.saturating_sub(FORGOTTEN).as_secs();
        let (mut first, left_out) = self.with(|known| {
            let mut all: Vec<_> = known.iter().collect();
            let left_out = all.len().saturating_sub(MOST);
            if left_out > 0 {
                let rank = |expiry: &Expiry| (expiry.not_after < forgotten, expiry.not_after);
                all.select_nth_unstable_by_key(MOST, |(_, expiry)| rank(expiry));
                all.truncate(MOST);
            }
            let first: Vec<_> = all.into_iter().map(|(label, expiry)| (label.clone(), *expiry)).collect();
            (first, left_out)
        });
        if first.is_empty() {
            return Ok(());
        }
        // The same page looks the same each time.
        first.sort_unstable_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        let help = "Until when the certificate of a key that is in use holds, with its chain, since 1970";
        let mut family = encoder.encode_descriptor(
            "certificate_not_after_timestamp",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (label, Expiry { version, not_after }) in first {
            let labels = [("key", label.as_str().to_owned()), ("version", version.to_string())];
            let gauge = ConstGauge::new(i64::try_from(not_after).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&labels)?)?;
        }
        let help =
            "Certificates in use of which it is not told here when they expire, since there are too many";
        let left_out = ConstGauge::new(i64::try_from(left_out).unwrap_or(i64::MAX));
        left_out.encode(encoder.encode_descriptor("certificates_left_out", help, None, MetricType::Gauge)?)
    }
}

/// Most certificates on a page of metrics: those that expire first, and then those that expired
/// long ago.
const MOST: usize = 1000;
/// Nobody has missed a certificate that expired before so long.
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 3600);
/// So many keys are read from the store at a time.
const PAGE: usize = 256;
/// Before a store that cannot be read is read again.
const PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn those_that_expire_first_are_told() {
        let expiries = Arc::new(Expiries::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&expiries)));
        let page = || {
            let mut text = String::new();
            prometheus_text::encode(&mut text, &registry).unwrap();
            text
        };
        assert_eq!(page(), "");
        let most = u64::try_from(MOST).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let day = 24 * 3600;
        let insert = |name: &str, number: u64, not_after: u64| {
            let label = format!("{name}-{number:04}").parse().unwrap();
            expiries.with(|known| known.insert(label, Expiry { version: 2, not_after }));
        };
        let told = || {
            let page = page();
            let lines = page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
            let mut told: Vec<_> = lines.collect();
            let left_out = told.pop().unwrap();
            (told, left_out.strip_prefix("certificates_left_out ").unwrap().parse::<u64>().unwrap())
        };
        let line = |name: &str, not_after: u64| {
            format!("certificate_not_after_timestamp_seconds{{key=\"{name}\",version=\"2\"}} {not_after}")
        };
        insert("old", 0, now - 31 * day);
        assert_eq!(told(), (vec![line("old-0000", now - 31 * day)], 0));
        for number in 1..2 * most {
            insert("old", number, now - 31 * day - number);
        }
        insert("gone", 0, now - 29 * day);
        for number in 0..most {
            insert("soon", number, now + day + number);
        }
        let (first, left_out) = told();
        assert_eq!((first.len(), left_out), (MOST, 2 * most + 1));
        assert_eq!(first[0], line("gone-0000", now - 29 * day));
        assert_eq!(*first.last().unwrap(), line("soon-0998", now + day + 998));
    }
}
