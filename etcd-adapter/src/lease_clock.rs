//! The clock by which leases end and silent adapters are given up.
//!
//! The journal has no clock, and apply reads none: an adapter may propose that a lease has expired once
//! a full TTL has passed on *its own* lease clock since it applied the last renewal, and apply drops the
//! proposal if the lease was renewed since. The clock advances only while entries of its own get in and
//! are applied, and a tick counts for a second at most; after a gap every lease gets its full TTL anew.
//! So while renewals cannot get in, nothing expires, and nothing ever expires early.
//!
//! Pure: time comes in as an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::Position;
use tokio::time::Instant;

use crate::command::Command;

/// How often the clock is looked at.
pub const TICK: Duration = Duration::from_millis(500);
/// The clock stands still when no own entry was applied for so long.
const OWN_ENTRY_WITHIN: Duration = Duration::from_secs(2);
/// However late a tick comes, it counts for this much at most.
const TICK_COUNTS_MAX: Duration = Duration::from_secs(1);
/// A proposal that had no effect is made again after so long.
const PROPOSE_AGAIN: Duration = Duration::from_secs(3);
/// Different adapters propose at different times: most of what one proposes, the others then need not.
const JITTER_MAX_MS: u64 = 400;
/// Expiries in one tick.
const EXPIRE_MAX: usize = 500;
/// An adapter that is not heard for so long is proposed gone, unless a test is in a hurry.
pub const SILENT_MAX: Duration = Duration::from_secs(30);

struct Timer {
    ttl: Duration,
    renewed_at: Position,
    ends: Duration,
    /// Where it stands in the order.
    due: Duration,
}

struct Voice {
    last_entry: Position,
    since: Duration,
    /// Since the clock last began anew.
    heard: bool,
}

/// Leases and voices by this adapter's own clock.
pub struct LeaseClock {
    now: Duration,
    last_tick: Instant,
    /// It stood still at the last look.
    still: bool,
    leases: BTreeMap<i64, Timer>,
    /// Leases by when they end, or are to be proposed again.
    order: BTreeSet<(Duration, i64)>,
    voices: BTreeMap<Position, Voice>,
    silent_max: Duration,
    jitter: Box<dyn FnMut(u64) -> u64 + Send>,
}

impl LeaseClock {
    /// Whoever is not heard for `silent_max` is proposed gone; `jitter(n)` draws a number below `n`.
    pub fn new(now: Instant, silent_max: Duration, jitter: impl FnMut(u64) -> u64 + Send + 'static) -> Self {
        LeaseClock {
            now: Duration::ZERO,
            last_tick: now,
            still: true,
            leases: BTreeMap::new(),
            order: BTreeSet::new(),
            voices: BTreeMap::new(),
            silent_max,
            jitter: Box::new(jitter),
        }
    }

    /// The lease was granted, or renewed, by the entry at this position, which was applied `now`.
    pub fn renewed(&mut self, id: i64, ttl_seconds: i64, renewed_at: Position, now: Instant) {
        self.ended(id);
        let ttl = Duration::from_secs(u64::try_from(ttl_seconds).unwrap_or(0));
        // The next tick counts what went by before this renewal, too: that is not the lease's time.
        let uncounted = now.saturating_duration_since(self.last_tick).min(TICK_COUNTS_MAX);
        let ends = self.now + uncounted + ttl;
        let due = ends + self.some_jitter();
        self.order.insert((due, id));
        self.leases.insert(id, Timer { ttl, renewed_at, ends, due });
    }

    pub fn ended(&mut self, id: i64) {
        if let Some(timer) = self.leases.remove(&id) {
            self.order.remove(&(timer.due, id));
        }
    }

    /// An entry of this producer was just applied.
    pub fn heard(&mut self, producer: Position, last_entry: Position) {
        self.voices.insert(producer, Voice { last_entry, since: self.now, heard: true });
    }

