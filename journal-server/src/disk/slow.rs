//! A disk that answers slowly, or not at all: what to think of it and what to do.
//!
//! Pure: fed with how long each sync took, how long the oldest one under way has been waiting, and
//! what the peers say of theirs. Shared storage slows every node at once; a node therefore leaves only
//! while a majority of its peers is well.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::SlowDisk;

/// How the disk has been lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DiskHealth {
    Ok = 0,
    Degraded = 1,
    /// Leadership belongs elsewhere.
    Slow = 2,
    /// The node belongs elsewhere.
    Failed = 3,
}

impl DiskHealth {
    /// From what travels in a message; a level of the future counts as the worst.
    pub fn from_wire(level: u32) -> DiskHealth {
        match level {
            0 => DiskHealth::Ok,
            1 => DiskHealth::Degraded,
            2 => DiskHealth::Slow,
            _ => DiskHealth::Failed,
        }
    }
}

impl fmt::Display for DiskHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(["ok", "degraded", "slow", "failed"][*self as usize])
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub health: DiskHealth,
    /// Give leadership away, now. Said at most once in [`TRANSFER_PAUSE`].
    pub transfer: bool,
    /// Leave: the disk hangs, and the others can do without us.
    pub exit: bool,
}

/// How long a bad sync is remembered.
pub const MEMORY: Duration = Duration::from_secs(10);

/// Between two requests to give leadership away: a cluster whose disks are all slow must not spend
/// its time on elections.
pub const TRANSFER_PAUSE: Duration = Duration::from_secs(60);

/// Watches one disk.
#[derive(Debug)]
pub struct Watch {
    limits: SlowDisk,
    /// When a sync last took at least `degraded`, and at least `slow`.
    last_degraded: Option<Instant>,
    last_slow: Option<Instant>,
    last_transfer: Option<Instant>,
}

impl Watch {
    pub fn new(limits: SlowDisk) -> Watch {
        Watch { limits, last_degraded: None, last_slow: None, last_transfer: None }
    }

    /// A sync ended at `now` after this long.
    pub fn synced(&mut self, now: Instant, took: Duration) {
        if took >= self.limits.degraded {
            self.last_degraded = Some(now);
        }
        if took >= self.limits.slow {
            self.last_slow = Some(now);
        }
    }

    /// The verdict at `now`, while the oldest sync under way has been waiting for `waiting`.
    pub fn judge(&mut self, now: Instant, waiting: Duration, peers_well: bool) -> Verdict {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < MEMORY);
        let health = if waiting >= self.limits.failed {
            DiskHealth::Failed
        } else if waiting >= self.limits.slow || recent(self.last_slow) {
            DiskHealth::Slow
        } else if waiting >= self.limits.degraded || recent(self.last_degraded) {
            DiskHealth::Degraded
        } else {
            DiskHealth::Ok
        };
        let rested = self.last_transfer.is_none_or(|at| now.saturating_duration_since(at) >= TRANSFER_PAUSE);
        let transfer = health >= DiskHealth::Slow && rested;
        if transfer {
            self.last_transfer = Some(now);
        }
        Verdict { health, transfer, exit: health == DiskHealth::Failed && peers_well }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SlowDisk = SlowDisk {
        degraded: Duration::from_millis(100),
        slow: Duration::from_secs(1),
        failed: Duration::from_secs(10),
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_age_of_the_sync_under_way_decides_at_once() {
        let start = Instant::now();
        let table = [
            (0, DiskHealth::Ok),
            (99, DiskHealth::Ok),
            (100, DiskHealth::Degraded),
            (999, DiskHealth::Degraded),
            (1000, DiskHealth::Slow),
            (9999, DiskHealth::Slow),
            (10_000, DiskHealth::Failed),
        ];
        for (waiting, expected) in table {
            assert_eq!(Watch::new(LIMITS).judge(start, ms(waiting), true).health, expected, "{waiting} ms");
        }
    }

    #[test]
    fn a_slow_sync_is_remembered_for_ten_seconds() {
        let start = Instant::now();
        let mut watch = Watch::new(LIMITS);
        watch.synced(start, ms(1500));
        watch.synced(start + ms(2000), ms(150));
        watch.synced(start + ms(3000), ms(1));
        assert_eq!(watch.judge(start + ms(9_999), ms(0), true).health, DiskHealth::Slow);
        assert_eq!(watch.judge(start + ms(10_000), ms(0), true).health, DiskHealth::Degraded);
        assert_eq!(watch.judge(start + ms(12_000), ms(0), true).health, DiskHealth::Ok);
    }

    #[test]
    fn leadership_is_given_away_at_most_once_a_minute() {
        let start = Instant::now();
        let mut watch = Watch::new(LIMITS);
        let asked: Vec<u64> = (0..200)
            .map(|second| second * 1000)
            .filter(|at| watch.judge(start + ms(*at), ms(2000), true).transfer)
            .collect();
        assert_eq!(asked, [0, 60_000, 120_000, 180_000]);
    }

    #[test]
    fn a_disk_that_is_only_degraded_moves_nothing() {
        let start = Instant::now();
        let mut watch = Watch::new(LIMITS);
        for second in 0..120 {
            let now = start + ms(second * 1000);
            watch.synced(now, ms(900));
            let verdict = watch.judge(now, ms(900), true);
            assert_eq!((verdict.health, verdict.transfer, verdict.exit), (DiskHealth::Degraded, false, false));
        }
    }

    #[test]
    fn a_node_leaves_only_while_its_peers_are_well() {
        let start = Instant::now();
        let mut watch = Watch::new(LIMITS);
        let alone = watch.judge(start, ms(60_000), false);
        assert_eq!((alone.health, alone.exit), (DiskHealth::Failed, false));
        assert!(watch.judge(start, ms(60_000), true).exit);
        assert!(!watch.judge(start, ms(9_999), true).exit);
    }
}
