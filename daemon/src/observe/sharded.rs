//! Counters and histograms that the threads of peers write for each request: each thread has a part
//! of its own.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::{self, Atomic};
use prometheus_client::metrics::{MetricType, TypedMetric};

use crate::ground::shard::Sharded;

/// Counter with a part for each thread.
pub(super) type Counter = counter::Counter<u64, Sum>;

/// Number that is the sum of its parts.
#[derive(Debug, Default)]
pub(super) struct Sum(Sharded<AtomicU64>);

impl Atomic<u64> for Sum {
    fn inc(&self) -> u64 {
        self.inc_by(1)
    }

    /// Returns the previous value of the part of this thread, which nobody uses.
    fn inc_by(&self, value: u64) -> u64 {
        self.0.own().fetch_add(value, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        self.0.all().map(|part| part.load(Ordering::Relaxed)).sum()
    }
}

/// Histogram with a part for each thread. A page that is made during an observation may have the
/// observation in the count and not yet in the sum.
#[derive(Clone, Debug)]
pub(super) struct Histogram<const N: usize> {
    /// Upper bounds of the buckets, ascending, in seconds.
    bounds: &'static [f64; N],
    parts: Arc<Sharded<Part<N>>>,
}

/// Observations of one thread.
#[derive(Debug)]
struct Part<const N: usize> {
    /// Number of observations in each bucket.
    counts: [AtomicU64; N],
    /// Number of observations above the last bound.
    above: AtomicU64,
    /// Sum in nanoseconds: enough for 584 years.
    nanoseconds: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    /// A histogram without observations, with a bucket for each of these ascending upper bounds in
    /// seconds, and one without a bound.
    pub(super) fn new(bounds: &'static [f64; N]) -> Self {
        let part = || Part {
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            nanoseconds: AtomicU64::new(0),
        };
        Self { bounds, parts: Arc::new(Sharded::new(part)) }
    }

    /// Adds an observation.
    pub(super) fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let part = self.parts.own();
        let mut buckets = self.bounds.iter().zip(&part.counts);
        let bucket = buckets.find(|(bound, _)| seconds <= **bound).map_or(&part.above, |(_, count)| count);
        bucket.fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        part.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl<const N: usize> EncodeMetric for Histogram<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let mut buckets: Vec<_> = bounds.map(|bound| (bound, 0)).collect();
        let mut nanoseconds = 0;
        for part in self.parts.all() {
            for (bucket, count) in buckets.iter_mut().zip(part.counts.iter().chain([&part.above])) {
                bucket.1 += count.load(Ordering::Relaxed);
            }
            nanoseconds += part.nanoseconds.load(Ordering::Relaxed);
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(nanoseconds as f64 / 1e9, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl<const N: usize> TypedMetric for Histogram<N> {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::ground::shard;

    #[test]
    fn a_page_has_the_sum_of_all_threads() {
        let (counter, histogram) = (Counter::default(), Histogram::new(&[0.001, 1.0]));
        let note = |time| {
            counter.inc();
            histogram.observe(time);
        };
        thread::scope(|scope| {
            for number in 0..3 {
                scope.spawn(move || {
                    shard::enter(number);
                    // A bound belongs to its bucket.
                    for time in [1, 2, 1000, 3000] {
                        note(Duration::from_millis(time));
                    }
                });
            }
        });
        note(Duration::ZERO);
        assert_eq!(counter.get(), 13);
        let mut registry = Registry::default();
        registry.register("times", "Times", histogram);
        let mut page = String::new();
        prometheus_text::encode(&mut page, &registry).unwrap();
        let values: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "times_sum 12.009",
            "times_count 13",
            "times_bucket{le=\"0.001\"} 4",
            "times_bucket{le=\"1\"} 10",
            "times_bucket{le=\"+Inf\"} 13",
        ];
        assert!(expected.iter().all(|line| values.contains(line)) && values.len() == 5, "{page}");
    }
}
