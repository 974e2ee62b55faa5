//! Holds what clients were told against what the journal finally holds.
//!
//! - committed: there exactly once, at the position that was answered;
//! - rejected: not there;
//! - unknown: there at most once;
//! - an append that was answered before another was called has the lower position;
//! - entries that one appender called one after the other are in that order;
//! - a linearizable tail is above everything acknowledged before it was asked for, and not below any
//!   that was answered before;
//! - positions rise, and nothing is there that nobody sent, or that is not as it was sent.

use std::collections::BTreeMap;
use std::fmt;

use proto::Position;

use crate::history::{Counts, History, Mark, Outcome};

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, and not where it should be.
    Lost {
        mark: Mark,
        position: Position,
        found: Option<Position>,
    },
    Twice {
        mark: Mark,
        positions: Vec<Position>,
    },
    RejectedIsThere {
        mark: Mark,
        position: Position,
        why: String,
    },
    /// Called after something with a higher position was acknowledged.
    BeforeItsTime {
        mark: Mark,
        position: Position,
        acknowledged: Position,
    },
    OutOfOrder {
        mark: Mark,
        position: Position,
        behind: Mark,
        at: Position,
    },
    StaleTail {
        tail: Position,
        acknowledged: Position,
    },
    TailFalls {
        tail: Position,
        before: Position,
    },
    PositionsFall {
        position: Position,
        after: Position,
    },
    Altered {
        position: Position,
    },
    NobodySent {
        mark: Mark,
        position: Position,
    },
}

/// What was compared, if nothing was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub told: Counts,
    /// Of the unknown ones, those that got in.
    pub unknown_there: usize,
    pub entries: usize,
}

/// At most so many violations are listed: one is enough to fail, a few help to see a pattern.
const LISTED_MAX: usize = 20;

/// `entries`: everything the journal holds, as read from its start to its linearizable tail after the
/// last append of the history was answered.
pub fn check(history: &History, entries: &[(Position, impl AsRef<[u8]>)]) -> Result<Verdict, Vec<Violation>> {
    check_from(history, Position::NONE, entries)
}

/// The same of a journal that was trimmed below `start`: what was acknowledged below it may be gone.
pub fn check_from(
    history: &History,
    start: Position,
    entries: &[(Position, impl AsRef<[u8]>)],
) -> Result<Verdict, Vec<Violation>> {
    let mut violations = Vec::new();
    let places = places(entries, &mut violations);
    let mut unknown_there = 0;

    let sent: BTreeMap<Mark, &Outcome> = history.appends.iter().map(|append| (append.mark, &append.outcome)).collect();
    for (mark, positions) in &places {
        if positions.len() > 1 {
            violations.push(Violation::Twice { mark: *mark, positions: positions.clone() });
        }
        if !sent.contains_key(mark) {
            violations.push(Violation::NobodySent { mark: *mark, position: positions[0] });
        }
    }
    for (mark, outcome) in &sent {
        let found = places.get(mark).map(|positions| positions[0]);
        match (outcome, found) {
            (Outcome::Committed(position), None) if *position < start => {}
            (Outcome::Committed(position), found) if found != Some(*position) => {
                violations.push(Violation::Lost { mark: *mark, position: *position, found });
            }
            (Outcome::Rejected(why), Some(position)) => {
                violations.push(Violation::RejectedIsThere { mark: *mark, position, why: why.clone() });
            }
            (Outcome::Unknown(_), Some(_)) => unknown_there += 1,
            _ => {}
        }
    }
    check_times(history, &places, &mut violations);
    check_tails(history, &mut violations);
    check_order(history, &mut violations);

    match violations.is_empty() {
        true => Ok(Verdict { told: history.counts(), unknown_there, entries: entries.len() }),
        false => {
            violations.truncate(LISTED_MAX);
            Err(violations)
        }
    }
}

/// Where each mark lies, in the order of the journal.
fn places(entries: &[(Position, impl AsRef<[u8]>)], violations: &mut Vec<Violation>) -> BTreeMap<Mark, Vec<Position>> {
    let mut places: BTreeMap<Mark, Vec<Position>> = BTreeMap::new();
    let mut last = Position::NONE;
    for (position, payload) in entries {
        if *position <= last {
            violations.push(Violation::PositionsFall { position: *position, after: last });
        }
        last = *position;
        match Mark::of(payload.as_ref()) {
            Some(mark) => places.entry(mark).or_default().push(*position),
            None => violations.push(Violation::Altered { position: *position }),
        }
    }
    places
}

