//! What is measured while the adapter works: counters and histograms, to be shown by `/metrics`.
//!
//! They are only ever added to, by whoever does the work, without a lock. Nothing is decided from them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mvcc::{Answer, Applied, OpAnswer, OpResult};

/// etcd's bounds: 1 ms and its doubles.
const DISK: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192];
/// etcd's bounds for what takes 0.1 ms and more.
const QUICK: &[f64] = &[
    0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0.4096, 0.8192,
    1.6384, 3.2768,
];
/// What Prometheus proposes, and the gRPC servers of etcd use.
pub const CALLS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Seconds that leases are granted for: 1 and its doubles.
const TTLS: &[f64] = &[
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    64.0,
    128.0,
    256.0,
    512.0,
    1024.0,
    2048.0,
    4096.0,
    8192.0,
    16384.0,
    32768.0,
    65536.0,
    131_072.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    8_388_608.0,
];
/// etcd calls an apply slow that takes longer.
const SLOW_APPLY: Duration = Duration::from_millis(100);
/// Likewise a question for the tail.
const SLOW_READ: Duration = Duration::from_millis(500);

/// How often something took how long.
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is above them all.
    buckets: Vec<AtomicU64>,
    nanos: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, buckets, nanos: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < took.as_secs_f64());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Its lines; `labels` is empty or ends in a comma.
    pub fn render(&self, page: &mut String, name: &str, labels: &str) {
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(self.bounds) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(page, "{name}_bucket{{{labels}le=\"{bound}\"}} {count}");
        }
        count += self.buckets[self.bounds.len()].load(Ordering::Relaxed);
        let _ = writeln!(page, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}");
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let seconds = self.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(page, "{name}_sum{labels} {seconds}\n{name}_count{labels} {count}");
    }
}

/// A number that only rises.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    pub fn add(&self, more: u64) {
        if more > 0 {
            self.0.fetch_add(more, Ordering::Relaxed);
        }
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that is measured.
pub struct Meters {
    /// From an entry's first sending until the journal says that it is durable.
    pub append: Histogram,
    /// One write batch of the local store.
    pub commit: Histogram,
    /// One flush of the local store.
    pub flush: Histogram,
    /// From a question for the tail to its answer.
    pub round_trip: Histogram,
    /// Applying what was at hand, until it was visible.
    pub apply: Histogram,
    /// Answering a range, its confirmation included, by whether it succeeded.
    pub ranges_done: Histogram,
    pub ranges_failed: Histogram,
    pub lease_ttl: Histogram,
    pub slow_applies: Count,
    pub slow_reads: Count,
    pub reads_failed: Count,
    pub reads_confirmed: Count,
    pub tails_asked: Count,
    pub appends_failed: Count,
    pub puts: Count,
    pub deletes: Count,
    pub ranges: Count,
    pub txns: Count,
    pub put_bytes: Count,
    pub events: Count,
    pub leases_granted: Count,
    pub leases_revoked: Count,
    pub leases_renewed: Count,
    pub leases_expired: Count,
    pub entries: Count,
    pub commands: Count,
    pub panics: Count,
    pub forgotten: Count,
    pub received_bytes: Count,
    pub sent_bytes: Count,
    pub promotions: Count,
    /// Learners that were not promoted, by why.
    pub promotions_refused: [Count; 4],
}

impl Default for Meters {
    fn default() -> Self {
        let (disk, quick) = (|| Histogram::new(DISK), || Histogram::new(QUICK));
        Meters {
            append: disk(),
            commit: disk(),
            flush: disk(),
            round_trip: quick(),
            apply: quick(),
            ranges_done: quick(),
            ranges_failed: quick(),
            lease_ttl: Histogram::new(TTLS),
            slow_applies: Count::default(),
            slow_reads: Count::default(),
            reads_failed: Count::default(),
            reads_confirmed: Count::default(),
            tails_asked: Count::default(),
            appends_failed: Count::default(),
            puts: Count::default(),
            deletes: Count::default(),
            ranges: Count::default(),
            txns: Count::default(),
            put_bytes: Count::default(),
            events: Count::default(),
            leases_granted: Count::default(),
            leases_revoked: Count::default(),
            leases_renewed: Count::default(),
            leases_expired: Count::default(),
            entries: Count::default(),
            commands: Count::default(),
            panics: Count::default(),
            forgotten: Count::default(),
            received_bytes: Count::default(),
            sent_bytes: Count::default(),
            promotions: Count::default(),
            promotions_refused: Default::default(),
        }
    }
}

impl Meters {
    /// What was at hand was applied and made visible.
    pub fn applied(&self, took: Duration) {
        self.apply.observe(took);
        self.slow_applies.add(u64::from(took > SLOW_APPLY));
    }

    /// The journal answered where its tail is.
    pub fn told_tail(&self, took: Duration, readers: usize) {
        self.round_trip.observe(took);
        self.tails_asked.add(1);
        self.reads_confirmed.add(readers as u64);
        self.slow_reads.add(u64::from(took > SLOW_READ));
    }

    /// What one entry did.
    pub fn entry(&self, applied: &Applied) {
        self.entries.add(1);
        self.commands.add(applied.replies.len() as u64);
        self.events.add(applied.changes.len() as u64);
        let rows = applied.changes.iter().map(|change| &change.row).filter(|row| !row.is_tombstone());
        self.put_bytes.add(rows.map(|row| (row.key.len() + row.value.len()) as u64).sum());
        for reply in &applied.replies {
            match &reply.result {
                Ok(Answer::Put { .. }) => self.puts.add(1),
                Ok(Answer::DeleteRange { .. }) => self.deletes.add(1),
                Ok(Answer::Txn(txn)) => {
                    self.txns.add(1);
                    self.ops(&txn.ops);
                }
                Ok(Answer::LeaseGrant { ttl, .. }) => {
                    self.leases_granted.add(1);
                    self.lease_ttl.observe(Duration::from_secs(u64::try_from(*ttl).unwrap_or(0)));
                }
                Ok(Answer::LeaseRevoke) => self.leases_revoked.add(1),
                Ok(Answer::KeepAlive { ttl, .. }) => self.leases_renewed.add(u64::from(*ttl > 0)),
                Ok(Answer::Expire { expired }) => {
                    self.leases_expired.add(u64::from(*expired));
                    self.leases_revoked.add(u64::from(*expired));
                }
                Err(crate::mvcc::Refusal::Panicked(what)) => {
                    tracing::error!(position = %applied.position, "a command could not be decided: {what}");
                    self.panics.add(1);
                }
                _ => {}
            }
        }
    }

    fn ops(&self, ops: &[OpAnswer]) {
        for op in ops {
            match &op.result {
                OpResult::Range { .. } => self.ranges.add(1),
                OpResult::Put { .. } => self.puts.add(1),
                OpResult::DeleteRange { .. } => self.deletes.add(1),
                OpResult::Txn(txn) => self.ops(&txn.ops),
                OpResult::Empty => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_lies_at_or_below_each_bound() {
        let histogram = Histogram::new(&[0.001, 0.01]);
        for micros in [500, 1000, 1001, 50_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut page = String::new();
        histogram.render(&mut page, "t", "a=\"b\",");
        let lines = [
            "t_bucket{a=\"b\",le=\"0.001\"} 2",
            "t_bucket{a=\"b\",le=\"0.01\"} 3",
            "t_bucket{a=\"b\",le=\"+Inf\"} 4",
            "t_sum{a=\"b\"} 0.052501",
            "t_count{a=\"b\"} 4",
        ];
        assert_eq!(page.lines().collect::<Vec<_>>(), lines);
    }
}