    /// This producer is known, and was not heard by this process.
    pub fn expected(&mut self, producer: Position, last_entry: Position) {
        self.voices.insert(producer, Voice { last_entry, since: self.now, heard: false });
    }

    /// This producer lives no longer.
    pub fn silenced(&mut self, producer: Position) {
        self.voices.remove(&producer);
    }

    /// How long ago this producer was heard, while the clock ran; nothing if it was not.
    pub fn silent_for(&self, producer: Position) -> Option<Duration> {
        self.voices.get(&producer).filter(|voice| voice.heard).map(|voice| self.now - voice.since)
    }

    /// What is left of a lease, in whole seconds; not above zero once a full TTL has passed.
    pub fn remaining(&self, id: i64) -> Option<i64> {
        let timer = self.leases.get(&id)?;
        Some(match timer.ends.checked_sub(self.now) {
            Some(left) => left.as_secs() as i64,
            None => -((self.now - timer.ends).as_secs() as i64),
        })
    }

    /// Leases, those that end first at the front.
    pub fn by_end(&self) -> Vec<i64> {
        let mut leases: Vec<_> = self.leases.iter().map(|(id, timer)| (timer.ends, *id)).collect();
        leases.sort();
        leases.into_iter().map(|(_, id)| id).collect()
    }

    /// Lets time pass. Answers what is to be proposed.
    pub fn tick(&mut self, now: Instant, last_own_entry: Option<Instant>) -> Vec<Command> {
        let passed = now.saturating_duration_since(self.last_tick).min(TICK_COUNTS_MAX);
        self.last_tick = now;
        let runs = last_own_entry.is_some_and(|at| now.saturating_duration_since(at) < OWN_ENTRY_WITHIN);
        if !runs {
            self.still = true;
            return Vec::new();
        }
        if std::mem::take(&mut self.still) {
            self.begin_anew();
            return Vec::new();
        }
        self.now += passed;
        let mut proposals = self.expired();
        proposals.extend(self.silent());
        proposals
    }

    /// Every lease gets its full TTL, and every voice its full time.
    fn begin_anew(&mut self) {
        self.order.clear();
        let ids: Vec<_> = self.leases.keys().copied().collect();
        for id in ids {
            let jitter = self.some_jitter();
            let timer = self.leases.get_mut(&id).expect("its id was among the keys");
            timer.ends = self.now + timer.ttl;
            timer.due = timer.ends + jitter;
            self.order.insert((timer.due, id));
        }
        self.voices.values_mut().for_each(|voice| (voice.since, voice.heard) = (self.now, false));
    }

    fn expired(&mut self) -> Vec<Command> {
        let mut proposals = Vec::new();
        while proposals.len() < EXPIRE_MAX {
            let Some(&(at, id)) = self.order.first().filter(|(at, _)| *at <= self.now) else { break };
            self.order.remove(&(at, id));
            let again = self.now + PROPOSE_AGAIN + self.some_jitter();
            self.order.insert((again, id));
            let timer = self.leases.get_mut(&id).expect("only leases stand in the order");
            timer.due = again;
            proposals.push(Command::Expire { lease: id, renewed_at: timer.renewed_at });
        }
        proposals
    }

    fn silent(&mut self) -> Vec<Command> {
        let (now, silent_max) = (self.now, self.silent_max);
        let mut proposals = Vec::new();
        for (producer, voice) in &mut self.voices {
            if now - voice.since >= silent_max {
                proposals.push(Command::Gone { producer: *producer, last_entry: voice.last_entry });
                // Proposed again if it is still there after a while.
                voice.since = (now + PROPOSE_AGAIN).saturating_sub(silent_max);
            }
        }
        proposals
    }

