//! When may a node give up an entry that it held and cannot read any more? Pure.
//!
//! An entry E, damaged here, may have been acknowledged by this node. If a leader counted on that, E is
//! committed, and to forget it is to lose it. So E is cut only if it is certain that no leader has
//! counted, or can ever count, this node's copy.
//!
//! **The rule.** Let `b` be the newest term in which this node may have acknowledged E: the term of E, or
//! that of the node's own durable vote if the vote is a leader's (a node acknowledges only under such a
//! vote; a vote that is a mere promise to a candidate has acknowledged nothing in its term). A voter
//! *never had it* if its log lacks E while its durable vote is of a term above `b`. E may be cut if,
//! without those voters, some set of the voters in force at E has no majority left. Before the cut the
//! node makes the newest of their votes its own.
//!
//! **Why this is safe.** Assume that a leader L of term `t` has E committed, counting this node.
//! - If `t` > `b`: this node acknowledges nothing above `b` before it stores E anew. So L did not count it.
//! - If `t` <= `b`: E needs a majority of each set of voters in force at E (a later set takes over only
//!   through a joint one, whose entry lies above E and needs a majority of the older set too). So one of
//!   those who never had it, V, has acknowledged E in term `t`. V promised a term above `b` >= `t`
//!   since, so it did not do so after it gave its word. Then it did before, and E was taken from it by a
//!   leader M of a term above `t`, whose log lacks E. But every log of a leader above `t` holds what was
//!   committed in `t`. A contradiction; and V, bound by its promise, gives no more such acknowledgements.
//! - That it is V's *durable* vote and log that count is what makes both outlive V's own crash.
//! - The vote that this node stores keeps it from acknowledging anything to a leader up to `b` again, who
//!   might believe that it still has E.
//!
//! That the voter's term lies above E's alone would not do: E may have been sent again by a later leader,
//! still in office, who has this node's acknowledgement and lacks only V's.
//!
//! Of a hole of several positions the first one is judged; what follows cannot be committed without it.
//! The voters in force are those of the last membership below it: in the same log, by the chain.

use std::collections::BTreeSet;

use super::ask::Said;
use crate::segment::{Hole, LogId, Vote};

/// What is to be ruled on.
#[derive(Debug, Clone)]
pub struct Case {
    /// First position of the lowest hole.
    pub first: u64,
    /// The id there, where it is known.
    pub identity: Option<LogId>,
    /// The last id of the hole: no entry in it is of a later term.
    pub after: LogId,
    /// This node's own durable vote.
    pub vote: Option<Vote>,
    /// The voters in force at `first`: one set, or two while they change.
    pub voters: Vec<BTreeSet<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// Store this vote, then cut.
    Cut { vote: Vote },
    /// It may be committed.
    Wait,
}

impl Case {
    pub fn new(hole: &Hole, vote: Option<Vote>, voters: Vec<BTreeSet<u64>>) -> Case {
        let identity = hole.identities.as_ref().and_then(|ids| ids.first().copied());
        Case { first: hole.first, identity, after: hole.after, vote, voters }
    }

    pub fn rule(&self, said: &[Said]) -> Ruling {
        let bound = self.acknowledged_upto();
        let mut without = BTreeSet::new();
        let mut newest: Option<Vote> = None;
        for said in said {
            let Ok(word) = &said.word else { continue };
            let Some(vote) = word.vote.filter(|vote| vote.term > bound) else { continue };
            if word.first <= self.first && self.lacks(word) {
                without.insert(said.source.node);
                newest = newest.filter(|newest| newest.term >= vote.term).or(Some(vote));
            }
        }
        let blocked = |voters: &BTreeSet<u64>| {
            let left = voters.difference(&without).count();
            !voters.is_empty() && left * 2 <= voters.len()
        };
        match newest {
            // As a promise: whoever leads that term has to prove it to this node like to any other.
            Some(vote) if self.voters.iter().any(blocked) => Ruling::Cut { vote: Vote { committed: false, ..vote } },
            _ => Ruling::Wait,
        }
    }

    /// The newest term in which this node may have acknowledged anything.
    fn acknowledged_upto(&self) -> u64 {
        let own = match self.vote {
            Some(vote) if vote.committed => vote.term,
            Some(vote) => vote.term.saturating_sub(1),
            None => 0,
        };
        own.max(self.after.term)
    }

