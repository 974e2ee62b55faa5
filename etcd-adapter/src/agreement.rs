//! Whether this replica and the others have the same state: the comparison, and who has to give way.
//!
//! Equal positions must have equal hashes. Every beat says what its adapter had at a position; this
//! replica remembers what it had there. Whoever is in the minority begins anew; of two halves the one
//! with the oldest adapter does at once, and the other one if that did not help.
//!
//! Pure: time comes in as an argument, and what is done about it is the applier's affair. A comparison
//! that cannot be made (the position is older than what is remembered) says nothing, and must never
//! count as agreement or as its opposite.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::Position;
use tokio::time::Instant;

use crate::command::Beat;

/// State hashes that are remembered.
const HASHES_MAX: usize = 1 << 16;
/// Of two halves, the one that need not begin anew waits for the other for so long.
const TURN: Duration = Duration::from_secs(30);

/// What a beat says about this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The beat is about a position that is not remembered.
    Unknown,
    /// That adapter agrees; `all` do, as far as they were heard.
    Agrees { all: bool },
    /// That adapter has another state; if `give_way`, this one is to be dropped and replayed.
    Disagrees { give_way: bool },
}

/// The last hashes of this replica, and how the live producers compare with it.
pub struct Agreement {
    hashes: VecDeque<(Position, u128)>,
    /// Whether each producer agreed the last time, and since when it has been so.
    compared: BTreeMap<Position, (bool, Instant)>,
}

impl Agreement {
    /// `applied` is the next position to apply, and `hash` the state's below it.
    pub fn new(applied: Position, hash: u128) -> Agreement {
        Agreement { hashes: VecDeque::from([(applied, hash)]), compared: BTreeMap::new() }
    }

    /// Remembers that the state below `applied` has this hash.
    pub fn note(&mut self, applied: Position, hash: u128) {
        if self.hashes.back().is_some_and(|(last, _)| *last >= applied) {
            return;
        }
        self.hashes.push_back((applied, hash));
        if self.hashes.len() > HASHES_MAX {
            self.hashes.pop_front();
        }
    }

    /// Forgets producers that live no longer.
    pub fn retain(&mut self, lives: impl Fn(Position) -> bool) {
        self.compared.retain(|producer, _| lives(*producer));
    }

    /// Compares what producer `whose` said of itself. `own` is this adapter's producer, if it has one.
    pub fn compare(&mut self, own: Option<Position>, whose: Position, beat: Beat, now: Instant) -> Verdict {
        // Positions that hold no entry change nothing: the hash at the last one below counts.
        let behind = self.hashes.partition_point(|(position, _)| *position <= beat.applied);
        let Some((_, hash)) = behind.checked_sub(1).and_then(|last| self.hashes.get(last)) else {
            return Verdict::Unknown;
        };
        let agrees = *hash == beat.hash;
        let known = self.compared.entry(whose).or_insert((agrees, now));
        if known.0 != agrees {
            *known = (agrees, now);
        }
        let since = known.1;
        if agrees {
            return Verdict::Agrees { all: self.compared.values().all(|(agrees, _)| *agrees) };
        }
        let (with_us, against) = self.votes();
        let first = own.is_some_and(|own| self.compared.keys().all(|other| own < *other));
        let our_turn = first || now.saturating_duration_since(since) > TURN;
        Verdict::Disagrees { give_way: against > with_us || (against == with_us && our_turn) }
    }

    /// Whether no majority has the same state as this replica, as far as they were heard: then it may well be the
    /// one that is wrong, and should not be asked.
    pub fn is_doubtful(&self) -> bool {
        let (with_us, against) = self.votes();
        against >= with_us
    }