    fn some_jitter(&mut self) -> Duration {
        Duration::from_millis((self.jitter)(JITTER_MAX_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        clock: LeaseClock,
        time: Instant,
    }

    impl World {
        fn new() -> World {
            let time = Instant::now();
            let mut world = World { clock: LeaseClock::new(time, SILENT_MAX, |_| 0), time };
            world.passes(0.0);
            world
        }

        /// Ticks while own entries get in.
        fn passes(&mut self, seconds: f64) -> Vec<Command> {
            self.run(seconds, true)
        }

        fn outage(&mut self, seconds: f64) -> Vec<Command> {
            self.run(seconds, false)
        }

        fn run(&mut self, seconds: f64, entries: bool) -> Vec<Command> {
            let mut proposed = Vec::new();
            let own = self.time;
            for _ in 0..=(seconds / TICK.as_secs_f64()) as usize {
                proposed.extend(self.clock.tick(self.time, Some(if entries { self.time } else { own })));
                self.time += TICK;
            }
            proposed
        }
    }

    fn expire(lease: i64, renewed_at: u64) -> Command {
        Command::Expire { lease, renewed_at: Position(renewed_at) }
    }

    #[tokio::test]
    async fn a_lease_ends_a_full_ttl_after_its_last_renewal_and_names_it() {
        let mut world = World::new();
        world.clock.renewed(1, 5, Position(10), world.time);
        assert_eq!(world.passes(4.0), []);
        world.clock.renewed(1, 5, Position(20), world.time);
        assert_eq!(world.passes(4.0), []);
        assert_eq!(world.passes(1.5), [expire(1, 20)]);
        assert!(world.clock.remaining(1).unwrap() <= 0);
    }

    #[tokio::test]
    async fn a_lease_has_its_full_time_wherever_between_two_ticks_it_was_renewed() {
        let mut world = World::new();
        world.passes(2.0);
        // Just before the next tick.
        let renewed = world.time - Duration::from_millis(1);
        world.clock.renewed(1, 2, Position(10), renewed);
        while world.clock.tick(world.time, Some(world.time)).is_empty() {
            world.time += TICK;
        }
        let lived = world.time - renewed;
        assert!(lived >= Duration::from_secs(2), "it ended after {lived:?}");
        assert!(lived < Duration::from_secs(2) + 2 * TICK, "it ended after {lived:?} only");
    }

    #[tokio::test]
    async fn ls_9_nothing_expires_while_renewals_cannot_get_in_nor_right_after() {
        let mut world = World::new();
        world.clock.renewed(1, 5, Position(10), world.time);
        assert_eq!(world.outage(60.0), []);
        assert_eq!(world.passes(4.5), [], "it has its full TTL anew");
        assert_eq!(world.passes(1.5), [expire(1, 10)]);
    }

    #[tokio::test]
    async fn ls_13_a_process_that_was_stopped_for_a_minute_counts_a_second_of_it_at_most() {
        let mut world = World::new();
        world.clock.renewed(1, 5, Position(10), world.time);
        world.passes(1.0);
        world.time += Duration::from_secs(60);
        assert_eq!(world.passes(2.0), []);
    }

    #[tokio::test]
    async fn a_proposal_without_effect_is_made_again() {
        let mut world = World::new();
        world.clock.renewed(1, 2, Position(10), world.time);
        let proposed = world.passes(6.5);
        assert_eq!(proposed, [expire(1, 10), expire(1, 10)]);
        world.clock.ended(1);
        assert_eq!(world.passes(10.0), []);
        assert_eq!(world.clock.remaining(1), None);
    }

    #[tokio::test]
    async fn an_adapter_that_is_not_heard_for_long_is_proposed_gone() {
        let mut world = World::new();
        world.clock.heard(Position(3), Position(7));
        assert_eq!(world.passes(29.0), []);
        assert_eq!(world.passes(2.0), [Command::Gone { producer: Position(3), last_entry: Position(7) }]);
        world.clock.heard(Position(3), Position(9));
        assert_eq!(world.passes(20.0), []);
        assert_eq!(world.outage(60.0), [], "nobody is heard in an outage");
    }
}
