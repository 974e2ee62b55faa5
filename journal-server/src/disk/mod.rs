//! The disk under a node: how much room it has, and how it has been doing.
//!
//! [`Disk`] is the one handle that everybody asks: the leader before it admits an entry, the follower
//! before it takes one, the writers with every sync. Judging is pure (`room`, `slow`); this file
//! samples, publishes and counts. It never decides what to do about a slow disk beyond saying so: who
//! leads is moved by whoever watches [`Disk::transfers`].

mod allowance;
pub mod mounts;
mod room;
mod slow;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::env::Env;
use crate::health::Check;
use crate::latch::{Exit, Latch};
use crate::segment::fs::{Fs, Space};
pub use allowance::Allowance;
pub use room::{Marks, Room, available};
pub use slow::{DiskHealth, MEMORY, TRANSFER_PAUSE, Verdict, Watch};

/// Between two looks at the free space: as long as a fast disk takes to fill what is left above the
/// first mark, within these bounds. At 500 MB/s the least lets 100 MB go by, less than lies between two
/// marks.
const SAMPLE_MIN: Duration = Duration::from_millis(200);
const SAMPLE_MAX: Duration = Duration::from_secs(2);
const FAST_DISK_BYTES_PER_SECOND: u64 = 2_000_000_000;

/// Between two looks at the syncs under way.
const LOOK: Duration = Duration::from_millis(100);

/// Why a node cannot work on its disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot ask {0} for its free space: {1}")]
    Unreadable(PathBuf, std::io::Error),
    #[error("{0}")]
    Marks(String),
}

/// The node's disk, for many askers.
#[derive(Debug, Clone)]
pub struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    marks: Marks,
    quota: Option<u64>,
    room: AtomicU8,
    rooms: watch::Sender<Room>,
    total_bytes: AtomicU64,
    free_bytes: AtomicU64,
    journal_bytes: AtomicU64,
    health: AtomicU8,
    transfers: watch::Sender<u64>,
    peers_well: AtomicBool,
    syncs: Mutex<Syncs>,
}

#[derive(Debug)]
struct Syncs {
    watch: Watch,
    next: u64,
    /// When each sync under way began. Numbers rise with time: the first is the oldest.
    under_way: BTreeMap<u64, Instant>,
    recent: Recent,
}

/// How long syncs took in the last half to whole minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncTimes {
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