    fn lacks(&self, word: &super::Answer) -> bool {
        if word.last.is_none_or(|last| last.position < self.first) {
            return true;
        }
        let there = word.entries.iter().map(|entry| entry.id).find(|id| id.position == self.first);
        match (there, self.identity) {
            (Some(there), Some(own)) => there != own,
            (Some(there), None) => there.term > self.after.term,
            // Damaged there too, or left out.
            (None, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Answer;
    use super::super::ask::Source;
    use super::*;
    use crate::segment::{Kind, LogEntry};

    fn case(voters: &[&[u64]]) -> Case {
        Case {
            first: 10,
            identity: Some(LogId::new(5, 10)),
            after: LogId::new(5, 12),
            vote: Some(Vote { term: 5, node: 1, committed: true }),
            voters: voters.iter().map(|set| set.iter().copied().collect()).collect(),
        }
    }

    fn said(node: u64, vote_term: u64, last: LogId) -> Said {
        let vote = Some(Vote { term: vote_term, node, committed: true });
        let entries = match last.position {
            10.. => vec![LogEntry::new(LogId::new(last.term, 10), Kind::Entry, "x")],
            _ => Vec::new(),
        };
        let source = Source { node, name: format!("n{node}"), address: String::new() };
        Said { source, word: Ok(Answer { entries, vote, last: Some(last), ..Answer::default() }) }
    }

    fn cut(node: u64, term: u64) -> Ruling {
        Ruling::Cut { vote: Vote { term, node, committed: false } }
    }

    const THREE: &[&[u64]] = &[&[1, 2, 3]];

    #[test]
    fn two_of_three_that_never_had_it_are_enough_and_one_is_not() {
        let shorter = LogId::new(5, 9);
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter), said(3, 7, shorter)]), cut(3, 7));
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter)]), Ruling::Wait);
        assert_eq!(case(THREE).rule(&[]), Ruling::Wait);
    }

    #[test]
    fn a_voter_of_the_entrys_own_term_may_still_be_given_it() {
        let shorter = LogId::new(5, 9);
        assert_eq!(case(THREE).rule(&[said(2, 5, shorter), said(3, 7, shorter)]), Ruling::Wait);
    }

    #[test]
    fn a_voter_that_may_still_serve_a_leader_whom_this_node_served_does_not_count() {
        let shorter = LogId::new(4, 9);
        let mut case = case(THREE);
        // The entry is of term 5, and a leader of term 8 may have had it acknowledged once more.
        case.vote = Some(Vote { term: 8, node: 2, committed: true });
        assert_eq!(case.rule(&[said(2, 8, shorter), said(3, 8, shorter)]), Ruling::Wait);
        assert_eq!(case.rule(&[said(2, 9, shorter), said(3, 9, shorter)]), cut(2, 9));
        // A promise has acknowledged nothing.
        case.vote = Some(Vote { term: 8, node: 1, committed: false });
        assert_eq!(case.rule(&[said(2, 8, shorter), said(3, 8, shorter)]), cut(2, 8));
        assert_eq!(case.rule(&[said(2, 7, shorter), said(3, 8, shorter)]), Ruling::Wait);
    }

    #[test]
    fn whoever_has_something_else_there_lacks_it_and_whoever_cannot_tell_does_not() {
        let (shorter, other) = (LogId::new(5, 9), LogId::new(6, 20));
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter), said(3, 6, other)]), cut(2, 6));
        let same = LogId::new(5, 20);
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter), said(3, 6, same)]), Ruling::Wait);
        let mut damaged = said(3, 6, other);
        damaged.word = damaged.word.map(|word| Answer { entries: Vec::new(), damaged: vec![10], ..word });
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter), damaged]), Ruling::Wait);
        let mut trimmed = said(3, 6, other);
        trimmed.word = trimmed.word.map(|word| Answer { first: 15, ..word });
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter), trimmed]), Ruling::Wait);
    }

    #[test]
    fn an_unknown_id_is_lacked_only_by_logs_that_hold_a_later_term_there() {
        let mut case = case(THREE);
        case.identity = None;
        assert_eq!(case.rule(&[said(2, 7, LogId::new(5, 9)), said(3, 7, LogId::new(6, 10))]), cut(2, 7));
        assert_eq!(case.rule(&[said(2, 7, LogId::new(5, 9)), said(3, 7, LogId::new(4, 10))]), Ruling::Wait);
    }

    #[test]
    fn while_voters_change_one_set_without_a_majority_is_enough() {
        let shorter = LogId::new(5, 9);
        let joint: &[&[u64]] = &[&[1, 2, 3], &[1, 4, 5]];
        assert_eq!(case(joint).rule(&[said(4, 6, shorter), said(5, 6, shorter)]), cut(4, 6));
        assert_eq!(case(joint).rule(&[said(2, 6, shorter), said(4, 6, shorter)]), Ruling::Wait);
    }

    #[test]
    fn those_who_have_no_vote_do_not_count() {
        let shorter = LogId::new(5, 9);
        assert_eq!(case(THREE).rule(&[said(2, 6, shorter), said(9, 6, shorter)]), Ruling::Wait);
        assert_eq!(case(&[]).rule(&[said(2, 6, shorter), said(3, 6, shorter)]), Ruling::Wait);
    }
}
