//! What is measured while the adapter works: counters and histograms, to be shown by `/metrics`.
//!
//! They are only ever added to, by whoever does the work, without a lock. Nothing is decided from them.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::command::Command;
use crate::mvcc::{Answer, Applied, OpAnswer, OpResult};

/// Bounds of a histogram: a number and its doubles.
const fn doubles<const N: usize>(first: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut i = 1;
    while i < N {
        bounds[i] = bounds[i - 1] * 2.0;
        i += 1;
    }
    bounds
}

// etcd's bounds, in seconds where nothing else is said.
const DISK: &[f64] = &doubles::<14>(0.001);
const QUICK: &[f64] = &doubles::<16>(0.0001);
const HASHES: &[f64] = &doubles::<15>(0.01);
const TTLS: &[f64] = &doubles::<24>(1.0);
pub const DEFRAGMENTATIONS: &[f64] = &doubles::<13>(0.1);
pub const SNAPSHOTS: &[f64] = &doubles::<17>(0.01);
pub const TRANSFERS: &[f64] = &doubles::<10>(0.1);
/// In milliseconds.
const PAUSES: &[f64] = &doubles::<13>(1.0);
const COMPACTIONS: &[f64] = &doubles::<14>(100.0);
/// What Prometheus proposes, and the gRPC servers of etcd use.
pub const CALLS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
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

    /// The same, where bounds are in milliseconds.
    pub fn observe_millis(&self, took: Duration) {
        self.observe(took * 1000);
    }

    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|bucket| bucket.load(Ordering::Relaxed) == 0)
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

/// Bytes of connections.
#[derive(Default)]
pub struct Traffic {
    pub received: Count,
    pub sent: Count,
}

/// Requests whose time is measured, in etcd's words: those that go through the log, and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    Alarm,
}

impl Kind {
    pub const ALL: [Kind; 9] = [
        Kind::Range,
        Kind::ReadonlyTxn,
        Kind::Put,
        Kind::DeleteRange,
        Kind::Txn,
        Kind::Compaction,
        Kind::LeaseGrant,
        Kind::LeaseRevoke,
        Kind::Alarm,
    ];

    pub fn of(command: &Command) -> Option<Kind> {
        Some(match command {
            Command::Put(_) => Kind::Put,
            Command::DeleteRange(_) => Kind::DeleteRange,
            Command::Txn(_) => Kind::Txn,
            Command::Compact { .. } => Kind::Compaction,
            Command::LeaseGrant { .. } => Kind::LeaseGrant,
            Command::LeaseRevoke { .. } => Kind::LeaseRevoke,
            Command::Alarm { .. } => Kind::Alarm,
            _ => return None,
        })
    }
}

/// How long requests of one kind took, by whether they got through.
pub struct Requests {
    pub done: Histogram,
    pub failed: Histogram,
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
    /// By [`Kind`].
    requests: [Requests; Kind::ALL.len()],
    pub hash: Histogram,
    pub hash_kv: Histogram,
    /// How long one step of a compaction had the index for itself, or took away a piece of the past.
    pub compaction_pause: Histogram,
    /// From the first such step of a compaction to its last, rests included.
    pub compaction: Histogram,
    /// When the last one ended, in seconds of Unix; 0 if none has since the start.
    pub compacted_at: AtomicU64,
    /// One turn of a watch stream's loop that sent events, for all its watchers; and its share of each event.
    pub watch_turn: Histogram,
    pub watch_event: Histogram,
    /// Sending one answer to a creation or cancellation; sending one progress.
    pub watch_control: Histogram,
    pub watch_progress: Histogram,
    pub watch_receive_failures: Count,
    pub keep_alive_receive_failures: Count,
    /// Append streams that broke.
    pub disconnected: Count,
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
    /// With clients.
    pub clients: Traffic,
    /// With the journal's nodes.
    pub journal: Traffic,
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
            requests: Kind::ALL.map(|_| Requests { done: disk(), failed: disk() }),
            hash: Histogram::new(HASHES),
            hash_kv: Histogram::new(HASHES),
            compaction_pause: Histogram::new(PAUSES),
            compaction: Histogram::new(COMPACTIONS),
            compacted_at: AtomicU64::new(0),
            watch_turn: disk(),
            watch_event: disk(),
            watch_control: disk(),
            watch_progress: disk(),
            watch_receive_failures: Count::default(),
            keep_alive_receive_failures: Count::default(),
            disconnected: Count::default(),
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
            clients: Traffic::default(),
            journal: Traffic::default(),
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

    /// A request of this kind ended.
    pub fn request(&self, kind: Kind, done: bool, took: Duration) {
        let requests = &self.requests[kind as usize];
        if done { requests.done.observe(took) } else { requests.failed.observe(took) }
    }

    pub fn requests(&self, kind: Kind) -> &Requests {
        &self.requests[kind as usize]
    }

    /// One turn sent so many events.
    pub fn watched(&self, events: usize, took: Duration) {
        self.watch_turn.observe(took);
        self.watch_event.observe(took / u32::try_from(events).unwrap_or(u32::MAX).max(1));
    }

    /// A compaction that began then has nothing left to take away.
    pub fn compacted(&self, took: Duration) {
        self.compaction.observe_millis(took);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.compacted_at.store(now.as_secs(), Ordering::Relaxed);
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