impl Disk {
    /// Looks at the disk once; blocks while it does.
    pub fn open(fs: Arc<dyn Fs>, config: &Config) -> Result<Disk, DiskError> {
        let dir = config.data_dir.clone();
        let space = fs.space(&dir).map_err(|error| DiskError::Unreadable(dir.clone(), error))?;
        let marks = Marks::of(&config.room, space.total_bytes).map_err(DiskError::Marks)?;
        let disk = Disk(Arc::new(Inner {
            fs,
            dir,
            marks,
            quota: config.disk_quota,
            room: AtomicU8::new(Room::Ok as u8),
            rooms: watch::Sender::new(Room::Ok),
            total_bytes: AtomicU64::new(0),
            free_bytes: AtomicU64::new(0),
            journal_bytes: AtomicU64::new(0),
            health: AtomicU8::new(DiskHealth::Ok as u8),
            transfers: watch::Sender::new(0),
            peers_well: AtomicBool::new(false),
            syncs: Mutex::new(Syncs {
                watch: Watch::new(config.slow_disk),
                next: 0,
                under_way: BTreeMap::new(),
                recent: Recent::new(),
            }),
        }));
        disk.sampled(space);
        Ok(disk)
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// What is still admitted.
    pub fn room(&self) -> Room {
        Room::from_wire(self.0.room.load(Ordering::Relaxed).into())
    }

    /// Whether a leader may take an entry in.
    pub fn admits(&self, urgent: bool) -> bool {
        self.room().admits(urgent)
    }

    /// The level, whenever it changes.
    pub fn rooms(&self) -> watch::Receiver<Room> {
        self.0.rooms.subscribe()
    }

    pub fn space(&self) -> Space {
        Space {
            total_bytes: self.0.total_bytes.load(Ordering::Relaxed),
            free_bytes: self.0.free_bytes.load(Ordering::Relaxed),
        }
    }

    /// What the journals of this node hold on disk: counted against the quota.
    pub fn set_journal_bytes(&self, bytes: u64) {
        self.0.journal_bytes.store(bytes, Ordering::Relaxed);
    }

    pub fn journal_bytes(&self) -> u64 {
        self.0.journal_bytes.load(Ordering::Relaxed)
    }

    pub fn health(&self) -> DiskHealth {
        DiskHealth::from_wire(self.0.health.load(Ordering::Relaxed).into())
    }

    /// Counts up whenever the node should give leadership away.
    pub fn transfers(&self) -> watch::Receiver<u64> {
        self.0.transfers.subscribe()
    }

    /// Whether a majority of the peers has a healthy disk: what leaving depends on.
    pub fn set_peers_well(&self, well: bool) {
        self.0.peers_well.store(well, Ordering::Relaxed);
    }

    /// To be said right before a sync, on whatever thread; and [`SyncTimer::done`] right after it.
    pub fn sync_begins(&self) -> SyncTimer {
        let began = Instant::now();
        let mut syncs = self.0.syncs.lock();
        let number = syncs.next;
        syncs.next += 1;
        syncs.under_way.insert(number, began);
        SyncTimer { disk: self.clone(), number, began }
    }

    /// How long syncs took lately.
    pub fn sync_times(&self) -> SyncTimes {
        self.0.syncs.lock().recent.times(Instant::now())
    }

    /// Watches the free space, for ever.
    pub async fn watch_room(self, env: Env, check: Check) {
        let gauges = Gauges::new();
        let mut complained = false;
        loop {
            tokio::time::sleep(self.until_next_sample()).await;
            let (fs, dir) = (self.0.fs.clone(), self.0.dir.clone());
            match env.blocking(move || fs.space(&dir)).await {
                Ok(space) => {
                    complained = false;
                    let before = self.room();
                    let room = self.sampled(space);
                    gauges.set(&self, room);
                    if room != before {
                        self.say(before, room, &check);
                    }
                }
                // A disk that is gone shows itself in the next write; the last level stands.
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(dir = %self.0.dir.display(), %error, "cannot read the free space");
                }
                Err(_) => {}
            }
        }
    }

    /// Watches the syncs, for ever, or until the disk hangs and the others can do without this node.
    pub async fn watch_health(self, check: Check, latch: Latch) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let gauge = metrics::gauge!("journal_disk_health");
        gauge.set(0.0);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            let (verdict, waiting) = self.judge(now);
            let before = self.0.health.swap(verdict.health as u8, Ordering::Relaxed);
            if before != verdict.health as u8 {
                gauge.set(f64::from(verdict.health as u8));
                match verdict.health {
                    DiskHealth::Ok => {
                        tracing::info!("the disk is well again");
                        check.ok();
                    }
                    DiskHealth::Failed => {
                        tracing::error!(?waiting, "the disk hangs");
                        check.not_ready(format!("the disk hangs: a write has been waiting for {waiting:.1?}"));
                    }
                    health => {
                        tracing::warn!(%health, ?waiting, "the disk is slow");
                        check.degraded(format!("the disk is {health}"));
                    }
                }
            }
            if verdict.transfer {
                self.0.transfers.send_modify(|count| *count += 1);
            }
            if verdict.exit {
                latch.fail(Exit::HungDisk, format!("a write has been waiting for the disk for {waiting:.1?}"));
                return;
            }
        }
    }

    fn judge(&self, now: Instant) -> (Verdict, Duration) {
        let peers_well = self.0.peers_well.load(Ordering::Relaxed);
        let mut syncs = self.0.syncs.lock();
        let oldest = syncs.under_way.values().next();
        let waiting = oldest.map(|began| now.saturating_duration_since(*began)).unwrap_or_default();
        (syncs.watch.judge(now, waiting, peers_well), waiting)
    }

    fn sampled(&self, space: Space) -> Room {
        let inner = &*self.0;
        inner.total_bytes.store(space.total_bytes, Ordering::Relaxed);
        inner.free_bytes.store(space.free_bytes, Ordering::Relaxed);
        let free = available(space.free_bytes, self.journal_bytes(), inner.quota);
        let room = inner.marks.judge(free, self.room());
        inner.room.store(room as u8, Ordering::Relaxed);
        inner.rooms.send_if_modified(|current| std::mem::replace(current, room) != room);
        room
    }

    fn until_next_sample(&self) -> Duration {
        let free = available(self.space().free_bytes, self.journal_bytes(), self.0.quota);
        let spare = free.saturating_sub(self.0.marks.low());
        let fills_in = Duration::from_millis(spare / (FAST_DISK_BYTES_PER_SECOND / 1000));
        fills_in.clamp(SAMPLE_MIN, SAMPLE_MAX)
    }

    fn say(&self, before: Room, room: Room, check: &Check) {
        let free_bytes = self.space().free_bytes;
        if room == Room::Ok {
            tracing::info!(free_bytes, "there is room again: everything is admitted");
            return check.ok();
        }
        match room > before {
            true => tracing::error!(%room, free_bytes, "the disk is filling up"),
            false => tracing::info!(%room, free_bytes, "space returns"),
        }
        let refused = match room {
            Room::Ok | Room::Low => "ordinary entries are refused",
            Room::Urgent => "all entries are refused",
            Room::Reserve => "all entries are refused, also from the leader",
            Room::Floor => "nothing is written",
        };
        check.degraded(format!("room is {room} ({free_bytes} bytes free): {refused}"));
    }
}

