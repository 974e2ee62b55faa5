//! When an adapter compacts by itself, and to which revision: etcd's two modes.
//!
//! Periodic: a sample of the revision every tenth of the retention, and every hour, or every retention if
//! that is shorter, a compaction to the newest sample that is as old as the retention. By revision: every
//! five minutes, to so many revisions below the current one.
//!
//! Pure: time comes in as an argument. Whether this adapter is the one to propose it, others decide.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::AutoCompaction;
use crate::mvcc::Revision;

const EVERY_MAX: Duration = Duration::from_secs(3600);
const EVERY_BY_REVISION: Duration = Duration::from_secs(300);
const SAMPLES_PER_RETENTION: u32 = 10;

/// What has been seen, and when the last compaction was due.
pub struct Schedule {
    mode: AutoCompaction,
    samples: VecDeque<(Instant, Revision)>,
    last: Instant,
}

impl Schedule {
    pub fn new(mode: AutoCompaction, now: Instant) -> Schedule {
        Schedule { mode, samples: VecDeque::new(), last: now }
    }

    /// The revision to compact to, if it is time.
    pub fn due(&mut self, now: Instant, revision: Revision) -> Option<Revision> {
        let since = |at: Instant| now.saturating_duration_since(at);
        let target = match self.mode {
            AutoCompaction::Off => return None,
            AutoCompaction::Revisions(keep) => {
                if since(self.last) < EVERY_BY_REVISION {
                    return None;
                }
                revision - keep
            }
            AutoCompaction::Periodic(retention) => {
                if self.samples.back().is_none_or(|(at, _)| since(*at) >= retention / SAMPLES_PER_RETENTION) {
                    self.samples.push_back((now, revision));
                }
                if since(self.last) < retention.min(EVERY_MAX) {
                    return None;
                }
                let old = self.samples.iter().take_while(|(at, _)| since(*at) >= retention).count();
                self.samples.drain(..old).next_back()?.1
            }
        };
        self.last = now;
        (target > 0).then_some(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every so often, while the revision rises by one a second. Answers what was due, and when.
    fn looks(mode: AutoCompaction, every: u64, until: u64) -> Vec<(u64, Revision)> {
        let begin = Instant::now();
        let mut schedule = Schedule::new(mode, begin);
        let mut due = Vec::new();
        for second in (0..=until).step_by(every as usize) {
            let target = schedule.due(begin + Duration::from_secs(second), 1000 + second as i64);
            due.extend(target.map(|target| (second, target)));
        }
        due
    }

    #[test]
    fn kv_c5_a_retention_below_an_hour_is_kept_to_within_a_tenth() {
        let due = looks(AutoCompaction::Periodic(Duration::from_secs(600)), 1, 2000);
        assert_eq!(due, [(600, 1000), (1200, 1600), (1800, 2200)]);
        for (at, target) in due {
            let age = 1000 + at as i64 - target;
            assert!((600..=660).contains(&age), "revision {target} was {age} s old");
        }
    }

    #[test]
    fn kv_c5_a_retention_of_days_compacts_every_hour_what_is_older() {
        let hour = 3600;
        let due = looks(AutoCompaction::Periodic(Duration::from_secs(10 * hour)), 60, 13 * hour);
        let hours: Vec<_> = due.iter().map(|(at, _)| at / hour).collect();
        assert_eq!(hours, [10, 11, 12, 13]);
        for (at, target) in due {
            let age = 1000 + at as i64 - target;
            assert!((36_000..=39_600).contains(&age), "revision {target} was {age} s old at {at}");
        }
    }

    #[test]
    fn kv_c5_by_revision_it_keeps_so_many_and_looks_every_five_minutes() {
        let due = looks(AutoCompaction::Revisions(1100), 1, 900);
        assert_eq!(due, [(300, 200), (600, 500), (900, 800)]);
        assert_eq!(looks(AutoCompaction::Revisions(5000), 1, 900), [], "there are not so many yet");
        assert_eq!(looks(AutoCompaction::Off, 1, 900), []);
    }
}