/// Real time: walks through calls and acknowledgements in their order.
fn check_times(history: &History, places: &BTreeMap<Mark, Vec<Position>>, violations: &mut Vec<Violation>) {
    let mut acknowledged: Vec<_> = history
        .appends
        .iter()
        .filter_map(|append| match append.outcome {
            Outcome::Committed(position) => Some((append.answered, position)),
            Outcome::Rejected(_) | Outcome::Unknown(_) => None,
        })
        .collect();
    acknowledged.sort();
    // The highest position acknowledged up to each of these times.
    let mut highest = Position::NONE;
    let highest: Vec<_> = acknowledged
        .iter()
        .map(|(at, position)| {
            highest = highest.max(*position);
            (*at, highest)
        })
        .collect();
    let before = |at| match highest.partition_point(|(answered, _)| *answered < at) {
        0 => Position::NONE,
        n => highest[n - 1].1,
    };

    for append in &history.appends {
        let acknowledged = before(append.called);
        for position in places.get(&append.mark).into_iter().flatten().filter(|at| **at <= acknowledged) {
            violations.push(Violation::BeforeItsTime { mark: append.mark, position: *position, acknowledged });
        }
    }
    for check in &history.tail_checks {
        let acknowledged = before(check.called);
        if check.tail <= acknowledged {
            violations.push(Violation::StaleTail { tail: check.tail, acknowledged });
        }
    }
}

/// A tail that was answered before another one was asked for is not above it.
fn check_tails(history: &History, violations: &mut Vec<Violation>) {
    let mut checks = history.tail_checks.clone();
    checks.sort_by_key(|check| check.answered);
    let mut highest = Position::NONE;
    let answered: Vec<_> = checks
        .iter()
        .map(|check| {
            highest = highest.max(check.tail);
            (check.answered, highest)
        })
        .collect();
    for check in &checks {
        let earlier = answered.partition_point(|(at, _)| *at < check.called);
        if let Some((_, before)) = answered[..earlier].last()
            && check.tail < *before
        {
            violations.push(Violation::TailFalls { tail: check.tail, before: *before });
        }
    }
}