/// One sync under way. Dropping it without [`SyncTimer::done`] forgets it.
#[derive(Debug)]
pub struct SyncTimer {
    disk: Disk,
    number: u64,
    began: Instant,
}

impl SyncTimer {
    /// The sync ended, well or badly.
    pub fn done(self) -> Duration {
        let now = Instant::now();
        let took = now.saturating_duration_since(self.began);
        metrics::histogram!("journal_sync_seconds").record(took);
        let mut syncs = self.disk.0.syncs.lock();
        syncs.watch.synced(now, took);
        syncs.recent.record(now, took);
        took
    }
}

impl Drop for SyncTimer {
    fn drop(&mut self) {
        self.disk.0.syncs.lock().under_way.remove(&self.number);
    }
}

/// Two windows of half a minute, the elder of which is forgotten when the younger is full.
#[derive(Debug)]
struct Recent {
    turned: Option<Instant>,
    younger: Histogram<u64>,
    elder: Histogram<u64>,
}

impl Recent {
    const WINDOW: Duration = Duration::from_secs(30);

    fn new() -> Recent {
        let empty = || Histogram::new_with_bounds(1, 120_000_000, 2).expect("the bounds are constant and right");
        Recent { turned: None, younger: empty(), elder: empty() }
    }

    fn record(&mut self, now: Instant, took: Duration) {
        self.turn(now);
        self.younger.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    fn times(&mut self, now: Instant) -> SyncTimes {
        self.turn(now);
        let mut both = self.younger.clone();
        both.add(&self.elder).expect("they have the same bounds");
        match both.is_empty() {
            true => SyncTimes::default(),
            false => SyncTimes {
                p50: Duration::from_micros(both.value_at_quantile(0.5)),
                p99: Duration::from_micros(both.value_at_quantile(0.99)),
                max: Duration::from_micros(both.max()),
            },
        }
    }

    fn turn(&mut self, now: Instant) {
        let since = now.saturating_duration_since(*self.turned.get_or_insert(now));
        if since < Self::WINDOW {
            return;
        }
        std::mem::swap(&mut self.younger, &mut self.elder);
        self.younger.reset();
        if since >= 2 * Self::WINDOW {
            self.elder.reset();
        }
        self.turned = Some(now);
    }
}

struct Gauges {
    total: Gauge,
    free: Gauge,
    journal: Gauge,
    room: Gauge,
}

impl Gauges {
    fn new() -> Gauges {
        Gauges {
            total: metrics::gauge!("journal_disk_total_bytes"),
            free: metrics::gauge!("journal_disk_free_bytes"),
            journal: metrics::gauge!("journal_disk_used_bytes"),
            room: metrics::gauge!("journal_room"),
        }
    }

    fn set(&self, disk: &Disk, room: Room) {
        self.total.set(disk.space().total_bytes as f64);
        self.free.set(disk.space().free_bytes as f64);
        self.journal.set(disk.journal_bytes() as f64);
        self.room.set(f64::from(room as u8));
    }
}
