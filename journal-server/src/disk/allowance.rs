//! How much may still be written under the name of urgency, while ordinary entries are refused.
//!
//! Pure. Urgent entries are what leads out of a full disk: deletes, compactions, checkpoints, and the
//! signs of life of whoever makes them. They are few and small. A client that calls everything urgent
//! must not fill the reserve with it, so they are paid from an allowance that grows with time. Nothing is
//! paid while ordinary entries are admitted too: then urgency asks for nothing.

use std::time::Duration;

use tokio::time::Instant;

/// What the allowance grows by: a beat a second of every adapter, and deletes as fast as a compaction can
/// follow them.
pub const BYTES_PER_SECOND: u64 = 1 << 20;
/// What it holds at most; the least of all distances between two marks is larger.
pub const BYTES_MAX: u64 = 8 << 20;
/// An entry costs what it takes on disk, and that is never nothing.
const ENTRY_OVERHEAD: u64 = 256;

/// One node's allowance.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    bytes: u64,
    /// What has grown until here is in `bytes`.
    at: Instant,
}

impl Allowance {
    /// A full one.
    pub fn new(now: Instant) -> Allowance {
        Allowance { bytes: BYTES_MAX, at: now }
    }

    /// Pays for an entry, or says how long that has to wait. An entry larger than all of the allowance
    /// takes all of it.
    pub fn pay(&mut self, entry_bytes: usize, now: Instant) -> Result<(), Duration> {
        self.grow(now);
        let cost = (entry_bytes as u64 + ENTRY_OVERHEAD).min(BYTES_MAX);
        match self.bytes.checked_sub(cost) {
            Some(left) => {
                self.bytes = left;
                Ok(())
            }
            None => Err(Duration::from_micros((cost - self.bytes) * 1_000_000 / BYTES_PER_SECOND + 1)),
        }
    }

    fn grow(&mut self, now: Instant) {
        const NANOS: u128 = 1_000_000_000;
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let grown = elapsed * u128::from(BYTES_PER_SECOND) / NANOS;
        if grown >= u128::from(BYTES_MAX) {
            (self.bytes, self.at) = (BYTES_MAX, now);
            return;
        }
        // What is less than a byte waits in the time that is not counted yet.
        let counted = (grown * NANOS).div_ceil(u128::from(BYTES_PER_SECOND));
        self.bytes = (self.bytes + grown as u64).min(BYTES_MAX);
        self.at += Duration::from_nanos(counted as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// The bytes that get through when `entry_bytes` are offered every millisecond for so long.
    fn flood(entry_bytes: usize, seconds: u64) -> u64 {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let paid = (0..seconds * 1000).filter(|ms| allowance.pay(entry_bytes, after(start, *ms)).is_ok()).count();
        paid as u64 * entry_bytes as u64
    }

    #[test]
    fn a_client_that_calls_everything_urgent_is_held_to_the_rate() {
        for entry_bytes in [100, 4096, 256 << 10, 4 << 20] {
            let bound = BYTES_MAX + 60 * BYTES_PER_SECOND;
            let written = flood(entry_bytes, 60);
            assert!(written <= bound, "{written} bytes of {entry_bytes} each");
        }
        // And it is not held to much less than that.
        assert!(flood(256 << 10, 60) > 60 * BYTES_PER_SECOND);
    }

    #[test]
    fn beats_and_deletes_of_a_hundred_adapters_never_wait() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for second in 0..600 {
            for _ in 0..100 {
                allowance.pay(4096, after(start, second * 1000)).unwrap();
            }
        }
    }

    #[test]
    fn the_largest_entry_gets_through_once_the_allowance_is_full() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        allowance.pay(16 << 20, start).unwrap();
        let wait = allowance.pay(16 << 20, start).unwrap_err();
        assert_eq!(wait.as_secs(), 8);
        assert!(allowance.pay(16 << 20, start + wait - Duration::from_millis(1)).is_err());
        allowance.pay(16 << 20, start + wait).unwrap();
    }

    #[test]
    fn looking_often_does_not_lose_what_has_grown() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        allowance.pay(16 << 20, start).unwrap();
        let mut now = start;
        for _ in 0..1_000_000 {
            now += Duration::from_nanos(1_000);
            allowance.grow(now);
        }
        assert!(allowance.bytes > BYTES_PER_SECOND * 99 / 100, "{} of {BYTES_PER_SECOND}", allowance.bytes);
    }
}