    /// Who has the same state as this replica, itself included, and who has another.
    fn votes(&self) -> (usize, usize) {
        let against = self.compared.values().filter(|(agrees, _)| !agrees).count();
        (1 + self.compared.len() - against, against)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: Position = Position(3);
    const OWN: Position = Position(5);
    const YOUNGER: Position = Position(7);
    const YOUNGEST: Position = Position(9);

    fn beat(applied: u64, hash: u128) -> Beat {
        Beat { applied: Position(applied), hash, flushed: Position(1), level: 1, ready: true }
    }

    /// This replica at position 20, with the hash 200 there and 100 at 10.
    fn replica() -> Agreement {
        let mut agreement = Agreement::new(Position(10), 100);
        agreement.note(Position(20), 200);
        agreement
    }

    fn at(seconds: u64, begin: Instant) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    #[test]
    fn positions_without_entries_have_the_hash_of_what_lies_below_them() {
        let mut replica = replica();
        let now = Instant::now();
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(10, 100), now), Verdict::Agrees { all: true });
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(19, 100), now), Verdict::Agrees { all: true });
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(25, 200), now), Verdict::Agrees { all: true });
    }

    #[test]
    fn what_is_no_longer_remembered_says_nothing() {
        let mut replica = replica();
        let now = Instant::now();
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(9, 1), now), Verdict::Unknown);
        for position in 21..=20 + HASHES_MAX as u64 {
            replica.note(Position(position), 1);
        }
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(20, 5), now), Verdict::Unknown);
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(21, 1), now), Verdict::Agrees { all: true });
    }

    #[test]
    fn the_minority_gives_way_whoever_is_older() {
        let now = Instant::now();
        let mut alone = replica();
        alone.compare(Some(YOUNGEST), OLDER, beat(20, 7), now);
        let verdict = alone.compare(Some(YOUNGEST), YOUNGER, beat(20, 7), now);
        assert_eq!(verdict, Verdict::Disagrees { give_way: true });
        assert!(alone.is_doubtful());
        let mut among_two = replica();
        among_two.compare(Some(OLDER), YOUNGER, beat(20, 200), now);
        let verdict = among_two.compare(Some(OLDER), YOUNGEST, beat(20, 7), at(90, now));
        assert_eq!(verdict, Verdict::Disagrees { give_way: false });
        assert!(!among_two.is_doubtful());
    }

    #[test]
    fn of_two_the_older_gives_way_at_once_and_the_younger_if_that_did_not_help() {
        let now = Instant::now();
        let mut older = replica();
        assert_eq!(older.compare(Some(OWN), YOUNGER, beat(20, 7), now), Verdict::Disagrees { give_way: true });
        let mut younger = replica();
        assert_eq!(younger.compare(Some(OWN), OLDER, beat(20, 7), now), Verdict::Disagrees { give_way: false });
        assert!(younger.is_doubtful(), "nobody can tell which of two is right");
        let still = younger.compare(Some(OWN), OLDER, beat(20, 7), at(31, now));
        assert_eq!(still, Verdict::Disagrees { give_way: true });
    }

    #[test]
    fn one_that_was_replayed_has_the_other_give_way_when_they_still_disagree() {
        let now = Instant::now();
        let mut corrupt = replica();
        assert_eq!(corrupt.compare(Some(OWN), OLDER, beat(20, 7), now), Verdict::Disagrees { give_way: false });
        // The older one began anew: it is another producer now, and the younger of the two.
        corrupt.retain(|producer| producer != OLDER);
        let verdict = corrupt.compare(Some(OWN), YOUNGER, beat(20, 7), at(3, now));
        assert_eq!(verdict, Verdict::Disagrees { give_way: true });
    }

    #[test]
    fn agreement_that_returns_is_told() {
        let now = Instant::now();
        let mut replica = replica();
        replica.compare(Some(OWN), OLDER, beat(20, 7), now);
        assert_eq!(replica.compare(Some(OWN), YOUNGER, beat(20, 200), now), Verdict::Agrees { all: false });
        assert_eq!(replica.compare(Some(OWN), OLDER, beat(20, 200), now), Verdict::Agrees { all: true });
    }
}