/// Acknowledged entries of one appender lie in the order of its numbers.
fn check_order(history: &History, violations: &mut Vec<Violation>) {
    let acknowledged: BTreeMap<Mark, Position> = history
        .appends
        .iter()
        .filter_map(|append| match append.outcome {
            Outcome::Committed(position) => Some((append.mark, position)),
            Outcome::Rejected(_) | Outcome::Unknown(_) => None,
        })
        .collect();
    let mut last: Option<(Mark, Position)> = None;
    for (mark, position) in acknowledged {
        if let Some((behind, at)) = last
            && behind.appender == mark.appender
            && position <= at
        {
            violations.push(Violation::OutOfOrder { mark, position, behind, at });
        }
        last = Some((mark, position));
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} committed, {} rejected, {} unknown of which {} are there; {} entries compared, none wrong",
            self.told.committed, self.told.rejected, self.told.unknown, self.unknown_there, self.entries
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Append, TailCheck};
    use bytes::Bytes;
    use tokio::time::{Duration, Instant};

    /// A story in milliseconds: who, which number, called, answered, told.
    struct Story {
        begun: Instant,
        history: History,
        entries: Vec<(Position, Bytes)>,
    }

    const COMMITTED: fn(u64) -> Outcome = |position| Outcome::Committed(Position(position));
    const UNKNOWN: fn() -> Outcome = || Outcome::Unknown("lost".into());

    impl Story {
        fn new() -> Story {
            Story { begun: Instant::now(), history: History::default(), entries: Vec::new() }
        }

        fn told(mut self, (appender, number): (u32, u64), (called, answered): (u64, u64), outcome: Outcome) -> Story {
            let at = |ms| self.begun + Duration::from_millis(ms);
            let mark = Mark { appender, number };
            self.history.appends.push(Append { mark, called: at(called), answered: at(answered), outcome });
            self
        }

        fn holds(mut self, position: u64, appender: u32, number: u64) -> Story {
            self.entries.push((Position(position), Mark { appender, number }.payload(64)));
            self
        }

        fn tail(mut self, called: u64, tail: u64) -> Story {
            let called = self.begun + Duration::from_millis(called);
            self.history.tail_checks.push(TailCheck { called, answered: called, tail: Position(tail) });
            self
        }

        fn verdict(&self) -> Result<Verdict, Vec<Violation>> {
            check(&self.history, &self.entries)
        }

        fn only_violation(&self) -> Violation {
            let violations = self.verdict().unwrap_err();
            assert_eq!(violations.len(), 1, "{violations:?}");
            violations[0].clone()
        }
    }

    #[test]
    fn an_honest_history_passes() {
        let story = Story::new()
            .told((1, 0), (0, 10), COMMITTED(3))
            .told((2, 0), (5, 15), COMMITTED(2))
            .told((1, 1), (20, 30), Outcome::Rejected("full".into()))
            .told((1, 2), (40, 50), UNKNOWN())
            .told((2, 1), (41, 51), UNKNOWN())
            .tail(60, 4)
            .holds(2, 2, 0)
            .holds(3, 1, 0)
            .holds(7, 1, 2);
        let verdict = story.verdict().unwrap();
        assert_eq!(verdict.told, Counts { committed: 2, rejected: 1, unknown: 2 });
        assert_eq!(verdict.unknown_there, 1);
    }

    #[test]
    fn an_acknowledged_entry_that_is_gone_or_elsewhere_is_lost() {
        let gone = Story::new().told((1, 0), (0, 1), COMMITTED(3));
        assert!(matches!(gone.only_violation(), Violation::Lost { found: None, .. }));
        let moved = Story::new().told((1, 0), (0, 1), COMMITTED(3)).holds(4, 1, 0);
        assert!(matches!(moved.only_violation(), Violation::Lost { found: Some(Position(4)), .. }));
    }

    #[test]
    fn a_rejected_entry_must_not_be_there() {
        let story = Story::new().told((1, 0), (0, 1), Outcome::Rejected("full".into())).holds(3, 1, 0);
        assert!(matches!(story.only_violation(), Violation::RejectedIsThere { .. }));
    }

    #[test]
    fn nothing_is_there_twice_whatever_was_told() {
        let story = Story::new().told((1, 0), (0, 1), UNKNOWN()).holds(3, 1, 0).holds(4, 1, 0);
        assert!(matches!(story.only_violation(), Violation::Twice { .. }));
    }

    #[test]
    fn what_nobody_sent_or_what_was_altered_is_found() {
        assert!(matches!(Story::new().holds(3, 9, 9).only_violation(), Violation::NobodySent { .. }));
        let mut story = Story::new().told((1, 0), (0, 1), UNKNOWN());
        story.entries.push((Position(3), Bytes::from_static(b"mark and then something else")));
        assert!(matches!(story.only_violation(), Violation::Altered { position: Position(3) }));
    }

    #[test]
    fn an_append_called_after_an_acknowledgement_lies_behind_it() {
        let story = Story::new()
            .told((1, 0), (0, 10), COMMITTED(5))
            .told((2, 0), (20, 30), UNKNOWN())
            .holds(4, 2, 0)
            .holds(5, 1, 0);
        assert!(matches!(story.only_violation(), Violation::BeforeItsTime { acknowledged: Position(5), .. }));
    }

    #[test]
    fn one_appenders_entries_keep_the_order_of_its_calls() {
        // Both under way at once: real time says nothing, the appender's own order does.
        let story = Story::new()
            .told((1, 0), (0, 10), COMMITTED(5))
            .told((1, 1), (1, 10), COMMITTED(4))
            .holds(4, 1, 1)
            .holds(5, 1, 0);
        assert!(matches!(story.only_violation(), Violation::OutOfOrder { .. }));
    }

    #[test]
    fn a_linearizable_tail_is_above_what_was_acknowledged_before() {
        let story = Story::new().told((1, 0), (0, 10), COMMITTED(5)).tail(11, 5).holds(5, 1, 0);
        assert!(matches!(story.only_violation(), Violation::StaleTail { .. }));
    }

    #[test]
    fn a_linearizable_tail_does_not_fall() {
        let story = Story::new().tail(10, 5).tail(11, 4);
        assert_eq!(story.only_violation(), Violation::TailFalls { tail: Position(4), before: Position(5) });
        assert!(Story::new().tail(10, 5).tail(10, 4).verdict().is_ok(), "at the same time nothing was before");
    }

    #[test]
    fn what_was_trimmed_may_be_gone_and_nothing_else() {
        let story = Story::new().told((1, 0), (0, 1), COMMITTED(3)).told((1, 1), (2, 3), COMMITTED(4));
        let story = story.holds(4, 1, 1);
        assert!(check_from(&story.history, Position(4), &story.entries).is_ok());
        assert!(check_from(&story.history, Position(3), &story.entries).is_err());
    }

    #[test]
    fn positions_rise() {
        let story = Story::new()
            .told((1, 0), (0, 10), UNKNOWN())
            .told((2, 0), (0, 10), UNKNOWN())
            .holds(5, 1, 0)
            .holds(4, 2, 0);
        assert!(matches!(story.only_violation(), Violation::PositionsFall { .. }));
    }
}
